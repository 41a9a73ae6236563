"""Values and standard errors from samples, against their formulas and against what samples really spread."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import t as student

from kpframe.spectra._numerics.statistics import jackknife, mean, only_mean, t_factor

F64 = torch.float64


def test_the_widening_is_that_of_the_t_interval() -> None:
    for num in (2, 5, 30):
        assert 1.959964 * t_factor(num) == pytest.approx(float(student(num - 1).ppf(0.975)), rel=1e-6)
    assert t_factor(10**6) == pytest.approx(1, abs=1e-5)


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    samples = torch.tensor([[1.0], [2.0], [4.0], [9.0]], dtype=F64)
    value, stderr = jackknife(samples, only_mean)
    assert value == pytest.approx(4, rel=1e-12)
    # the squared deviations 9 + 4 + 0 + 25 = 38, over 3 and over 4
    assert stderr == pytest.approx(math.sqrt(38 / 3 / 4) * t_factor(4), rel=1e-12)
    assert mean(samples[:, 0]) == pytest.approx((value, stderr), rel=1e-12)
    assert jackknife(samples[:1], only_mean) == (1, math.inf)


def test_the_jackknife_of_a_ratio_by_its_definition() -> None:
    samples = torch.tensor([[1.0, 2.0], [2.0, 3.0], [4.0, 5.0], [9.0, 8.0]], dtype=F64)
    left = [(16 - a) / (18 - b) for a, b in samples.tolist()]  # the ratios without one sample each
    middle = sum(left) / 4
    value, stderr = jackknife(samples, lambda means: means[..., 0] / means[..., 1])
    assert value == pytest.approx(4 * 16 / 18 - 3 * middle, rel=1e-12)
    spread = math.sqrt(3 / 4 * sum((x - middle) ** 2 for x in left))
    assert stderr == pytest.approx(spread * t_factor(4), rel=1e-12)


def test_the_jackknife_reports_the_spread_and_takes_the_bias_out() -> None:
    """The square of the mean of 40 normal samples is too large by 1 / 40, and spreads by 2 mu / sqrt(40)."""
    draws = torch.randn(2000, 40, 1, generator=torch.Generator().manual_seed(0), dtype=F64) + 3
    found = torch.tensor([jackknife(samples, lambda means: means[..., 0] ** 2) for samples in draws])
    values, errors = found.unbind(1)
    assert float(errors.square().mean().sqrt()) / t_factor(40) == pytest.approx(float(values.std()), rel=0.04)
    assert float(values.std()) == pytest.approx(6 / math.sqrt(40), rel=0.04)
    of_the_mean = 6 / math.sqrt(40) / math.sqrt(2000)
    assert abs(float(values.mean()) - 9) < 3 * of_the_mean
    taken_out = draws.mean(1).square().flatten() - values  # of the same draws, and so known far better
    assert float(taken_out.mean()) == pytest.approx(1 / 40, rel=0.03)
