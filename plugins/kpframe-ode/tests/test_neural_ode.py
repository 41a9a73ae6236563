"""Settings of the model ``neural_ode``, and what importing the package brings."""

from __future__ import annotations

import subprocess
import sys
import warnings

import kpframe_ode
import pytest
import torch
from kpframe_ode.neural_ode import NeuralODE

from kpframe import create_model
from kpframe.errors import ArgumentError, SettingsError, StabilityWarning


def test_parameters() -> None:
    model = create_model("neural_ode", input_size=2, hidden_size=3, mlp_width=5, mlp_depth=3)
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == {
        "weight_ih_l0": (5, 2),
        "weight_hh_l0": (5, 3),
        "bias_l0": (5,),
        "weight_l1": (5, 5),
        "bias_l1": (5,),
        "weight_l2": (5, 5),
        "bias_l2": (5,),
        "weight_out": (3, 5),
        "bias_out": (3,),
    }


def test_weights_are_uniform_by_fan_in() -> None:
    model = create_model("neural_ode", input_size=100, hidden_size=300, mlp_width=200, mlp_depth=2, seed=1)
    for name, fan_in in {
        "weight_ih_l0": 400,
        "weight_hh_l0": 400,
        "weight_l1": 200,
        "weight_out": 200,
    }.items():
        weights = model.get_parameter(name).detach() * fan_in**0.5
        assert 0.999 < float(weights.abs().max()) <= 1
        assert float(weights.std()) == pytest.approx(3**-0.5, rel=0.01)


@pytest.mark.parametrize("name", ["neural_ode", "hopfield", "soft_spin"])
def test_seed(name) -> None:
    def weights(**settings) -> torch.Tensor:
        model = create_model(name, input_size=3, hidden_size=4, **settings)
        return torch.nn.utils.parameters_to_vector(model.parameters()).detach()

    torch.manual_seed(0)
    before = torch.get_rng_state()
    one = weights(seed=7)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, weights(seed=7))
    assert not torch.equal(one, weights(seed=8))
    drawn = weights()
    assert not torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(0)
    assert torch.equal(drawn, weights())


@pytest.mark.parametrize("activation", ["tanh", "relu", "softplus", "silu", "elu"])
def test_activation(make, draw, close, differ, activation) -> None:
    h, x, model = draw(5, 3, seed=1), draw(5, 2, seed=2), make("neural_ode", activation=activation)
    z = model.layer({"a1": h @ model.weight_hh_l0.T + x @ model.weight_ih_l0.T + model.bias_l0}, {})["z1"]
    own = getattr(torch, activation, None) or getattr(torch.nn.functional, activation)
    preactivation = h @ model.weight_hh_l0.T + x @ model.weight_ih_l0.T + model.bias_l0
    close(z, own(preactivation), 1e-15)
    differ(z, torch.sigmoid(preactivation))


def test_exponential_euler_without_a_leak_is_euler(make, draw, close, differ, x) -> None:
    states = {}
    for leak in (0.0, 2.0):
        for integrator in ("euler", "exponential_euler"):
            states[leak, integrator] = make("neural_ode", leak=leak, integrator=integrator).rollout(x).states
    close(states[0.0, "exponential_euler"], states[0.0, "euler"], 1e-15)
    differ(states[2.0, "exponential_euler"], states[2.0, "euler"])


def test_a_leak_too_fast_is_warned_of() -> None:
    sizes = {"input_size": 1, "hidden_size": 2, "dt": 0.1}
    with pytest.warns(StabilityWarning, match="neural_ode: leak=28 is unstable with rk4 at a step of 0.1"):
        create_model("neural_ode", leak=28.0, **sizes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        create_model("neural_ode", leak=27.8, **sizes)
        create_model("neural_ode", leak=28.0, substeps=2, **sizes)
        create_model("neural_ode", leak=500.0, integrator="exponential_euler", **sizes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mlp_width": 0}, "mlp_width: expected int >= 1, got 0"),
        ({"mlp_depth": 1.5}, "mlp_depth: expected int >= 1, got 1.5"),
        ({"activation": "gelu"}, "activation: expected one of 'tanh', .*, got 'gelu'"),
        ({"leak": -1.0}, "leak: expected float >= 0 .*, got -1.0"),
    ],
)
def test_refused_settings(settings, message) -> None:
    with pytest.raises(SettingsError, match=message):
        create_model("neural_ode", **{"input_size": 3, "hidden_size": 4} | settings)
    with pytest.raises(ArgumentError, match=message.split(" ")[0]):
        NeuralODE(3, 4, **settings)


@pytest.mark.slow
def test_importing_the_package_brings_no_torch() -> None:
    code = "import sys, kpframe_ode; print('torch' in sys.modules, kpframe_ode.ODEModel.__name__)"
    out = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert out.split() == ["False", "ODEModel"]
    with pytest.raises(AttributeError, match="module 'kpframe_ode' has no attribute 'OdeModel'"):
        _ = kpframe_ode.OdeModel
