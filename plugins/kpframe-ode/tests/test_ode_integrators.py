"""Tableaus, phi_1 and the scheme of a step."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from kpframe_ode.exponential import matrix_phi1, phi1
from kpframe_ode.integrators import INTEGRATORS, TABLEAUS, Scheme
from scipy.linalg import expm

from kpframe.errors import ArgumentError

EXPLICIT = [name for name in INTEGRATORS if not TABLEAUS[name].exponential]


def order_conditions(name: str) -> dict[int, list[float]]:
    """Return what Butcher's conditions of each order leave over (Hairer et al., section II.2)."""
    tableau = TABLEAUS[name]
    s = tableau.stages
    A, b, c = np.zeros((s, s)), np.array(tableau.b), np.array(tableau.c)
    for i, row in enumerate(tableau.a):
        A[i, :i] = row
    return {
        1: [b.sum() - 1],
        2: [b @ c - 1 / 2],
        3: [b @ c**2 - 1 / 3, b @ A @ c - 1 / 6],
        4: [b @ c**3 - 1 / 4, (b * c) @ A @ c - 1 / 8, b @ A @ c**2 - 1 / 12, b @ A @ A @ c - 1 / 24],
    }


@pytest.mark.parametrize("name", EXPLICIT)
def test_order_conditions(name) -> None:
    left = order_conditions(name)
    order = TABLEAUS[name].order
    assert order == {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4, "rk4_38": 4}[name]
    for p in range(1, order + 1):
        assert np.abs(left[p]).max() < 1e-15
    if order < 4:
        assert np.abs(left[order + 1]).max() > 0.04


def test_coefficients() -> None:
    """Kutta (1901), as in Hairer et al., table II.1.2: the classical method and the 3/8 rule."""
    assert TABLEAUS["rk4"].c == (0, 1 / 2, 1 / 2, 1)
    assert TABLEAUS["rk4_38"].c == pytest.approx((0, 1 / 3, 2 / 3, 1))
    assert TABLEAUS["rk4"].b != TABLEAUS["rk4_38"].b
    assert [Scheme.of("rk4", 1.0, 2).recalls(i) for i in range(8)] == [True, True, True, False] * 2
    assert [Scheme.of("midpoint", 1.0).recalls(i) for i in range(2)] == [False, False]


@pytest.mark.parametrize("name", EXPLICIT)
@pytest.mark.parametrize("z", [-3.0, -0.5, 0.0, 0.7])
def test_amplification_is_the_taylor_polynomial_of_exp(name, z) -> None:
    order = TABLEAUS[name].order
    expected = sum(z**k / math.factorial(k) for k in range(order + 1))
    assert Scheme.of(name, 2.0, 4).amplification(z / 0.5) == pytest.approx(expected, rel=1e-14)
    if z < -2:
        assert abs(expected) > 1  # unstable there, where exp(z) < 1


def test_amplification_of_exponential_euler_is_exact_on_its_linear_part() -> None:
    scheme = Scheme.of("exponential_euler", 0.5)
    assert scheme.amplification(-40.0, -40.0) == pytest.approx(math.exp(-20), abs=1e-15)
    assert abs(scheme.amplification(-40.0, 1.0)) > 1


@pytest.mark.parametrize("z", [-700.0, -3.0, -0.0101, -0.0099, -1e-9, 0.0, 1e-300, 1e-6, 0.0099, 0.0101, 2.5])
def test_phi1(z) -> None:
    with mpmath.workdps(40):
        exact = mpmath.mpf(z)
        value = (mpmath.expm1(exact) / exact) if z else mpmath.mpf(1)
        slope = mpmath.mpf(1) / 2
        if abs(z) > 1e-100:
            slope = (mpmath.exp(exact) - value) / exact
        value, slope = float(value), float(slope)
    point = torch.tensor(z, dtype=torch.float64, requires_grad=True)
    out = phi1(point)
    assert float(out.detach()) == pytest.approx(value, rel=1e-15)
    assert float(phi1(z)) == pytest.approx(value, rel=1e-15)
    (gradient,) = torch.autograd.grad(out, point)
    assert float(gradient) == pytest.approx(slope, rel=5e-14)


def test_phi1_of_a_matrix(draw, close, differ) -> None:
    Z = draw(4, 4, seed=1)
    solved = torch.from_numpy(np.linalg.solve(Z.numpy(), expm(Z.numpy()) - np.eye(4)))
    close(matrix_phi1(Z), solved, 1e-13)
    differ(matrix_phi1(Z), torch.from_numpy(expm(Z.numpy())))
    rates = torch.tensor([-2.0, 0.0, 1e-5, 0.3], dtype=torch.float64)  # singular
    close(matrix_phi1(torch.diag(rates)), torch.diag(phi1(rates)), 1e-15)


def test_times_of_evaluations() -> None:
    scheme = Scheme.of("rk4", 0.2, 2)
    assert [scheme.time(3.0, e) for e in range(scheme.evaluations)] == pytest.approx(
        [0.6, 0.65, 0.65, 0.7, 0.7, 0.75, 0.75, 0.8]
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("rk5", 0.1), "integrator: expected one of euler, .* got 'rk5'; did you mean 'rk4'"),
        (("euler", 0.0), "dt: expected a finite number > 0, got 0.0"),
        (("euler", float("inf")), "dt: expected a finite number > 0, got inf"),
        (("euler", True), "dt: expected a finite number > 0, got True"),
        (("euler", 0.1, 0), "substeps: expected a whole number >= 1, got 0"),
        (("euler", 0.1, 1.5), "substeps: expected a whole number >= 1, got 1.5"),
    ],
)
def test_refused_schemes(arguments, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        Scheme.of(*arguments)
