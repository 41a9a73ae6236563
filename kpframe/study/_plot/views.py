"""Figures of reduced operators: their leading eigenfunctions, and how alike these stay."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import xarray as xr

from kpframe.errors import ArgumentError, mismatch
from kpframe.study._plot import lines, maps
from kpframe.study._plot.look import UPDATES, Panels
from kpframe.study._plot.numbers import one_seed
from kpframe.study._plot.source import figure


@figure("view_function", "view_explained", quantity="views")
def views(data: xr.Dataset, /, *, axes: Panels = None, modes: int = 3, **selection: Any) -> np.ndarray:
    """The leading eigenfunctions of a reduced operator, over the one axis that was left, or as maps over two.

    Those of the last step unless ``step`` selects others; of several seeds the first, as signs and order are
    each seed's own. A line's label has the share of the trace that it explains.

    Args:
        modes: how many are drawn.

    Raises:
        ArgumentError: for operators of which no axis, or more than two, were left.
    """
    data, _ = one_seed(data)
    data = data.isel(view_mode=slice(modes))
    if "step" in data.dims:
        data = data.isel(step=[-1])
    own = [str(dim) for dim in data.view_function.dims if dim in _axes(data)]
    function, share = data.view_function, data.view_explained
    if len(own) == 2:
        return maps.draw_maps(data, "view_function", own[0], own[1], axes=axes)
    if len(own) != 1:
        wanted = "one axis or two in the reduced operators' eigenfunctions"
        raise ArgumentError(mismatch("views", wanted, ", ".join(own) or "none"))

    def named(label: str, at: dict[Hashable, int]) -> str:
        rest = {dim: place for dim, place in at.items() if dim in share.dims}
        known = share.isel(rest).values.ravel()
        whole = known.size == 1 and np.isfinite(known[0])
        return f"{at.get('view_mode', 0) + 1}: {float(known[0]):.0%}" if whole else label

    apart = [str(dim) for dim in function.dims if dim not in (*own, "view_mode", "step")]
    several = any(function.sizes[dim] > 1 for dim in apart)
    look = lines.Look(level=0.0, scale="linear", ylabel="eigenfunction", name=_plain if several else named)
    return lines.draw_lines(data, "view_function", own[0], axes=axes, panels=apart, look=look)


def _plain(label: str, at: dict[Hashable, int]) -> str:
    return f"eigenfunction {at.get('view_mode', 0) + 1}"


def _axes(data: xr.Dataset) -> set[str]:
    """Return the dims that eigenfunctions have beside those of their eigenvalues."""
    return set(map(str, data.view_function.dims)) - set(map(str, data.view_value.dims))


@figure("view_overlap_map", quantity="views")
def view_alignments(
    data: xr.Dataset, /, *, axes: Panels = None, mode: int = 1, step_axis: str = "true", **selection: Any
) -> np.ndarray:
    """Overlap of the leading eigenfunction of each reduced operator with itself at every other step.

    This is the step-by-step map of a leading averaged direction: ``mean`` over trials in the settings of the
    quantity ``views``.

    Args:
        mode: place of the eigenfunction, from 1.

    Raises:
        ArgumentError: for a place that is not recorded.
    """
    known = [int(place) for place in data.view_mode.values]
    if mode not in known:
        raise ArgumentError(mismatch("mode", f"one of {known}", repr(mode)))
    data = data.isel(view_mode=known.index(mode))
    look = maps.Look(
        bar=f"overlap of eigenfunction {mode}",
        limits=(0.0, 1.0),
        rows=UPDATES,
        columns=UPDATES,
        step_axis=step_axis,
    )
    return maps.draw_maps(data, "view_overlap_map", "step", "step_other", axes=axes, look=look)
