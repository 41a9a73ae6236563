"""How sure a mean over seeds is, by Student's t: one definition for datasets, tables and pages.

Values that are NaN are left out; one value alone says nothing of others, so that its error is infinite, and
where there is none it is NaN.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import xarray as xr
from scipy.special import stdtrit

from kpframe.spectra._numerics.statistics import t_factor


def stderr_of_mean(values: xr.DataArray, dim: str) -> xr.DataArray:
    """Return the standard error of the mean along a dim, widened: 1.96 times it is the 95% interval."""
    return _times_error(values, dim, t_factor)


def half_interval(values: xr.DataArray, dim: str, level: float = 0.95) -> xr.DataArray:
    """Return half of the interval of the mean along a dim, at a level between 0 and 1."""
    return _times_error(values, dim, lambda num: float(stdtrit(num - 1, (1 + level) / 2)))


def _times_error(values: xr.DataArray, dim: str, factor: Callable[[int], float]) -> xr.DataArray:
    by_num = [math.nan, math.inf]
    by_num += [factor(count) / math.sqrt(count) for count in range(2, values.sizes[dim] + 1)]

    def along(numbers: np.ndarray, axis: int) -> np.ndarray:
        num = np.count_nonzero(~np.isnan(numbers), axis=axis)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of fewer than two numbers, which by_num has
            spread = np.nanstd(numbers, axis=axis, ddof=1)
        half: np.ndarray = np.where(num == 1, 1.0, spread) * np.array(by_num)[num]
        return half

    return values.astype(float).reduce(along, dim)  # at once: pages have thousands of means
