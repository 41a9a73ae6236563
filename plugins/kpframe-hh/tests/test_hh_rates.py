"""Rates and single steps: exact arithmetic, published figures, and the removable singularities."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from kpframe_hh.rates import exprel, linoid, relax, relax_gate, squid_axon


def derivatives(function, at: float) -> tuple[float, float, float]:
    """Return a function's value and its first and second derivatives, by autograd, in float64."""
    x = torch.tensor([at], dtype=torch.float64, requires_grad=True)
    value = function(x)
    (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x)
    return float(value.detach()), float(slope.detach()), float(curvature)


def exact(z: float) -> tuple[float, float, float]:
    """Return ``sum_k z^k / (k+1)!`` and its derivatives, in rational arithmetic."""
    q = Fraction(z)
    terms = range(200 if abs(z) > 1 else 30)
    value = sum(q**k / math.factorial(k + 1) for k in terms)
    slope = sum(k * q ** (k - 1) / math.factorial(k + 1) for k in terms if k >= 1)
    curvature = sum(k * (k - 1) * q ** (k - 2) / math.factorial(k + 1) for k in terms if k >= 2)
    return float(value), float(slope), float(curvature)


@pytest.mark.parametrize(
    "z", [0.0, 1e-300, 1e-12, -1e-8, 1e-4, -0.0299999, 0.03, -0.03, 0.0300001, 0.1, 0.7, -3.0, 12.0, -40.0]
)
def test_exprel_and_two_derivatives_are_exact(z) -> None:
    for actual, expected in zip(derivatives(exprel, z), exact(z), strict=True):
        assert actual == pytest.approx(expected, rel=2e-12)


def test_without_care_the_gradient_at_the_singularity_is_lost() -> None:
    def careless(x: torch.Tensor) -> torch.Tensor:
        return torch.where(x == 0, 1.0, x / (1 - torch.exp(-x)))

    value, slope, _ = derivatives(careless, 0.0)
    assert value == 1
    assert math.isnan(slope)
    assert derivatives(linoid, 0.0) == pytest.approx((1, 1 / 2, 1 / 6), rel=1e-14)


@pytest.mark.parametrize(
    ("gate", "V", "expected"),
    [
        (
            "m",
            -40.0,
            (1.0, 1 / 20, 1 / 600),
        ),  # x / (1 - e^-x) = 1 + x/2 + x^2/12 + ... with x = (V + 40) / 10
        ("n", -55.0, (0.1, 1 / 200, 1 / 6000)),
    ],
)
def test_rates_at_their_singularities(gate, V, expected) -> None:
    assert derivatives(lambda x: squid_axon(x)[gate][0], V) == pytest.approx(expected, rel=1e-13)


def test_rates_are_those_of_hodgkin_and_huxley() -> None:
    """Hodgkin & Huxley (1952) wrote them with v, the depolarisation from rest, negative upwards."""
    V = np.linspace(-100.3, 60.7, 50)
    v = -(V + 65)
    expected = {
        "m": (0.1 * (v + 25) / (np.exp((v + 25) / 10) - 1), 4 * np.exp(v / 18)),
        "h": (0.07 * np.exp(v / 20), 1 / (np.exp((v + 30) / 10) + 1)),
        "n": (0.01 * (v + 10) / (np.exp((v + 10) / 10) - 1), 0.125 * np.exp(v / 80)),
    }
    rates = squid_axon(torch.from_numpy(V))
    for gate, pair in expected.items():
        for actual, rate in zip(rates[gate], pair, strict=True):
            np.testing.assert_allclose(actual.numpy(), rate, rtol=1e-12)
        assert not np.allclose(rates[gate][0].numpy(), pair[1], rtol=0.1)


def test_gates_at_rest() -> None:
    """The steady states at -65 mV that Hodgkin & Huxley (1952) start from."""
    rates = squid_axon(torch.tensor(-65.0, dtype=torch.float64))
    steady = {gate: float(opening / (opening + closing)) for gate, (opening, closing) in rates.items()}
    assert steady == pytest.approx({"m": 0.0529, "h": 0.5961, "n": 0.3177}, abs=5e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_from_physiology_gradients_stay_finite(dtype) -> None:
    V = torch.tensor([-1e6, -3000.0, -500.0, 500.0, 3000.0, 1e6], dtype=dtype, requires_grad=True)
    rates = squid_axon(V)
    for opening, closing in rates.values():
        new = relax_gate(torch.full_like(V, 0.4), opening, closing, 0.025, "exponential_euler")
        assert bool(((new >= 0) & (new <= 1)).all())
        (slope,) = torch.autograd.grad(new.sum(), V, retain_graph=True)
        assert bool(slope.isfinite().all())


@pytest.mark.parametrize("rate", [0.0, 1e-9, 0.4, 7.0, -0.3])
def test_relax_solves_the_linear_equation(rate) -> None:
    x, drive, dt = 2.0, 3.0, 0.5
    expected = x + dt * drive  # the limit of a rate that vanishes
    if abs(rate) > 1e-3:
        expected = drive / rate + (x - drive / rate) * math.exp(-rate * dt)
    given = [torch.tensor(value, dtype=torch.float64) for value in (x, drive, rate)]
    assert float(relax(*given, dt, "exponential_euler")) == pytest.approx(expected, rel=1e-8)
    explicit = float(relax(*given, dt, "forward_euler"))
    assert explicit == pytest.approx(x + dt * (drive - rate * x), rel=1e-15)
    if abs(rate) > 1e-3:
        assert abs(explicit - expected) > 0.01


@pytest.mark.parametrize("method", ["exponential_euler", "forward_euler"])
def test_gates_relax_alike(method) -> None:
    x, opening, closing = torch.rand(3, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    general = relax(x, opening, opening + closing, 0.3, method)
    torch.testing.assert_close(relax_gate(x, opening, closing, 0.3, method), general, rtol=1e-14, atol=0)
    other = {"exponential_euler": "forward_euler", "forward_euler": "exponential_euler"}[method]
    assert float((relax_gate(x, opening, closing, 0.3, other) - general).abs().max()) > 1e-3
