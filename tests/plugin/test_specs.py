from __future__ import annotations

from pathlib import Path

import pytest
from attrs import frozen
from attrs.exceptions import FrozenInstanceError

import kpframe.plugin
from kpframe.errors import KpframeError, PluginError
from kpframe.plugin import KINDS, ModelSpec, ParameterOperatorSpec, PropagatorSpec, RuleSpec, setting
from kpframe.plugin import _hookspecs as hookspecs
from kpframe.plugin._specs import HOOKS, plural


def test_each_kind_has_a_hook_and_each_hook_a_kind():
    hooks = {name for name in dir(hookspecs) if name.startswith("kpframe_")}
    assert hooks == {f"kpframe_{plural(kind)}" for kind in KINDS} == set(HOOKS)
    assert len(hooks) == 7
    assert "kpframe_quantities" in hooks  # not "quantitys"


def test_a_spec_is_a_frozen_value():
    spec = ModelSpec("gru", factory="a.b:C", summary="a\nb")
    assert spec == ModelSpec(name="gru", factory="a.b:C", summary="a b")
    assert spec != ModelSpec(name="lstm", factory="a.b:C", summary="a b")
    assert spec != RuleSpec(name="gru", factory="a.b:C", summary="a b")
    assert (spec.kind, spec.api, spec.settings) == ("model", 1, None)
    with pytest.raises(FrozenInstanceError):
        spec.name = "other"


@pytest.mark.parametrize("name", ["", "Gru", "1gru", "_gru", "my-gru", "my gru", "gru\n", "a:b", None, 3])
def test_a_name_of_the_wrong_form(name):
    with pytest.raises(PluginError, match=r"ModelSpec\.name: expected lower-case letters"):
        ModelSpec(name, "a:b")


@pytest.mark.parametrize("factory", ["", "a", "a.b", "a:", ":b", "a:b:c", "a b:c", "a..b:c", "1a:b", print])
def test_a_factory_of_the_wrong_form(factory):
    with pytest.raises(PluginError, match=r"ModelSpec\.factory: expected 'package\.module:attribute'"):
        ModelSpec("gru", factory)


@pytest.mark.parametrize("factory", ["a:b", "a.b_1:C", "_a._b:C.make"])
def test_a_factory_of_the_right_form(factory):
    assert ModelSpec("gru", factory).factory == factory


@pytest.mark.parametrize("settings", [3, dict, "Settings"])
def test_settings_that_are_no_attrs_class(settings):
    with pytest.raises(PluginError, match="settings of model 'gru': expected an attrs class or None"):
        ModelSpec("gru", "a:b", settings=settings)


def test_settings_whose_annotations_cannot_be_resolved():
    @frozen
    class Settings:
        size: Nowhere = setting(3)  # noqa: F821

    with pytest.raises(KpframeError, match="annotations cannot be resolved"):
        ModelSpec("gru", "a:b", settings=Settings)


@pytest.mark.parametrize("api", ["1", 1.0, True, None])
def test_an_api_that_is_no_integer(api):
    with pytest.raises(PluginError, match="api of model 'gru': expected an integer"):
        ModelSpec("gru", "a:b", api=api)


@pytest.mark.parametrize("cls", [PropagatorSpec, ParameterOperatorSpec])
def test_what_a_form_fits_is_said_in_words(cls):
    assert cls("scan", "a:b", fits="any\nA").fits == "any A"
    assert cls("scan", "a:b").fits == ""
    with pytest.raises(PluginError, match="fits: expected a string, got 3"):
        cls("scan", "a:b", fits=3)
    with pytest.raises(TypeError):
        ModelSpec("gru", "a:b", fits="any A")


def test_the_surface_fits_its_screens():
    def length(name):
        return len(Path(kpframe.plugin.__file__).with_name(name).read_text().splitlines())

    assert length("_hookspecs.py") < 80
    assert length("_manager.py") < 270
