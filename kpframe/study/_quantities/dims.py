"""The dimensions that quantities share, as coordinates with their attributes, and what a moment lacks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray as xr

from kpframe.errors import ArgumentError, mismatch
from kpframe.study._moment import Moment


def attributes(text: str, units: str = "1") -> dict[str, str]:
    """Return the attributes of a variable."""
    return {"long_name": text, "units": units}


def operator_coordinate(names: Iterable[str]) -> xr.Variable:
    """Return the coordinate of the dimension ``operator``."""
    return xr.Variable("operator", list(names), attributes("operator on states"))


def time_coordinate(moment: Moment, dim: str = "time") -> xr.Variable:
    """Return the coordinate of the dimension ``time``: steps from 0 on, as in ``select(time=...)``."""
    return xr.Variable(dim, np.arange(moment.probe.inputs.shape[1]), attributes("step of a trial"))


def trial_coordinate(moment: Moment, dim: str = "trial") -> xr.Variable:
    """Return the coordinate of the dimension ``trial``: places among the inputs, from 0 on."""
    return xr.Variable(dim, np.arange(len(moment.whole_probe.inputs)), attributes("trial"))


def number_coordinate(dim: str, count: int, text: str) -> xr.Variable:
    """Return a coordinate that counts from 1: ``k``, ``mode``."""
    return xr.Variable(dim, np.arange(1, count + 1), attributes(text))


def require(moment: Moment, needs: Iterable[str]) -> None:
    """Raise ``ArgumentError`` where a moment lacks what a quantity needs of it."""
    around = moment.around
    there = {
        "readout": moment.readout is not None,
        "targets": around.loss is not None and moment.probe.trials is not None,
        "test": around.loss is not None and around.test is not None,
        "rules": bool(around.rules),
    }
    lacking = [name for name in needs if not there[name]]
    if lacking:
        raise ArgumentError(mismatch("moment", " and ".join(needs), f"none of {', '.join(lacking)}"))


def numbers(tensor: Any) -> np.ndarray:
    """Return a tensor as an array, of float64 where it has real numbers."""
    array: np.ndarray = (tensor.double() if tensor.is_floating_point() else tensor).cpu().numpy()
    return array
