"""Figures of the dynamics: Lyapunov exponents, what is routed where, what operators make of random input."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from kpframe.study._plot import lines, maps
from kpframe.study._plot.look import Panels, one_of, unit_of
from kpframe.study._plot.source import figure


@figure("lyapunov_exponent_mean", quantity="lyapunov")
def lyapunov_exponents(data: xr.Dataset, /, *, axes: Panels = None, **selection: Any) -> np.ndarray:
    """The Lyapunov spectrum, mean over trials: exponents from the largest; above 0 perturbations grow."""
    unit = unit_of(data.lyapunov_exponent_mean)
    look = lines.Look(
        xlabel="exponent, largest first", ylabel=f"Lyapunov exponent{unit}", scale="linear", level=0.0
    )
    panels = _trainings(data.lyapunov_exponent_mean, "exponent")
    return lines.draw_lines(data, "lyapunov_exponent_mean", "exponent", axes=axes, panels=panels, look=look)


@figure("ftle", quantity="ftle")
def finite_time_exponents(data: xr.Dataset, /, *, axes: Panels = None, **selection: Any) -> np.ndarray:
    """The largest finite-time Lyapunov exponent by trial and step, as maps; grey where there is no step."""
    look = maps.Look(
        bar=f"finite-time exponent{unit_of(data.ftle)}", mean=False, rows="trial", columns="step of a trial"
    )
    return maps.draw_maps(data, "ftle", "trial", "time", axes=axes, look=look)


@figure("ftle_mean", quantity="ftle")
def mean_finite_time_exponents(data: xr.Dataset, /, *, axes: Panels = None, **selection: Any) -> np.ndarray:
    """The largest finite-time Lyapunov exponent at each step of a trial, mean over trials."""
    look = lines.Look(ylabel=f"finite-time exponent{unit_of(data.ftle_mean)}", scale="linear", level=0.0)
    panels = _trainings(data.ftle_mean, "time")
    return lines.draw_lines(data, "ftle_mean", "time", axes=axes, panels=panels, look=look)


@figure("routing", quantity="routing")
def routing(data: xr.Dataset, /, *, axes: Panels = None, **selection: Any) -> np.ndarray:
    """The part of a perturbation at step s (columns) that arrives at step t (rows)."""
    look = maps.Look(bar="part that arrives", rows="step of arrival, t", columns="step of perturbation, s")
    return maps.draw_maps(data, "routing", "time", "time_other", axes=axes, look=look)


@figure("action_norm", "action_dimension", quantity="random_action")
def random_action(
    data: xr.Dataset, /, *, axes: Panels = None, what: str = "norm", step_axis: str = "true", **selection: Any
) -> np.ndarray:
    """What ``K``, ``P K`` and ``P K P*`` make of random input.

    Args:
        what: ``"norm"`` of the action by step of a trial, or ``"dimension"``, the effective dimension of the
            action over units, along the training.
    """
    name = f"action_{one_of('what', what, ('norm', 'dimension'))}"
    if what == "dimension":
        look = lines.Look(ylabel="effective dimension\nof the action", step_axis=step_axis)
        return lines.draw_lines(data, name, "step", axes=axes, own=["action"], look=look)
    look = lines.Look(ylabel="norm of the action\non random signs")
    panels = [*_trainings(data[name], "time")]
    return lines.draw_lines(data, name, "time", axes=axes, panels=panels, look=look)


def _trainings(values: xr.DataArray, x: str) -> list[str]:
    """Return all dims but x, seeds and steps: places of each have a panel, and steps are its lines."""
    return [str(dim) for dim in values.dims if dim not in (x, "step", "seed")]
