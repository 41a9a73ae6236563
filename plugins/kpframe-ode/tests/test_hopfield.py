"""The Hopfield network's energy, memories, weights and stability."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from kpframe_ode.hopfield import Rate
from scipy.integrate import quad

from kpframe import create_model, linearize
from kpframe.errors import ArgumentError, SettingsError, ShapeError, StabilityWarning


@pytest.mark.parametrize("function", ["tanh", "sigmoid"])
@pytest.mark.parametrize("u", [-2.0, -0.3, 0.7, 40.0])
def test_cost_is_the_integral_of_the_inverse(function, u) -> None:
    rate = Rate(function, 1.6)
    v = float(rate(torch.tensor(u, dtype=torch.float64)))
    inverse = np.arctanh if function == "tanh" else lambda v: np.log(v / (1 - v))
    cost = float(rate.cost(torch.tensor(u, dtype=torch.float64)))
    if u < 40:
        expected, _ = quad(lambda v: inverse(v) / 1.6, 0, v, epsabs=1e-13, epsrel=1e-13)
        assert cost == pytest.approx(expected, rel=1e-9)
    else:  # v rounds to 1: the limit is log 2 / gain, or 0
        assert cost == pytest.approx(np.log(2) / 1.6 if function == "tanh" else 0, abs=1e-12)


@pytest.mark.parametrize("function", ["tanh", "sigmoid"])
def test_energy_falls_by_the_squared_velocity(make, draw, close, differ, function) -> None:
    """``dE/dt = -tau Sum g'(u) (du/dt)^2`` for symmetric W, and not for others."""
    u, x = draw(6, 3, seed=1).requires_grad_(), draw(6, 2, seed=2)
    for symmetric, check in ((True, lambda a, b: close(a, b, 1e-13)), (False, differ)):
        settings = {"symmetric": symmetric, "nonlinearity": function, "gain": 1.3, "tau": 0.7}
        model = make("hopfield", **settings, dt=1e-4)
        velocity = (model.step(x, u) - u).detach() / 1e-4
        (down,) = torch.autograd.grad(model.energy(u, x).sum(), u)
        (slope,) = torch.autograd.grad(model.rate(u).sum(), u)
        exact = ((-u + model.rate(u) @ model.matrix().T + x @ model.weight_ih_l0.T) + model.bias_ih_l0) / 0.7
        close(velocity, exact, 1e-9)
        check((down * exact).sum(-1), -0.7 * (slope * exact**2).sum(-1))


@pytest.mark.parametrize("integrator", ["euler", "exponential_euler", "rk4"])
def test_energy_along_trajectories(draw, integrator) -> None:
    """It falls at every step for symmetric W; for W without symmetry it rises somewhere."""
    x = draw(8, 1, 2, seed=2).expand(8, 200, 2)
    h0, changes = 2 * draw(8, 10, seed=3), {}
    for symmetric in (True, False):
        settings = {"symmetric": symmetric, "integrator": integrator, "dt": 0.05, "coupling": 3.0, "seed": 4}
        model = create_model("hopfield", input_size=2, hidden_size=10, **settings).double()
        with torch.no_grad():
            states = torch.cat([h0.unsqueeze(1), model.rollout(x, h0).states], dim=1)
            changes[symmetric] = model.energy(states, x[:, :1]).diff(dim=1)
    assert float(changes[True].max()) <= 1e-12
    assert float(changes[True].sum(1).max()) < -1
    assert float(changes[False].max()) > 1e-2


def test_stored_patterns_are_recalled(draw) -> None:
    """Three patterns in 100 neurons, one entry in five flipped."""
    patterns = draw(3, 100, seed=1).sign()
    model = create_model("hopfield", input_size=1, hidden_size=100, gain=4.0, bias=False, seed=0).double()
    flipped = torch.where(torch.rand(3, 100, generator=torch.Generator().manual_seed(2)) < 0.2, -1.0, 1.0)
    x = torch.zeros(3, 100, 1, dtype=torch.float64)
    overlap = {}
    for stored in (False, True):
        if stored:
            model.store(patterns)
            W = patterns.T @ patterns / 100
            assert torch.allclose(model.matrix(), W - torch.diag(W.diagonal()), rtol=0, atol=1e-15)
        final = model.rollout(x, patterns * flipped).final.detach()
        overlap[stored] = (final.sign() * patterns).mean(1)
    assert float((flipped.double().mean(1)).max()) < 0.75
    assert float(overlap[True].min()) >= 0.98
    assert float(overlap[False].max()) < 0.75
    with pytest.raises(ShapeError, match=r"patterns: expected shape \[patterns, 100\], got \[3, 99\]"):
        model.store(patterns[:, 1:])


def test_the_symmetric_weight(make, draw, close, differ) -> None:
    model = make("hopfield")
    W = model.matrix().detach()
    assert torch.equal(W, W.T)
    assert torch.equal(W.diagonal(), torch.zeros(3, dtype=torch.float64))
    assert float(W.abs().sum()) > 1
    differ(model.weight_hh_l0, W)
    assert torch.equal(
        make("hopfield", symmetric=False).matrix(), make("hopfield", symmetric=False).weight_hh_l0
    )
    # the diagonal and the antisymmetric part of the parameter move nothing
    flow = linearize(model, draw(2, 4, 2, seed=1), draw(2, 3, seed=5))
    J = flow.J.to_dense()[:, flow.J.domain["parameter"].part("weight_hh_l0").slice].reshape(-1, 3, 3)
    assert torch.equal(J, J.mT)
    assert float(J.diagonal(dim1=1, dim2=2).abs().max()) == 0
    assert float(J.abs().max()) > 0.01


@pytest.mark.parametrize("symmetric", [True, False])
def test_couplings_have_the_stated_spread(symmetric) -> None:
    model = create_model("hopfield", input_size=1, hidden_size=400, symmetric=symmetric, coupling=1.7, seed=1)
    W = model.matrix().detach()
    off = W[~torch.eye(400, dtype=torch.bool)]
    assert float(off.std()) * 20 == pytest.approx(1.7, rel=0.01)
    assert float(model.weight_ih_l0.detach().abs().max()) <= 1 / 20


def test_unstable_steps_are_warned_of() -> None:
    """Beyond 2 tau Euler's method multiplies what it should damp; rk4 beyond 2.785 tau."""
    sizes = {"input_size": 1, "hidden_size": 2, "coupling": 0.0, "tau": 0.5, "seed": 0}
    start, x = torch.full((1, 2), 3.0), torch.zeros(1, 200, 1)
    for integrator, unstable, stable in (("euler", 1.02, 0.98), ("rk4", 1.41, 1.38), ("heun", 1.02, 0.98)):
        settings = {**sizes, "integrator": integrator, "bias": False}
        with pytest.warns(
            StabilityWarning, match=rf"hopfield: a step of {unstable} with {integrator} is unsta"
        ):
            model = create_model("hopfield", dt=unstable, **settings)
        assert float(model.rollout(x, start).final.detach().abs().max()) > 30
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model = create_model("hopfield", dt=stable, **settings)
            create_model("hopfield", dt=unstable, **{**settings, "substeps": 2})
            create_model("hopfield", dt=50.0, **{**settings, "integrator": "exponential_euler"})
        assert float(model.rollout(x, start).final.detach().abs().max()) < 0.2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tau": 0.0}, "tau: expected .* > 0 .* got 0.0"),
        ({"gain": -1.0}, "gain: expected .* > 0 .* got -1.0"),
        ({"nonlinearity": "relu"}, "nonlinearity: expected one of 'tanh', 'sigmoid', got 'relu'"),
        ({"integrator": "rk45"}, "integrator: expected one of 'euler', .*, got 'rk45'"),
        ({"substeps": 0}, "substeps: expected int >= 1, got 0"),
        ({"dt": float("inf")}, "dt: expected .* got inf"),
    ],
)
def test_refused_settings(settings, message) -> None:
    with pytest.raises(SettingsError, match=message):
        create_model("hopfield", **{"input_size": 3, "hidden_size": 4} | settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tau": float("nan")}, "tau: expected a number > 0 and < inf, got nan"),
        ({"gain": 0}, "gain: expected float > 0 and < inf, got 0"),
        ({"coupling": -1}, "coupling: expected float >= 0 and < inf, got -1"),
        ({"nonlinearity": "relu"}, "nonlinearity: expected one of 'tanh', 'sigmoid', got 'relu'"),
    ],
)
def test_the_class_checks_too(settings, message) -> None:
    from kpframe_ode.hopfield import Hopfield

    with pytest.raises(ArgumentError, match=message):
        Hopfield(3, 4, **settings)
