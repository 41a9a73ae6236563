"""What findings share: means over seeds with their intervals, in words and as lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from kpframe.study._over_seeds import half_interval

#: Colours that the colour-blind tell apart (Okabe and Ito).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def mean_and_half(values: xr.DataArray) -> tuple[float, float]:
    """Return the mean over seeds and half of its 95% interval by Student's t; ``values`` is [seed]."""
    return float(values.mean("seed")), float(half_interval(values, "seed"))


def said(values: xr.DataArray, digits: int = 2) -> str:
    """Return a mean over seeds with its interval, ``0.71 ± 0.02``."""
    mean, half = mean_and_half(values)
    return f"{mean:.{digits}f} ± {half:.{digits}f}"


def is_below(less: xr.DataArray, more: xr.DataArray) -> bool:
    """Return whether the interval of the mean of the differences, seed by seed, lies below 0."""
    mean, half = mean_and_half(less - more)
    return mean + half < 0


def draw_line(axes: Axes, x: Sequence[float], values: xr.DataArray, **style: Any) -> None:
    """Draw means over seeds with a band for their interval; ``values`` is [seed, x]."""
    mean, half = values.mean("seed"), half_interval(values, "seed")
    (line,) = axes.plot(x, mean, **{"marker": "o", "ms": 3.5, "lw": 1.5, **style})
    axes.fill_between(x, mean - half, mean + half, color=line.get_color(), alpha=0.18, lw=0)


def step_axis(axes: Axes, steps: Sequence[int]) -> None:
    """Let an axis of update steps grow like their logarithm, with 0 on it."""
    axes.set_xscale("symlog", linthresh=max(1, min(step for step in steps if step > 0)))
    axes.set_xticks(list(steps), [str(step) for step in steps], fontsize=7)
    axes.minorticks_off()
    axes.set_xlim(-0.2 * min(step for step in steps if step > 0), 1.2 * max(steps))
    axes.set_xlabel("updates")


def change_of(values: xr.DataArray, dim: str) -> str:
    """Return ``falls``, ``rises`` or ``not seen`` of values from the first to the last place along a dim."""
    first, last = values.isel({dim: 0}, drop=True), values.isel({dim: -1}, drop=True)
    return "falls" if is_below(last, first) else "rises" if is_below(first, last) else "not seen"


def trend(values: xr.DataArray, dim: str) -> xr.DataArray:
    """Return the slope of values along a dim per unit of its logarithm or, as text, of its place."""
    x = values[dim].astype(float)
    x = np.log(x)
    x = x - x.mean()
    return (values * x).sum(dim) / (x**2).sum()
