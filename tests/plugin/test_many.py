"""A thousand plugins: answers stay short, and take no longer than they must."""

from __future__ import annotations

import time
import warnings

import pytest

from kpframe.errors import UnknownNameError
from kpframe.plugin import ModelSpec, PluginManager, PluginWarning, hookimpl

COUNT = 1000


class Plugin:
    def __init__(self, *names):
        self.names = names

    @hookimpl
    def kpframe_models(self):
        for name in self.names:
            yield ModelSpec(name, "a:b")


class Point:
    group = "kpframe"

    def __init__(self, distribution, plugin):
        self.name = distribution
        self.value = distribution.replace("-", "_")
        self.dist = self
        self.metadata = {"Name": distribution, "Version": "1.0"}
        self.load = lambda: plugin


def many(*names, **environ):
    """Return a manager of a thousand plugins that offer these names, formatted with their number."""
    points = [
        Point(f"kpf-plugin{number}", Plugin(*(name.format(number) for name in names)))
        for number in range(COUNT)
    ]
    return PluginManager(lambda: points, environ)


@pytest.mark.slow
def test_an_unknown_name_gets_a_short_answer():
    manager = many("network_number{}", "another{}")
    started = time.perf_counter()
    assert len(manager.specs("model")) == 2 * COUNT
    with pytest.raises(UnknownNameError) as caught:
        manager.find("model", "netwrok_number77")
    assert time.perf_counter() - started < 30
    text = str(caught.value)
    assert len(text) < 300
    assert text.startswith(
        "no model 'netwrok_number77'; did you mean 'network_number77'? (or 'network_number"
    )
    assert text.endswith(f"; 'kpframe plugins' lists all {2 * COUNT}")
    with pytest.raises(UnknownNameError) as caught:
        manager.find("model", "x" * 10**5)
    assert len(str(caught.value)) < 500
    with pytest.raises(UnknownNameError) as caught:
        manager.find("model", "kpf-plugin7:nothing")
    assert len(str(caught.value)) < 500
    assert "kpf-plugin7:" in str(caught.value)


def test_plugins_that_are_left_out_are_counted():
    manager = many("network{}", KPFRAME_PLUGINS="kpf-plugin3")
    with pytest.raises(UnknownNameError) as caught:
        manager.find("model", "nothing")
    text = str(caught.value)
    assert text.startswith(f"no model 'nothing'; there is network3; without {COUNT - 1}, such as kpf-")
    assert len(text) < 300


@pytest.mark.slow
def test_one_name_of_a_thousand_gets_a_short_answer_and_a_problem_each():
    manager = many("network")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PluginWarning)
        manager.load()
    assert len(manager.problems) == COUNT - 1
    assert manager.problems[0].message.endswith("offers 'network' too; the bare name is refused")
    assert f"kpf-plugin0 1.0 and {COUNT - 2} more offer 'network' too" in manager.problems[-1].message
    with pytest.raises(UnknownNameError) as caught:
        manager.find("model", "network")
    assert str(caught.value).startswith(f"'network' names {COUNT} things: write one of {COUNT}, such as ")
    assert len(str(caught.value)) < 300
    assert manager.find("model", "kpf-plugin500:network").name == "network"
