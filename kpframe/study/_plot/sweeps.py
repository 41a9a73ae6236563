"""Figures of whatever variable: over steps, along a dim, over one axis of a sweep, over two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from kpframe.errors import ArgumentError, closest, mismatch
from kpframe.study._plot import lines, maps
from kpframe.study._plot.look import Dims, Panels
from kpframe.study._plot.numbers import chosen
from kpframe.study._plot.source import figure
from kpframe.study._plot.ticks import wide


@figure()
def series(
    data: xr.Dataset,
    /,
    name: str,
    *,
    axes: Panels = None,
    panels: Dims = None,
    step_axis: str = "true",
    **selection: Any,
) -> np.ndarray:
    """Any variable along the training, with 95% intervals.

    Args:
        name: of the variable.

    Raises:
        ArgumentError: for a variable that is not there, or not along steps.
    """
    check_variable(data, name)
    look = lines.Look(step_axis=step_axis)
    return lines.draw_lines(data, name, "step", axes=axes, panels=panels or (), look=look)


@figure()
def curves(
    data: xr.Dataset, /, name: str, x: str, *, axes: Panels = None, panels: Dims = None, **selection: Any
) -> np.ndarray:
    """Any variable along a dim ``x``: steps of a trial, places in a spectrum; few of the steps as lines.

    Args:
        name: of the variable.
        x: dim along which it is drawn.
        panels: dims each of whose places has a panel; all but the steps when left out.

    Raises:
        ArgumentError: for a variable or a dim that is not there.
    """
    check_variable(data, name)
    if panels is None:
        panels = [str(dim) for dim in data[name].dims if dim not in (x, "step", "seed")]
    return lines.draw_lines(data, name, x, axes=axes, panels=panels)


@figure()
def heat_maps(
    data: xr.Dataset, /, name: str, rows: str, columns: str, *, axes: Panels = None, **selection: Any
) -> np.ndarray:
    """Any variable over two dims, of an operator or of a sweep, a panel for each place of the others.

    With two axes of a sweep it is a map of the sweep, at the first and last step unless ``step`` selects
    others: ``heat_maps(run, "effective_rank", "input_size", "output_size", operator="K", step=1000)``.

    Args:
        name: of the variable.
        rows: dim along the rows.
        columns: dim along the columns.

    Raises:
        ArgumentError: for a variable or a dim that is not there, and for the same dim twice.
    """
    check_variable(data, name)
    if rows == columns:
        raise ArgumentError(mismatch("columns", f"another dim than rows, {rows!r}", repr(columns)))
    return maps.draw_maps(data, name, rows, columns, axes=axes)


@figure()
def sweep(
    data: xr.Dataset,
    /,
    name: str,
    over: str,
    *,
    axes: Panels = None,
    panels: Dims = None,
    theory: Callable[[np.ndarray], Any] | Sequence[float] | None = None,
    **selection: Any,
) -> np.ndarray:
    """Any variable over an axis of a sweep, at the last step unless ``step`` selects others.

    Args:
        name: of the variable, ``"effective_rank"``.
        over: axis of the sweep, ``"gain"``.
        theory: what the values are expected to be: a function of the places on the axis, or a value for each
            of them; drawn as a dashed black line.

    Raises:
        ArgumentError: for a variable or an axis that is not there, and a theory of another length.
    """
    check_variable(data, name)
    if "step" in data[name].dims and not chosen(data, "step"):
        data = data.isel(step=[-1])
    look = lines.Look(xlabel=over.replace("_", " "))
    beside = None if theory is None else _theory(data[over], theory)
    return lines.draw_lines(data, name, over, axes=axes, panels=panels or (), look=look, beside=beside)


def _theory(over: xr.DataArray, theory: Any) -> Callable[[Axes], None]:
    """Return what draws a theory on a panel."""
    where, number = over.values, over.dtype.kind in "iuf"
    if callable(theory):
        if not number:
            raise ArgumentError(mismatch("theory", f"values, as {over.name} is text", "a function"))
        space = np.geomspace if wide(where) else np.linspace
        fine = space(where.min(), where.max(), 200) if len(where) > 1 else where
        values = np.array([float(theory(one)) for one in fine])
    else:
        fine = where if number else np.arange(len(where))
        values = np.asarray(theory, dtype=float)
        if values.shape != where.shape:
            raise ArgumentError(
                mismatch("theory", f"{len(where)} values, one for each {over.name}", f"shape {values.shape}")
            )
    look: dict[str, Any] = {
        "color": "k",
        "ls": "--",
        "lw": 1.2,
        "marker": "x" if len(fine) == 1 else "",
        "label": "theory",
    }

    def draw(panel: Axes) -> None:
        panel.plot(fine, values, **look)

    return draw


def check_variable(data: xr.Dataset, name: str) -> None:
    """Raise ``ArgumentError`` for a variable that is not there, or no numbers."""
    known = [str(one) for one, values in data.data_vars.items() if values.dtype.kind in "iufb"]
    if name not in known:
        few = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
        raise ArgumentError(
            mismatch("name", f"a variable of the data: {few}", repr(name)) + closest(name, known)
        )
