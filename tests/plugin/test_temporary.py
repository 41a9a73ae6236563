"""Plugins for the length of a ``with`` block."""

from __future__ import annotations

import sys
import types
import warnings

import pytest

import kpframe.plugin
from kpframe.errors import PluginError, UnknownNameError
from kpframe.plugin import ModelSpec, PluginManager, PluginWarning, hookimpl, temporary


class Offers:
    def __init__(self, *names):
        self.names = names

    @hookimpl
    def kpframe_models(self):
        for name in self.names:
            yield ModelSpec(name, "kpf_temporary:build")


@pytest.fixture(autouse=True)
def factory(monkeypatch):
    module = types.ModuleType("kpf_temporary")
    module.build = lambda: "built"
    monkeypatch.setitem(sys.modules, "kpf_temporary", module)


@pytest.fixture
def manager(fake, good):
    return PluginManager(lambda: [fake("kpf-good", good)], {})


def state(manager):
    return manager.plugins, manager.problems


def test_it_is_there_inside_and_gone_outside(manager):
    before = state(manager)
    with temporary(Offers("mine"), distribution="kpf-mine", version="1.2", manager=manager) as info:
        assert (info.distribution, info.version, info.status) == ("kpf-mine", "1.2", "loaded")
        assert manager.create("model", "mine", {}) == "built"
        assert manager.create("model", "kpf-mine:mine", {}) == "built"
        assert manager.find("model", "good_model").name == "good_model"
    assert state(manager) == before
    with pytest.raises(UnknownNameError, match="no model 'mine'"):
        manager.find("model", "mine")


def test_it_goes_on_an_exception(manager):
    before = state(manager)
    with pytest.raises(ZeroDivisionError), temporary(Offers("mine"), manager=manager):
        raise ZeroDivisionError
    assert state(manager) == before


def test_blocks_nest_and_what_is_registered_inside_stays(manager):
    manager.load()
    with temporary(Offers("one"), manager=manager):
        with temporary(Offers("two"), distribution="kpf-two", manager=manager):
            assert {"one", "two"} <= {spec.name for spec in manager.specs("model")}
            manager.register(Offers("stays"), distribution="kpf-stays")
        assert {spec.name for spec in manager.specs("model")} == {"good_model", "one", "stays"}
    assert [info.distribution for info in manager.plugins] == ["kpf-good", "kpf-stays"]
    with temporary(Offers("one"), manager=manager), temporary(Offers("two"), manager=manager) as info:
        assert info.distribution == "temporary"
        assert {"one", "two"} <= {spec.name for spec in manager.specs("model")}


def test_blocks_may_end_in_any_order(manager):
    first = temporary(Offers("one"), manager=manager)
    second = temporary(Offers("two"), distribution="kpf-two", manager=manager)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert {spec.name for spec in manager.specs("model")} == {"good_model", "two"}
    second.__exit__(None, None, None)
    assert {spec.name for spec in manager.specs("model")} == {"good_model"}


def test_a_clash_warns_inside_and_is_forgotten_outside(manager):
    block = temporary(Offers("good_model"), manager=manager)
    with pytest.warns(PluginWarning, match="the bare name is refused"):
        block.__enter__()
    assert len(manager.problems) == 1
    with pytest.raises(UnknownNameError, match="write one of"):
        manager.find("model", "good_model")
    assert manager.create("model", "temporary:good_model", {}) == "built"
    block.__exit__(None, None, None)
    assert manager.problems == []
    assert manager.find("model", "good_model").factory == "kpf_good:build"


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (object(), r"plugin temporary 0 \(hooks\): no function is marked with @hookimpl"),
        (Offers("Bad Name"), "ModelSpec.name: expected lower-case letters"),
        (Offers("same", "same"), "it offers the model 'same' twice"),
    ],
)
def test_a_broken_plugin_is_an_error_at_once_and_leaves_nothing(manager, plugin, message):
    before = state(manager)
    with (
        warnings.catch_warnings(),
        pytest.raises(PluginError, match=message),
        temporary(plugin, manager=manager),
    ):
        raise AssertionError("the block runs")
    assert state(manager) == before


def test_a_strict_manager_is_left_as_it_was(fake, good):
    manager = PluginManager(lambda: [fake("kpf-good", good)], {"KPFRAME_STRICT_PLUGINS": "1"})
    before = state(manager)
    for names in (("good_model",), ("Bad Name",)):
        with pytest.raises(PluginError), temporary(Offers(*names), manager=manager):
            raise AssertionError("the block runs")
        assert state(manager) == before


@pytest.mark.slow
def test_the_environments_manager_is_the_default(site):
    code = """
        import kpframe.plugin
        from kpframe import create_model
        from kpframe.errors import UnknownNameError
        from kpframe.plugin import ModelSpec, hookimpl
        from kpframe.testing._toys import Plain

        class Mine:
            @hookimpl
            def kpframe_models(self):
                yield ModelSpec("mine", "__main__:build")

        def build():
            return Plain(1, 2)

        with kpframe.plugin.temporary(Mine()):
            print(type(create_model("mine")).__name__)
        try:
            create_model("mine")
        except UnknownNameError:
            print("gone")
    """
    done = site.python(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Plain\ngone\n", "")


def test_it_is_documented():
    assert kpframe.plugin.temporary.__doc__
    assert "temporary" in kpframe.plugin.__all__
