"""The limit of infinite width: Gaussian expectations against integration, networks against their limit."""

from __future__ import annotations

from math import erf

import numpy as np
import pytest
import torch
from scipy.integrate import dblquad

from kpframe import Model, Readout
from kpframe.errors import ArgumentError
from kpframe.study._quantities.infinite_width import InfiniteWidth
from kpframe.study._quantities.mean_field import expectations, limits

from ...toy_moments import F64, Cell, I, O, moment_of, trials_of  # noqa: TID252

FUNCTIONS = {
    "tanh": (np.tanh, lambda u: 1 / np.cosh(u) ** 2),
    "erf": (erf, lambda u: 2 / np.sqrt(np.pi) * np.exp(-(u**2))),
}


class Wide(Model):
    """``h' = tanh(W h + U x)``, normal weights of variance v_w / n and v_u / m."""

    def __init__(self, width: int, seed: int, v_w: float = 1.2, v_u: float = 0.7) -> None:
        super().__init__(I, {"h": width})
        source = torch.Generator().manual_seed(seed)
        draws = [torch.randn(width, columns, generator=source, dtype=F64) for columns in (width, I)]
        self.weight_hh_l0 = torch.nn.Parameter(draws[0] * (v_w / width) ** 0.5)
        self.weight_ih_l0 = torch.nn.Parameter(draws[1] * (v_u / I) ** 0.5)

    def step(self, x: torch.Tensor, h: torch.Tensor, t: torch.Tensor | None = None) -> torch.Tensor:
        return torch.tanh(h @ self.weight_hh_l0.T + x @ self.weight_ih_l0.T)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_expectations_are_integrals(name: str) -> None:
    S = np.array([[0.9, 0.4], [0.4, 1.3]])
    inverse, size = np.linalg.inv(S), 2 * np.pi * np.sqrt(np.linalg.det(S))
    for found, function in zip(expectations(S, name), FUNCTIONS[name], strict=True):

        def weighed(u: float, v: float, function=function) -> float:
            at = np.array([u, v])
            return function(u) * function(v) * np.exp(-at @ inverse @ at / 2) / size

        wanted = dblquad(weighed, -8, 8, -8, 8, epsabs=1e-7)[0]
        assert found[0, 1] == pytest.approx(wanted, rel=1e-6)
        assert abs(found[0, 0] - wanted) > 0.05


def test_expectations_of_relu_are_those_of_draws() -> None:
    S = np.array([[0.9, -0.4], [-0.4, 1.3]])
    u = np.random.default_rng(0).multivariate_normal([0, 0], S, 400_000)
    for found, draws in zip(expectations(S, "relu"), (np.maximum(u, 0), u > 0), strict=True):
        products = draws[:, 0] * draws[:, 1]
        assert abs(found[0, 1] - products.mean()) < 4 * products.std() / len(u) ** 0.5
        assert found[0, 0] == pytest.approx(np.mean(draws[:, 0] ** 2), rel=0.01)


def test_limits_of_two_steps_are_those_written_out() -> None:
    x = np.array([[[1.0, -0.5], [0.3, 2.0]]])
    v_w, v_u, v_b = 1.5, 0.8, 0.1
    found = limits(x, recurrent=v_w, inputs=v_u, bias=v_b, nonlinearity="erf")
    S_0 = v_u * x[0, 0] @ x[0, 0] / 2 + v_b
    E_0, D_0 = (one[0, 0] for one in expectations(np.array([[S_0]]), "erf"))
    S_1 = v_w * E_0 + v_u * x[0, 1] @ x[0, 1] / 2 + v_b
    D_1 = expectations(np.array([[S_1]]), "erf")[1][0, 0]
    assert found["K"][0, 0, 0, 0] == pytest.approx(D_0 * S_0, rel=1e-12)
    assert found["K"][0, 1, 0, 1] == pytest.approx(D_1 * S_1, rel=1e-12)
    assert found["Phi"][0, 1, 0, 1] == pytest.approx(D_1 * (S_1 + v_w * D_0 * S_0), rel=1e-12)
    assert found["P P*"][0, 1, 0, 1] == pytest.approx(1 + v_w * D_1, rel=1e-12)
    assert found["P P*"][0, 0, 0, 1] == 0


def measured(width: int, seed: int, **settings):
    trials = trials_of(lengths=(5, 4))
    moment = moment_of(trials, model=Wide(width, seed), readout=Readout(width, O, generator=0, dtype=F64))
    return InfiniteWidth(**{"recurrent_variance": 1.2, "input_variance": 0.7} | settings).measure(moment)


@pytest.mark.slow
def test_errors_fall_with_width() -> None:
    every = {width: [measured(width, seed).limit_error for seed in range(6)] for width in (8, 24)}
    errors = {width: np.sqrt(np.mean(np.square(rows), axis=0)) for width, rows in every.items()}
    ratios = errors[8] / errors[24]
    assert np.all((ratios > 1.2) & (ratios < 3.5)), ratios  # 1.7 for an error that falls as n^-1/2


def test_a_network_of_a_few_units_comes_near_its_limit() -> None:
    data = measured(24, 0)
    assert np.all((data.limit_error > 0.01) & (data.limit_error < 0.5))
    assert bool(data.unit_trace.isel(trial=1, time=slice(4, None)).isnull().all())
    first = data.isel(trial=0, time=0)
    assert float(first.unit_trace.sel(operator="P P*")) == pytest.approx(1, rel=1e-12)
    assert str(data.limit_reason.item()) == ""


def test_another_network_has_no_such_limit() -> None:
    other = measured(40, 0, recurrent_variance=2.4)
    assert str(other.limit_reason.item()).startswith("weight_hh_l0 has entries of variance 0.02")
    assert bool(other.limit_error.isnull().all())
    assert str(measured(8, 0, nonlinearity="relu").limit_reason.item()) == (
        "its states are not relu(W h + U x + b), from 0 on"
    )
    data = InfiniteWidth().measure(moment_of(trials_of(), model=Cell()))
    assert str(data.limit_reason.item()) == "it has no parameter weight_hh_l0 of shape [4, 4]"
    with pytest.raises(ArgumentError, match="most: expected at least 168, the products"):
        InfiniteWidth(most=64).measure(moment_of(trials_of()))
