"""What bundled plugins offer takes its settings as they are declared, from Python as by name."""

from __future__ import annotations

import inspect
import warnings
from importlib import import_module
from operator import attrgetter

import pytest
from attrs import NOTHING

from kpframe import create_model
from kpframe.errors import SettingsError, StabilityWarning
from kpframe.plugin import get_manager
from kpframe.plugin._settings import describe

#: Rules and tasks without settings have nothing to declare.
SPECS = {
    f"{kind}:{spec.name}": spec
    for kind in ("model", "rule", "task")
    for spec in get_manager().specs(kind)
    if describe(spec.settings)
}
MODELS = [name for name in SPECS if name.startswith("model:")]


def factory(name: str):
    module, _, attribute = SPECS[name].factory.partition(":")
    return attrgetter(attribute)(import_module(module))


@pytest.mark.parametrize("name", SPECS)
def test_the_signature_is_that_of_the_settings(name) -> None:
    infos = {info.name: info for info in describe(SPECS[name].settings)}
    parameters = inspect.signature(factory(name)).parameters
    assert set(parameters) == set(infos)
    for key, parameter in parameters.items():
        info = infos[key]
        default = inspect.Parameter.empty if info.default is NOTHING else info.default
        assert parameter.annotation == info.annotation
        assert repr(parameter.default) == repr(default)
    required = [key for key, info in infos.items() if info.required]
    assert list(parameters)[: len(required)] == required


@pytest.mark.parametrize("name", SPECS)
def test_the_class_refuses_what_the_host_refuses_in_the_same_words(name) -> None:
    made = factory(name)
    kind, bare = name.split(":")
    wrong = {"no_such_setting": 1, next(iter(describe(SPECS[name].settings))).name: object()}
    with pytest.raises(SettingsError) as by_name:
        get_manager().create(kind, bare, wrong)
    with pytest.raises(SettingsError) as by_class:
        made(**wrong)
    expected = str(by_name.value).replace(f"{kind} {bare!r}: ", f"{made.__name__}: ")
    assert str(by_class.value) == expected
    assert len(expected.splitlines()) >= 2
    assert "no_such_setting" in expected


@pytest.mark.parametrize("name", MODELS)
def test_sizes_may_be_given_by_position(name) -> None:
    more = {"tokens": 2} if name == "model:attention" else {}
    model = factory(name)(4, 4, seed=3, **more)
    twin = create_model(name.split(":")[1], input_size=4, hidden_size=4, seed=3, **more)
    assert type(model) is type(twin)
    weights = twin.state_dict()
    assert all(value.equal(weights[key]) for key, value in model.state_dict().items())


UNSTABLE = {
    "model:rnn": {"nonlinearity": "relu", "gain": 2.0},
    "model:noisy_rnn": {"nonlinearity": "relu", "gain": 2.0},
    "model:mpn": {"lam": 1.0, "train_lam": False},
    "model:hh": {"method": "forward_euler", "dt": 1.0},
    "model:hopfield": {"tau": 0.01},
    "model:soft_spin": {"well": 100.0},
    "model:neural_ode": {"leak": 100.0},
    "model:s4d": {"constrained": False, "real": 0.5},
}


@pytest.mark.parametrize("name", UNSTABLE)
def test_a_warning_of_a_constructor_names_the_line_that_calls_it(name) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        factory(name)(2, 3, **UNSTABLE[name])
    (warning,) = caught
    assert warning.category is StabilityWarning
    assert warning.filename == __file__
