"""What a demo needs is found out before anything is computed."""

from __future__ import annotations

import warnings

import pytest

import kpframe.study._study_file.reading
from kpframe.cli import _app as app
from kpframe.plugin import ModelSpec, PluginManager, PluginWarning, RuleSpec, TaskSpec, hookimpl


class Others:
    """All that the demo names, from elsewhere."""

    @hookimpl
    def kpframe_models(self):
        yield ModelSpec("gru", "a:b")
        yield ModelSpec("rnn", "a:b")

    @hookimpl
    def kpframe_rules(self):
        yield RuleSpec("truncated_bptt", "a:b")
        yield RuleSpec("frozen", "a:b")

    @hookimpl
    def kpframe_tasks(self):
        yield TaskSpec("digits", "a:b")


@pytest.fixture
def demo(monkeypatch, capsys, tmp_path):
    """A function that runs the demo with a manager and returns (exit code, errors)."""

    def call(manager):
        monkeypatch.setattr(kpframe.study._study_file.reading, "get_manager", lambda: manager)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PluginWarning)
            code = app.run(["demo", "--quick", "--output", str(tmp_path / "out")])
        captured = capsys.readouterr()
        assert captured.out == ""
        assert not (tmp_path / "out").exists()
        return code, captured.err

    return call


def test_without_a_plugin_it_names_what_to_install(demo):
    names = "kpframe-gru, kpframe-rnn, kpframe-rules, kpframe-tasks"
    assert demo(PluginManager(lambda: (), {})) == (
        2,
        f"Error: no task 'digits': this study needs {names}, not installed here: "
        f"pip install {names.replace(',', '')}\n",
    )


def test_without_the_tasks_it_names_their_package(demo, fake):
    without = [fake(f"kpframe-{name}", "raise ValueError") for name in ("gru", "rnn", "rules")]
    code, err = demo(PluginManager(lambda: without, {}))
    assert (code, err.splitlines()[-1]) == (
        2,
        "Error: no task 'digits': this study needs kpframe-tasks, not installed here: "
        "pip install kpframe-tasks",
    )


def test_what_is_there_and_disabled_or_broken_is_said(demo, fake):
    points = [fake(f"kpframe-{name}", "raise ValueError") for name in ("gru", "rnn", "rules", "tasks")]
    code, err = demo(PluginManager(lambda: points, {"KPFRAME_DISABLE_PLUGINS": "kpframe-tasks"}))
    assert code == 2
    assert "this study needs" not in err
    assert "kpframe-tasks (disabled)" in err
    assert "kpframe-gru (broken)" in err


def test_the_same_names_from_elsewhere_are_enough():
    from kpframe.study._study_file.reading import bundled_study

    manager = PluginManager(lambda: (), {})
    manager.register(Others(), distribution="kpf-others")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(kpframe.study._study_file.reading, "get_manager", lambda: manager)
        for quick in (False, True):
            kpframe.study._study_file.reading.check_plugins(bundled_study("demo", quick=quick))
