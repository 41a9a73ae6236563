"""What compares a step with each other step: a map, and its parts with the first, previous and final step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from kpframe.study._quantities.dims import attributes


def over_steps(
    recorded: xr.Dataset,
    name: str,
    dims: Sequence[str],
    values: np.ndarray,
    errors: np.ndarray | None,
    text: str,
) -> xr.Dataset:
    """Return ``<name>_map`` and ``<name>_with_first``, ``_with_previous``, ``_with_final``.

    The first, previous and final step are those at which there is a figure.

    Args:
        recorded: has the coordinates.
        name: of the figure.
        dims: that ``values`` has before the steps.
        values: ``[*dims, step, step_other]``, NaN where a step has no figure.
        errors: standard errors, in the same shape; None for figures without.
        text: what the figure is.
    """
    there = np.flatnonzero(~np.isnan(values).all(axis=(*range(len(dims)), -1)))
    data = _with_errors(f"{name}_map", (*dims, "step", "step_other"), values, errors, text)
    first, final = (int(there[0]), int(there[-1])) if len(there) else (0, 0)
    before = np.full(values.shape[-1], -1)
    before[there[1:]] = there[:-1]
    columns = {
        "first": np.full(len(before), first),
        "previous": before,
        "final": np.full(len(before), final),
    }
    for which, column in columns.items():
        picked = [None if part is None else _picked(part, column) for part in (values, errors)]
        assert picked[0] is not None
        said = text.replace("another step", f"the {which} step")
        data |= _with_errors(f"{name}_with_{which}", (*dims, "step"), picked[0], picked[1], said)
    found = xr.Dataset(data, coords={dim: recorded.coords[dim] for dim in (*dims, "step")})
    return found.assign_coords(
        step_other=("step_other", recorded.step.values, attributes("updates made at the other step"))
    )


def _picked(values: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Return ``values[..., i, column[i]]``, NaN where the column is -1."""
    rows = np.arange(len(column))
    return np.where(column < 0, np.nan, values[..., rows, column])


def _with_errors(
    name: str, dims: tuple[str, ...], values: np.ndarray, errors: np.ndarray | None, text: str
) -> dict[str, tuple[tuple[str, ...], np.ndarray, dict[str, str]]]:
    found = {name: (dims, values, attributes(text))}
    if errors is not None:
        found[f"{name}_stderr"] = (dims, errors, attributes(f"standard error: {text}"))
    return found
