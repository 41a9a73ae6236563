"""The soft-spin glass: its energy, its Jacobian, its noise and its equilibrium."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from kpframe_ode.soft_spin import SoftSpin
from scipy.integrate import dblquad, quad

from kpframe import create_model, linearize
from kpframe.errors import ArgumentError, NonFiniteError, ShapeError, StabilityWarning

F64 = torch.float64


def gradient(model, h, x) -> torch.Tensor:
    h = h.detach().requires_grad_()
    return torch.autograd.grad(model.energy(h, x).sum(), h)[0]


def hessians(model, run) -> torch.Tensor:  # [B, T, H, H]
    """Return the Hessian of the energy at every state a step starts from."""
    rows = zip(run.previous.flatten(0, 1), run.inputs.flatten(0, 1), strict=True)
    found = [torch.func.jacrev(torch.func.jacrev(lambda h, x=x: model.energy(h, x)))(h) for h, x in rows]
    return torch.stack(found).detach().reshape(*run.previous.shape, -1)


@pytest.mark.parametrize("temperature", [0.0, 0.4])
def test_a_step_descends_the_energy(make, draw, close, differ, temperature) -> None:
    """``h' = h - eta grad E + sqrt(2 eta temperature) xi``."""
    eta, h = 0.2, draw(5, 3, seed=1)
    model = make("soft_spin", temperature=temperature, dt=eta, well=1.3)
    x = draw(5, model.input_size, seed=2)
    expected = h - eta * gradient(model, h, x)
    noise = math.sqrt(2 * eta * temperature) * x[:, 2:] if temperature else 0
    close(model.step(x, h), expected + noise, 1e-14)
    if temperature:
        differ(model.step(x, h), expected)
    differ(model.step(x, h), h + eta * gradient(model, h, x))


def test_energy_is_that_of_a_loop_over_spins(make, draw) -> None:
    model, h, x = make("soft_spin", well=0.8), draw(3, seed=1), draw(2, seed=2)
    W, V, b = model.weight_ih_l0.tolist(), model.weight_hh_l0.tolist(), model.bias_ih_l0.tolist()
    s, x_ = h.tolist(), x.tolist()
    total = 0.0
    for i in range(3):
        total += 0.8 * (s[i] ** 4 / 4 - s[i] ** 2 / 2) - s[i] * b[i]
        total -= s[i] * sum(W[i][k] * x_[k] for k in range(2))
        for j in range(i):
            total -= s[i] * s[j] * (V[i][j] + V[j][i]) / 2
    assert float(model.energy(h, x).detach()) == pytest.approx(total, rel=1e-13)


@pytest.mark.parametrize("integrator", ["euler", "exponential_euler", "rk4"])
def test_A_is_symmetric(make, draw, close, differ, integrator) -> None:
    """Euler: ``A = I - eta Hess E``; exponential Euler: the same with ``eta phi_1(eta well)``."""
    eta, well = 0.2, 1.3
    model = make("soft_spin", dt=eta, well=well, integrator=integrator)
    flow = linearize(model, draw(2, 4, 2, seed=1), draw(2, 3, seed=5))
    A, unit = flow.A.blocks(), torch.eye(3, dtype=F64)
    descent = unit - eta * hessians(model, flow.trajectory)
    if integrator == "euler":
        close(A, descent, 1e-13)
    elif integrator == "exponential_euler":
        close(A - unit, math.expm1(eta * well) / (eta * well) * (descent - unit), 1e-13)
        differ(A - unit, descent - unit)
    else:
        differ(A, descent, 1e-3)
    q, r = draw(2, 4, 3, seed=7), draw(2, 4, 3, seed=8)
    left, right = float((flow.A(q) * r).sum()), float((q * flow.A(r)).sum())
    if integrator == "rk4":  # the Hessians of its four points do not commute
        assert abs(left - right) > 1e-4 * abs(left)
        differ(A, A.mT, 1e-4)
    else:
        assert left == pytest.approx(right, rel=1e-13)
        close(flow.A.to_dense(), flow.A.to_dense().T, 1e-14)
    differ(flow.P.to_dense(), flow.P.to_dense().T)  # P is not: later states do not move earlier ones


def moments(J: float, temperature: float) -> tuple[float, float]:
    """Return the mean of h_1^2 and h_1 h_2 of two spins under Boltzmann's distribution, by quadrature."""

    def weight(a: float, b: float) -> float:
        energy = a**4 / 4 - a**2 / 2 + b**4 / 4 - b**2 / 2 - J * a * b
        return math.exp(-energy / temperature)

    def integral(f) -> float:
        return dblquad(lambda a, b: f(a, b) * weight(a, b), -5, 5, -5, 5, epsabs=1e-8, epsrel=1e-8)[0]

    total = integral(lambda a, b: 1.0)
    return integral(lambda a, b: a * a) / total, integral(lambda a, b: a * b) / total


def equilibrium(hidden: int, temperature: float, J: float = 0.0) -> torch.Tensor:
    """Return states ``[chains, times, H]`` of Langevin dynamics after it has settled, 0.5 apart."""
    settings = {"temperature": temperature, "bias": False, "dt": 0.01, "seed": 0}
    model = create_model("soft_spin", input_size=1, hidden_size=hidden, **settings).double()
    with torch.no_grad():
        model.weight_hh_l0.fill_(J)
        generator = torch.Generator().manual_seed(1)
        x = model.with_noise(torch.zeros(4000, 1200, 1, dtype=F64), generator)
        h0 = torch.randn(4000, hidden, generator=generator, dtype=F64)
        return model.rollout(x, h0).states[:, 399::50]


def mean_and_error(values: torch.Tensor) -> tuple[float, float]:
    """Return the mean of ``[chains, times]`` and its standard error over chains."""
    chains = values.mean(1)
    return float(chains.mean()), float(chains.std() / math.sqrt(len(chains)))


@pytest.mark.parametrize("temperature", [0.6, 1.0])
@pytest.mark.rows(2)
def test_one_spin_is_boltzmann_distributed(temperature) -> None:
    def variance(temperature: float) -> float:
        def weight(h: float) -> float:
            return math.exp(-(h**4 / 4 - h**2 / 2) / temperature)

        return quad(lambda h: h * h * weight(h), -7, 7)[0] / quad(weight, -7, 7)[0]

    states = equilibrium(1, temperature)[..., 0]
    found, error = mean_and_error(states**2)
    assert error < 0.005
    tolerance = 4 * error + 0.005  # the latter for the step of 0.01
    assert abs(found - variance(temperature)) < tolerance
    assert abs(found - variance(1.3 * temperature)) > 2 * tolerance
    mean, error = mean_and_error(states)
    assert abs(mean) < 4 * error


@pytest.mark.slow
def test_two_coupled_spins_are_boltzmann_distributed() -> None:
    states = equilibrium(2, 0.5, J=0.4)
    square, product = moments(0.4, 0.5)
    found, error = mean_and_error((states**2).mean(-1))
    assert abs(found - square) < 4 * error + 0.01
    found, error = mean_and_error(states[..., 0] * states[..., 1])
    assert abs(found - product) < 4 * error + 0.01
    assert abs(found - moments(0.3, 0.5)[1]) > 4 * error + 0.01


def test_noise_columns(draw) -> None:
    model, cold = SoftSpin(2, 3, temperature=0.5, seed=0).double(), SoftSpin(2, 3, seed=0).double()
    assert (model.signal_size, model.input_size, cold.input_size) == (2, 5, 2)
    signals = draw(2, 4, 2, seed=1)
    x = model.with_noise(signals, 1)
    assert x.shape == (2, 4, 5)
    assert torch.equal(x[..., :2], signals)
    assert torch.equal(x, model.with_noise(signals, 1))
    assert not torch.equal(x, model.with_noise(signals, 2))
    generator = torch.Generator().manual_seed(1)
    assert not torch.equal(model.with_noise(signals, generator), model.with_noise(signals, generator))
    assert torch.equal(cold.with_noise(signals), signals)
    with pytest.raises(ShapeError, match=r"x: expected shape \[..., input=2\], got \[2, 4, 5\]"):
        model.with_noise(x)
    with pytest.raises(
        ShapeError, match=r"x: expected 2 signals and 3 columns of noise, as model.with_noise"
    ):
        linearize(model, signals)
    assert linearize(cold, signals).trajectory.states.shape == (2, 4, 3)


def test_euler_escapes_where_it_is_said_to() -> None:
    """One spin without field is lost beyond ``h^2 = 1 + 2 / (well dt)``, and stays below."""
    model = SoftSpin(1, 1, well=2.0, coupling=0.0, bias=False, dt=0.1, seed=0).double()
    edge, x = math.sqrt(1 + 2 / 0.2), torch.zeros(1, 60, 1, dtype=F64)
    inside = linearize(model, x, torch.tensor([[edge - 1e-3]], dtype=F64))
    assert abs(float(inside.trajectory.final)) == pytest.approx(1, abs=1e-4)
    with pytest.raises(NonFiniteError, match="roll-out: expected finite numbers"):
        linearize(model, x, torch.tensor([[edge + 1e-3]], dtype=F64))
    finer = SoftSpin(1, 1, well=2.0, coupling=0.0, bias=False, dt=0.1, substeps=2, seed=0).double()
    final = linearize(finer, x, torch.tensor([[edge + 1e-3]], dtype=F64)).trajectory.final
    assert abs(float(final)) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("integrator", "limit"), [("euler", 1.0), ("exponential_euler", math.log(2)), ("rk4", 2.785293563 / 2)]
)
def test_steps_too_large_for_a_well_are_warned_of(integrator, limit) -> None:
    sizes = {"input_size": 1, "hidden_size": 2, "integrator": integrator, "well": 1.5}
    with pytest.warns(StabilityWarning, match=rf"soft_spin: a step of .* with {integrator} does not settle"):
        create_model("soft_spin", dt=1.01 * limit / 1.5, **sizes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        create_model("soft_spin", dt=0.99 * limit / 1.5, **sizes)
        create_model("soft_spin", dt=1.01 * limit / 1.5, substeps=2, **sizes)
    # what it is about: a spin close to the bottom of its well
    start, x = torch.tensor([[1.001]]), torch.zeros(1, 300, 1)
    away = {}
    for factor in (0.98, 1.02):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", StabilityWarning)
            settings = {"well": 1.5, "coupling": 0.0, "bias": False, "dt": factor * limit / 1.5}
            model = SoftSpin(1, 1, integrator=integrator, **settings)
        away[factor] = float((model.rollout(x, start).states.detach()[0, -50:, 0] - 1).abs().max())
    assert away[0.98] < 1e-4
    assert not away[1.02] < 1e-3


def test_couplings_have_the_stated_spread() -> None:
    J = create_model("soft_spin", input_size=1, hidden_size=400, coupling=0.6, seed=1).matrix().detach()
    assert torch.equal(J, J.T)
    assert float(J.diagonal().abs().max()) == 0
    assert float(J[~torch.eye(400, dtype=torch.bool)].std()) * 20 == pytest.approx(0.6, rel=0.01)
    radius = float(torch.linalg.eigvalsh(J).abs().max())
    assert radius == pytest.approx(2 * 0.6, rel=0.05)  # Wigner's semicircle


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -0.1}, "temperature: expected float >= 0 and < inf, got -0.1"),
        ({"well": 0.0}, "well: expected float > 0 and < inf, got 0.0"),
        ({"coupling": np.inf}, "coupling: expected float >= 0 and < inf, got inf"),
        ({"input_size": 0}, "input_size: expected int >= 1, got 0"),
    ],
)
def test_refused(settings, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        SoftSpin(**{"input_size": 3, "hidden_size": 4} | settings)
