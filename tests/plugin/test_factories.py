"""What factories return and raise."""

from __future__ import annotations

import sys
import types
import warnings

import pytest
import torch
from attrs import frozen

import kpframe
import kpframe.plugin._manager
from kpframe.errors import ArgumentError, PluginError, SettingsError
from kpframe.operators._reducer import Mean
from kpframe.plugin import PluginManager, PluginWarning, setting
from kpframe.testing._toys import Plain

KINDS = {
    "model": (kpframe.create_model, "Model"),
    "rule": (kpframe.create_rule, "LearningRule"),
    "task": (kpframe.create_task, "Task"),
    "reducer": (kpframe.create_reducer, "Reducer"),
}
OFFERS = """
    from kpframe.plugin import ModelSpec, ReducerSpec, RuleSpec, TaskSpec, hookimpl

    @hookimpl
    def kpframe_models(): yield ModelSpec("thing", "kpf_factory:{name}")

    @hookimpl
    def kpframe_rules(): yield RuleSpec("thing", "kpf_factory:{name}")

    @hookimpl
    def kpframe_tasks(): yield TaskSpec("thing", "kpf_factory:{name}")

    @hookimpl
    def kpframe_reducers(): yield ReducerSpec("thing", "kpf_factory:{name}")
"""


@frozen
class Failing:
    size: int = setting(1)

    def __attrs_post_init__(self):
        raise ZeroDivisionError("in the settings")


def raising(error):
    def make():
        raise error

    return make


@pytest.fixture
def offer(fake, monkeypatch):
    """A function that lets ``kpf-thing`` offer what a factory makes, under one name in all kinds."""

    def call(factory, name="make"):
        module = types.ModuleType("kpf_factory")
        module.make = factory
        monkeypatch.setitem(sys.modules, "kpf_factory", module)
        manager = PluginManager(lambda: [fake("kpf-thing", OFFERS.format(name=name), "5.0")], {})
        monkeypatch.setattr(kpframe.plugin._manager, "get_manager", lambda: manager)
        return manager

    return call


@pytest.mark.parametrize(
    ("made", "got"),
    [
        (None, "None (NoneType)"),
        (("good", 3), "('good', 3) (tuple)"),
        (torch.nn.Linear(2, 2), "Linear(in_features=2, out_features=2, bias=True) (Linear)"),
        (Plain, "the class Plain"),
        ("a\x1b[31m\nb", "'a\\x1b[31m\\nb' (str)"),
    ],
    ids=["none", "tuple", "module", "class", "text"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_factory_that_makes_something_else(kind, made, got, offer):
    offer(lambda: made)
    create, cls = KINDS[kind]
    with pytest.raises(PluginError) as caught:
        create("thing")
    assert str(caught.value) == (
        f"plugin kpf-thing 5.0 (factory): the factory 'kpf_factory:make' of {kind} 'thing' cannot be used: "
        f"its result: expected a kpframe.{cls}, got {got}; fix: pip install --upgrade kpf-thing, "
        "or pip uninstall kpf-thing, or KPFRAME_DISABLE_PLUGINS=kpf-thing"
    )


def test_a_factory_that_makes_what_it_should(offer):
    offer(lambda: Plain(1, 2))
    assert isinstance(kpframe.create_model("thing"), Plain)
    with pytest.raises(PluginError, match=r"expected a kpframe\.Task, got "):
        kpframe.create_task("thing")
    offer(lambda: Mean("time"))
    assert isinstance(kpframe.create_reducer("thing"), Mean)


def test_the_core_s_reducers_have_one_name_each(offer):
    offer(lambda: Mean("time"))
    whole = kpframe.create_reducer("partial_trace", axes=["time"])
    assert type(kpframe.create_reducer("partial-trace", axes=["time"])) is type(whole)
    assert type(whole) is not Mean


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (GeneratorExit(), "GeneratorExit"),
        (BaseException("mine"), "BaseException: mine"),
    ],
)
def test_a_factory_does_not_end_its_host(error, message, offer):
    offer(raising(error))
    with pytest.raises(PluginError) as caught:
        kpframe.create_model("thing")
    assert f"of model 'thing' cannot be used: {message}; fix: " in str(caught.value)


def test_ctrl_c_while_a_factory_works_names_the_plugin(offer):
    import signal

    def slow():
        try:
            signal.raise_signal(signal.SIGINT)
        except BaseException as error:
            raise RuntimeError("something else") from error

    offer(slow)
    with pytest.raises(KeyboardInterrupt) as caught:
        kpframe.create_model("thing")
    assert str(caught.value) == "plugin kpf-thing 5.0 was building model 'thing'"


def test_an_exception_goes_on_with_the_name_of_the_plugin(offer):
    error = ZeroDivisionError("mine")
    manager = offer(raising(error))
    with pytest.raises(ZeroDivisionError) as caught:
        kpframe.create_model("thing")
    assert caught.value is error
    assert error.__notes__ == ["raised by plugin kpf-thing 5.0, building model 'thing'"]
    refused = ArgumentError("size: expected an even number, got 3")  # what the caller gave is at fault
    manager = offer(raising(refused))
    with pytest.raises(ArgumentError) as caught:
        kpframe.create_model("thing")
    assert caught.value is refused
    assert not hasattr(refused, "__notes__")
    assert manager.find("model", "thing").name == "thing"


def test_settings_that_raise_name_the_plugin_too(module_of):
    class Plugin:
        @kpframe.plugin.hookimpl
        def kpframe_models(self):
            yield kpframe.plugin.ModelSpec("thing", "kpf_factory:make", settings=Failing)

    manager = PluginManager(lambda: (), {})
    manager.register(Plugin(), distribution="kpf-thing")
    with pytest.raises(ZeroDivisionError) as caught:
        manager.create("model", "thing", {})
    assert caught.value.__notes__ == ["raised by plugin kpf-thing 0, building model 'thing'"]
    with pytest.raises(SettingsError):
        manager.create("model", "thing", {"size": "x"})


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("kpf_optional", "pip install kpf_optional"),
        ("kpf_optional.deep.er", "pip install kpf_optional"),
        ("sklearn_of_nobody", "pip install sklearn_of_nobody"),
        ("kpframe.no_such_part", "pip install --upgrade kpframe"),
        ("torch.no_such_part", "pip install --upgrade torch"),
        ("kpf_bad.gone", "pip install --force-reinstall kpf-bad"),
        ("distutils_gone; rm -rf /", "pip install --upgrade kpf-bad"),
    ],
)
def test_what_to_install_for_a_missing_module(module, command, fake, monkeypatch):
    code = (
        "import importlib\n"
        f"try: importlib.import_module({module!r})\n"
        f"except ImportError as error: raise ModuleNotFoundError(str(error), name={module!r}) from None\n"
    )
    manager = PluginManager(lambda: [fake("kpf-bad", code)], {})
    with pytest.warns(PluginWarning):
        (problem,) = manager.problems
    assert problem.stage == "import"
    again = "" if command.endswith(" kpf-bad") else "pip install --upgrade kpf-bad, or "
    assert problem.fix == (f"{command}, or {again}pip uninstall kpf-bad, or KPFRAME_DISABLE_PLUGINS=kpf-bad")


def test_modules_whose_distribution_has_another_name(fake):
    code = "raise ModuleNotFoundError('gone', name='yaml')"
    manager = PluginManager(lambda: [fake("kpf-bad", code)], {})
    with pytest.warns(PluginWarning):
        (problem,) = manager.problems
    verb = "install"
    assert problem.fix.startswith((f"pip {verb} pyyaml, or ", f"pip {verb} --upgrade pyyaml, or "))


def test_a_module_of_python_that_is_gone_is_not_to_be_installed(fake):
    code = "raise ModuleNotFoundError('gone', name='asyncio.old')"
    manager = PluginManager(lambda: [fake("kpf-bad", code)], {})
    with pytest.warns(PluginWarning):
        (problem,) = manager.problems
    assert problem.fix.startswith("pip install --upgrade kpf-bad, or ")


def test_a_module_that_is_missing_in_a_hook_or_a_factory(fake, offer):
    code = """
        from kpframe.plugin import hookimpl
        @hookimpl
        def kpframe_models():
            import kpf_optional
            yield 1
    """
    with pytest.warns(PluginWarning):
        (problem,) = PluginManager(lambda: [fake("kpf-bad", code)], {}).problems
    assert problem.stage == "hooks"
    assert problem.fix.startswith("pip install kpf_optional, or ")

    def make():
        import kpf_optional  # noqa: F401

    offer(make)
    with pytest.raises(PluginError, match="fix: pip install kpf_optional, or "):
        kpframe.create_model("thing")
    offer(make, "nothing.there")  # the factory's own module is not to be looked for elsewhere
    with pytest.raises(PluginError, match="fix: pip install --upgrade kpf-thing, or "):
        kpframe.create_model("thing")


def test_what_is_registered_by_hand_is_not_pip_s(offer):
    manager = PluginManager(lambda: (), {})
    with pytest.warns(PluginWarning, match="fix: mend the object that was registered"):
        manager.register(object(), distribution="temporary")

    class Plugin:
        @kpframe.plugin.hookimpl
        def kpframe_models(self):
            yield kpframe.plugin.ModelSpec("thing", "kpf_gone:make")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        manager.register(Plugin(), distribution="kpf-hand")
    with pytest.raises(PluginError) as caught:
        manager.create("model", "thing", {})
    assert str(caught.value).endswith("; fix: mend the object that was registered")
    with pytest.warns(PluginWarning) as warned:
        manager.register(Plugin(), distribution="kpf-again")
    assert str(warned[0].message).endswith("; fix: write 'kpf-again:thing' or 'kpf-hand:thing'")
