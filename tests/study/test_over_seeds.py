"""Intervals of means over seeds are those of SciPy's Student's t, and say where nothing is known."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from kpframe.study._over_seeds import half_interval, stderr_of_mean

VALUES = xr.DataArray(np.random.default_rng(0).normal(size=(5, 4)), dims=("seed", "k"))
NUMBERS = [5, 3, 1, 0]  # values that are known, by k
KNOWN = VALUES.where(xr.DataArray(np.arange(5)[:, None] < np.array(NUMBERS), dims=("seed", "k")))


@pytest.mark.parametrize("level", [0.95, 0.5])
def test_an_interval_is_that_of_students_t(level: float) -> None:
    halves = half_interval(KNOWN, "seed", level).values
    for k, num in enumerate(NUMBERS[:2]):
        one = KNOWN.values[:num, k]
        low, high = stats.t.interval(level, num - 1, one.mean(), stats.sem(one))
        assert halves[k] == pytest.approx((high - low) / 2, rel=1e-12)
    assert halves[2] == np.inf
    assert np.isnan(halves[3])


def test_a_standard_error_is_widened_to_the_interval_of_the_normal_law() -> None:
    errors = stderr_of_mean(KNOWN, "seed").values
    normal = stats.norm.ppf(0.975)
    np.testing.assert_allclose(normal * errors[:2], half_interval(KNOWN, "seed").values[:2], rtol=1e-12)
    assert errors[0] > 1.3 * stats.sem(KNOWN.values[:, 0])  # the plain one is too narrow
    assert errors[2] == np.inf
    assert np.isnan(errors[3])
