from __future__ import annotations

import sys
import types
import warnings

import pytest

from kpframe.errors import ArgumentError, PluginError, SettingsError, UnknownNameError
from kpframe.plugin import PluginManager, PluginWarning, get_manager

CLASH = """
    from kpframe.plugin import ModelSpec, RuleSpec, hookimpl

    @hookimpl
    def kpframe_models():
        return [ModelSpec("good_model", "kpf_clash:other"), ModelSpec("only_here", "kpf_clash:other")]
"""
RULE = """
    from kpframe.plugin import RuleSpec, hookimpl

    @hookimpl
    def kpframe_rules():
        yield RuleSpec("good_model", "kpf_rule:rule")
"""


def manager_of(*entry_points, **environ):
    return PluginManager(lambda: entry_points, environ)


def quiet(manager):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PluginWarning)
        manager.load()
    return manager


@pytest.fixture
def factories(monkeypatch):
    """The modules that the factory strings of the fakes name."""

    def put(name, **attributes):
        module = types.ModuleType(name)
        module.__dict__.update(attributes)
        monkeypatch.setitem(sys.modules, name, module)

    put("kpf_good", build=lambda size, dt: ("good", size, dt))
    put("kpf_clash", other=lambda: "clash")
    return put


def test_a_good_plugin_is_loaded_and_creates(fake, good, factories):
    manager = manager_of(fake("kpf-good", good, "1.2"))
    (info,) = manager.plugins
    assert (info.distribution, info.version, info.status) == ("kpf-good", "1.2", "loaded")
    assert info.summary == "summary of kpf-good"
    assert info.entry_point == "kpf_good"
    assert [spec.name for spec in manager.specs("model")] == ["good_model"]
    assert manager.specs("rule") == []
    assert manager.problems == []
    assert manager.create("model", "good_model", {"size": 3}) == ("good", 3, 0.5)
    assert manager.create("model", "good_model", {"size": 4}) == ("good", 4, 0.5)
    assert manager.plugin_of(manager.find("model", "good_model")) is info


def test_settings_are_checked_before_the_factory_is_loaded(fake, good):
    manager = manager_of(fake("kpf-good", good))
    with pytest.raises(SettingsError) as caught:
        manager.create("model", "good_model", {"sise": 3, "dt": -1})
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("model 'good_model': sise: expected one of its settings (size, dt)")
    assert "kpf_good" not in sys.modules


def test_each_broken_plugin_is_left_out_alone(broken, fake, good, factories):
    source, stage, message = broken
    manager = manager_of(fake("kpf-bad", source, "6.7"), fake("kpf-good", good))
    with pytest.warns(PluginWarning, match=r"plugin kpf-bad 6\.7") as caught:
        manager.load()
    assert len(caught) == 1
    (problem,) = manager.problems
    assert (problem.distribution, problem.version, problem.stage) == ("kpf-bad", "6.7", stage)
    assert message in problem.message
    assert "\n" not in str(problem)
    upgraded = "kpframe" if "for api 2" in message else "kpf-bad"
    assert f"pip install --upgrade {upgraded}," in problem.fix
    assert "pip uninstall kpf-bad" in problem.fix
    assert problem.fix.endswith("KPFRAME_DISABLE_PLUGINS=kpf-bad")
    assert {info.distribution: info.status for info in manager.plugins} == {
        "kpf-bad": "broken",
        "kpf-good": "loaded",
    }
    assert manager.specs("rule") == []
    assert manager.create("model", "good_model", {"size": 3}) == ("good", 3, 0.5)
    with pytest.raises(UnknownNameError, match=r"without kpf-bad \(broken\)"):
        manager.find("rule", "bad")


@pytest.mark.rows(4)
def test_strict_raises_at_each_broken_plugin(broken, fake, good):
    source, _, message = broken
    manager = manager_of(fake("a-good", good), fake("kpf-bad", source), KPFRAME_STRICT_PLUGINS="1")
    for _ in range(2):  # asking again meets the same error, not a half-loaded manager
        with pytest.raises(PluginError) as caught:
            manager.specs("model")
        assert message in str(caught.value)
    lenient = quiet(manager_of(fake("kpf-bad", source), KPFRAME_STRICT_PLUGINS="0"))
    assert len(lenient.problems) == 1


def test_warnings_come_once(fake):
    manager = manager_of(fake("kpf-bad", "import no_such_module_anywhere"))
    with pytest.warns(PluginWarning):
        manager.load()
    assert len(manager.problems) == 1  # an error if it warned again


def test_a_misspelt_hook_says_the_nearest(fake):
    source = "from kpframe.plugin import hookimpl\n@hookimpl\ndef kpframe_taks(): yield 1"
    (problem,) = quiet(manager_of(fake("kpf-bad", source))).problems
    assert problem.message.endswith("did you mean 'kpframe_tasks'?")


def test_a_clash_refuses_the_bare_name_and_nothing_else(fake, good, factories):
    manager = manager_of(fake("kpf-good", good), fake("kpf-clash", CLASH))
    with pytest.warns(PluginWarning, match="bare name is refused"):
        manager.load()
    (problem,) = manager.problems
    assert problem.stage == "clash"
    assert "write 'kpf-good:good_model' or 'kpf-clash:good_model'" in problem.fix
    assert [info.status for info in manager.plugins] == ["loaded", "loaded"]
    with pytest.raises(UnknownNameError, match="kpf-clash:good_model, kpf-good:good_model"):
        manager.find("model", "good_model")
    assert manager.create("model", "kpf-good:good_model", {"size": 1}) == ("good", 1, 0.5)
    assert manager.create("model", "kpf_Clash:good_model", {}) == "clash"  # names compare as pip's do
    assert manager.create("model", "only_here", {}) == "clash"
    with pytest.raises(PluginError, match="bare name is refused"):
        manager_of(fake("kpf-good", good), fake("kpf-clash", CLASH), KPFRAME_STRICT_PLUGINS="1").load()


def test_one_name_in_two_kinds_is_no_clash(fake, good):
    manager = manager_of(fake("kpf-good", good), fake("kpf-rule", RULE))
    assert manager.problems == []
    assert manager.find("model", "good_model").kind == "model"
    assert manager.find("rule", "good_model").kind == "rule"
    with pytest.raises(UnknownNameError, match="model:good_model, rule:good_model"):
        manager.find(None, "good_model")
    assert manager.find(None, "kpf-rule:good_model").kind == "rule"


def test_one_distribution_with_one_name_in_two_modules(fake, good):
    manager = quiet(manager_of(fake("kpf-good", good), fake("kpf-good", good)))
    assert [info.status for info in manager.plugins] == ["loaded", "broken"]
    assert manager.problems[0].message == "it offers the model 'good_model' twice"
    assert manager.find("model", "kpf-good:good_model").name == "good_model"


def test_unknown_names_say_what_there_is(fake, good):
    manager = manager_of(fake("kpf-good", good), fake("kpf-clash", CLASH), KPFRAME_DISABLE_PLUGINS="kpf-good")
    with pytest.raises(UnknownNameError) as caught:
        manager.find("model", "god_model")
    assert str(caught.value) == (
        "no model 'god_model'; did you mean 'good_model'?; there is also only_here"
        "; without kpf-good (disabled)"
    )
    with pytest.raises(
        UnknownNameError, match=r"did you mean 'kpf-clash:good_model'.*there is also kpf-clash:only_here"
    ):
        manager.find("model", "kpf-good:good_model")
    with pytest.raises(ArgumentError, match=r"kind: expected one of model, .*did you mean 'model'"):
        manager.find("modle", "good_model")
    with pytest.raises(ArgumentError, match="name: expected a string, got 3"):
        manager.find("model", 3)


def test_no_plugin_says_how_to_install_some():
    manager = manager_of()
    assert manager.plugins == []
    with pytest.raises(
        UnknownNameError, match="pip install a distribution with the entry-point group 'kpframe'"
    ):
        manager.find("model", "gru")


@pytest.mark.parametrize(
    ("environ", "loaded"),
    [
        ({}, ["kpf-clash", "kpf-good"]),
        ({"KPFRAME_DISABLE_PLUGINS": ""}, ["kpf-clash", "kpf-good"]),
        ({"KPFRAME_DISABLE_PLUGINS": " other, KPF_good,"}, ["kpf-clash"]),
        ({"KPFRAME_PLUGINS": ""}, []),
        ({"KPFRAME_PLUGINS": "kpf.good"}, ["kpf-good"]),
        ({"KPFRAME_PLUGINS": "kpf-good, kpf-clash", "KPFRAME_DISABLE_PLUGINS": "kpf-good"}, ["kpf-clash"]),
    ],
)
def test_environment_chooses(environ, loaded, fake, good):
    manager = quiet(manager_of(fake("kpf-good", good), fake("kpf-clash", CLASH), **environ))
    status = {info.distribution: info.status for info in manager.plugins}
    assert [name for name, is_loaded in status.items() if is_loaded == "loaded"] == loaded
    assert set(status.values()) <= {"loaded", "disabled"}
    assert len(status) == 2


def test_a_disabled_plugin_is_not_imported(fake):
    manager = manager_of(fake("kpf-bad", "raise ValueError"), KPFRAME_DISABLE_PLUGINS="kpf-bad")
    assert [info.status for info in manager.plugins] == ["disabled"]
    assert manager.problems == []


def test_the_fix_keeps_what_is_disabled_already(fake):
    others = fake("kpf-a", "raise ValueError"), fake("kpf-b", "raise ValueError")
    manager = quiet(
        manager_of(fake("kpf-bad", "raise ValueError"), *others, KPFRAME_DISABLE_PLUGINS="kpf_a, kpf-b")
    )
    (problem,) = manager.problems
    assert problem.fix.endswith("KPFRAME_DISABLE_PLUGINS=kpf_a,kpf-b,kpf-bad")


def test_installed_imports_nothing(fake, good):
    manager = manager_of(
        fake("kpf-bad", "raise ValueError"), fake("kpf-good", good), KPFRAME_DISABLE_PLUGINS="kpf-good"
    )
    assert [(info.distribution, info.status, info.specs) for info in manager.installed()] == [
        ("kpf-bad", "not loaded", ()),
        ("kpf-good", "disabled", ()),
    ]


def test_register(module_of, good, factories):
    manager = manager_of(KPFRAME_PLUGINS="")  # what is registered by hand is asked for: no list applies
    info = manager.register(module_of(good), distribution="kpf-good", version="3")
    assert (info.status, info.version) == ("loaded", "3")
    assert manager.create("model", "kpf-good:good_model", {"size": 2}) == ("good", 2, 0.5)
    with pytest.warns(PluginWarning, match="no function is marked"):
        assert manager.register(object(), distribution="kpf-bad").status == "broken"
    assert [plugin.distribution for plugin in manager.plugins] == ["kpf-good", "kpf-bad"]


def test_register_takes_an_object_with_hooks(factories):
    from kpframe.plugin import ModelSpec, hookimpl

    class Plugin:
        @hookimpl
        def kpframe_models(self):
            yield ModelSpec("thing", "kpf_clash:other")

    manager = manager_of()
    manager.register(Plugin(), distribution="kpf-object")
    assert manager.create("model", "thing", {}) == "clash"
    with pytest.raises(SettingsError, match=r"size: expected one of its settings \(no settings\)"):
        manager.create("model", "thing", {"size": 3})


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("kpf_nowhere:Thing", "ModuleNotFoundError: No module named 'kpf_nowhere'"),
        ("kpf_factory:Thing", "AttributeError: module 'kpf_factory' has no attribute 'Thing'"),
        ("kpf_factory:number", "TypeError: number: expected something to call, got 3"),
        ("kpf_factory:takes_other", "TypeError: missing a required argument: 'other'"),
    ],
)
def test_a_factory_that_cannot_be_used(factory, message, fake, factories):
    factories("kpf_factory", number=3, takes_other=lambda other: other, fine=lambda: "fine")
    source = (
        "from kpframe.plugin import TaskSpec, hookimpl\n"
        "@hookimpl\n"
        "def kpframe_tasks():\n"
        f"    yield TaskSpec('bad', {factory!r})\n"
        "    yield TaskSpec('fine', 'kpf_factory:fine')\n"
    )
    manager = manager_of(fake("kpf-task", source, "5.0"))
    with pytest.raises(PluginError) as caught:
        manager.create("task", "bad", {})
    text = str(caught.value)
    assert f"plugin kpf-task 5.0 (factory): the factory {factory!r} of task 'bad' cannot be used" in text
    assert message in text
    assert "pip uninstall kpf-task" in text
    assert manager.create("task", "fine", {}) == "fine"


@pytest.mark.parametrize("code", [3, "no licence", None])
def test_a_factory_that_exits_does_not_end_its_host(code, module_of, factories):
    def leave():
        sys.exit(code)

    factories("kpf_factory", leave=leave)
    plugin = module_of(
        "from kpframe.plugin import TaskSpec, hookimpl\n"
        "@hookimpl\n"
        "def kpframe_tasks(): yield TaskSpec('bad', 'kpf_factory:leave')\n"
    )
    manager = manager_of()
    manager.register(plugin, distribution="kpf-task", version="5.0")
    with pytest.raises(PluginError) as caught:
        manager.create("task", "bad", {})
    said = "SystemExit" if code is None else f"SystemExit: {code}"
    text = "plugin kpf-task 5.0 (factory): the factory 'kpf_factory:leave' of task 'bad' cannot be used: "
    assert str(caught.value).startswith(text + said)


def test_an_error_of_the_factory_itself_passes_unchanged(module_of, factories):
    def fail():
        raise ZeroDivisionError("mine")

    factories("kpf_factory", fail=fail)
    source = (
        "from kpframe.plugin import TaskSpec, hookimpl\n"
        "@hookimpl\n"
        "def kpframe_tasks(): yield TaskSpec('bad', 'kpf_factory:fail')\n"
    )
    manager = manager_of()
    manager.register(module_of(source), distribution="kpf-task")
    with pytest.raises(ZeroDivisionError, match="mine"):
        manager.create("task", "bad", {})


def test_get_manager_is_one():
    assert get_manager() is get_manager()
    assert PluginManager() is not get_manager()
