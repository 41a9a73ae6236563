"""Lines: of whatever variable, along steps, an axis of its own or one of a sweep, with 95% intervals."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import xarray as xr
from attrs import field, frozen
from matplotlib.axes import Axes

from kpframe.study._plot.look import (
    PANELS,
    WIDTH,
    Dims,
    Panels,
    axis_text,
    draw_legend,
    legend_of,
    panels_of,
    say,
    short,
    style,
    title_panel,
    unit_of,
)
from kpframe.study._plot.numbers import Numbers, check_dims, cut, few_steps, numbers_of, parts
from kpframe.study._plot.ticks import rescale, step_axis, step_places, whole, wide

#: Most lines in a panel.
LINES = 14


@frozen(kw_only=True)
class Look:
    """How lines are drawn.

    Attributes:
        ylabel, xlabel: of the panels; of the variable and of the dim where they are left out.
        scale: ``"log"``, ``"linear"``, or ``"auto"``: logarithmic where values are positive and far apart.
        step_axis: ``"true"`` or ``"index"``.
        most_steps: that are drawn along another axis.
        most: lines in a panel.
        level: value that a thin grey line is at.
        height: of a row of panels [inch].
        name: of a line, from its label and its place.
        sharey: whether the panels of a row have one axis.
    """

    ylabel: str | None = None
    xlabel: str | None = None
    scale: str = "auto"
    step_axis: str = "true"
    most_steps: int = 4
    most: int = LINES
    level: float | None = None
    height: float = 2.6
    name: Callable[[str, dict[Hashable, int]], str] = field(default=lambda label, _: label)
    sharey: bool = False


def draw_lines(
    data: xr.Dataset,
    name: str,
    x: str,
    *,
    axes: Axes | Panels = None,
    own: Sequence[str] = (),
    panels: Dims = None,
    look: Look | None = None,
    beside: Callable[[Axes], None] | None = None,
) -> np.ndarray:
    """Draw a variable along a dim, and return the panels ``[rows, columns]``.

    Args:
        data: that it is of.
        name: of the variable.
        x: dim along which it is drawn.
        axes: to draw on.
        own: further dims that belong to it, each of whose places is a line.
        panels: dims each of whose places has a panel of its own; those of the trainings when left out and
            there are own ones, none otherwise. All others are told apart by their lines.
        look: of the lines.
        beside: draws something else on each panel, which the legend names.

    Raises:
        ArgumentError: for dims that the variable has not.
    """
    look = look or Look()
    numbers = numbers_of(data, name)
    check_dims(numbers.values, [x], "x")
    notes = []
    if x != "step":
        kept, said = few_steps(numbers.values, look.most_steps)
        notes.append(said)
        if "step" in kept.dims:
            at = [numbers.values.step.values.tolist().index(step) for step in kept.step.values]
            flags = None if numbers.converged is None else numbers.converged.isel(step=at)
            numbers = Numbers(kept, numbers.half.isel(step=at), flags, numbers.seeds)
    rest = [str(dim) for dim in numbers.values.dims if dim != x]
    apart = _panel_dims(numbers.values, rest, own, panels)
    shown, said = cut(_known(numbers, list(parts(numbers.values, apart))), PANELS, "panels", apart)
    notes.append(said)
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    lines = [dim for dim in rest if dim not in apart]
    texts = [short(look.name(label, at), 54) for label, at in parts(numbers.values, lines)][: look.most]
    several = len(texts) > 1
    below = legend_of(texts) if several or beside is not None else 0.0
    size = (WIDTH, 0.5 + look.height * rows + below)
    grid = panels_of(axes, rows, columns, size, sharey=look.sharey)
    log = _logarithmic(numbers.values.values, look.scale)
    for panel, (title, place) in zip(grid.flat, shown, strict=False):
        if log:
            panel.set_yscale("log")
        notes.append(_panel(panel, numbers.isel(place), x, lines, look))
        if beside is not None:
            beside(panel)
        if apart and (len(shown) > 1 or numbers.values.sizes[apart[0]] > 1):
            title_panel(panel, title, columns)
    _label(grid, numbers.values, x, len(shown), look)
    if several or beside is not None:
        draw_legend(max(grid.flat, key=lambda panel: len(panel.get_legend_handles_labels()[1])), axes)
    kind = "Bars" if x == "step" or _texts(numbers.values, x) else "Bands and bars"
    if numbers.said:
        notes.append(f"{kind}: 95% intervals {numbers.said}.")
    say(grid, notes, axes)
    return grid


def _panel_dims(values: xr.DataArray, rest: Sequence[str], own: Sequence[str], panels: Dims) -> list[str]:
    if panels is not None:
        dims = [panels] if isinstance(panels, str) else list(panels)
        check_dims(values, dims, "panels")
        return [dim for dim in rest if dim in dims]
    if not any(dim in rest for dim in own):
        return []
    return [dim for dim in rest if dim not in own and dim != "step"]


def _known(numbers: Numbers, found: list[Any]) -> list[Any]:
    """Return the parts that have values, all where none has."""
    known = [one for one in found if bool(numbers.isel(one[1]).values.notnull().any())]
    return known or found[:1]


def _panel(panel: Axes, numbers: Numbers, x: str, dims: Sequence[str], look: Look) -> str:
    where = _places(numbers.values, x, look.step_axis)
    every = [(place, *one) for place, one in enumerate(parts(numbers.values, dims))]
    shown, said = cut(every, look.most, "lines", [dim for dim in dims if numbers.values.sizes[dim] > 1])
    for place, label, at in shown:
        one = numbers.isel(at)
        if bool(one.values.notnull().any()):
            own = style(place, look.name(label, at))
            if _texts(numbers.values, x):
                own |= {"linestyle": ""}
            draw_line(panel, where, one, own, bars=x == "step" or bool(own["linestyle"] == ""))
    if look.level is not None:
        panel.axhline(look.level, color="0.7", lw=0.8, zorder=0)
    known = numbers.values.values[np.isfinite(numbers.values.values)]
    hidden = int((known <= 0).sum()) if panel.get_yscale() == "log" else 0
    if not known.size:
        panel.text(0.5, 0.5, "no values", transform=panel.transAxes, ha="center", va="center", color="0.5")
    if hidden:
        said += f" {hidden} value{'s' if hidden > 1 else ''} of 0 or less not drawn."
    return said


def _logarithmic(values: np.ndarray, scale: str) -> bool:
    """Return whether all panels have a logarithmic axis."""
    known = values[np.isfinite(values)]
    return bool(known.size) and (
        (scale == "log" and bool(known.max() > 0)) or (scale == "auto" and wide(known))
    )


def draw_line(panel: Axes, where: np.ndarray, one: Numbers, own: dict[str, Any], *, bars: bool) -> None:
    """Draw a line with its intervals: bars of few points, a band of many; bounds as open markers."""
    values, half = one.values.values, one.half.values
    if len(where) > 40 and np.isfinite(values).sum() > 1:
        own = own | {"marker": ""}
    if not np.isfinite(half).any():
        panel.plot(where, values, **own)
    elif bars or len(where) <= 12:
        panel.errorbar(where, values, yerr=half, capsize=2.5, elinewidth=1.0, **own)
    else:
        panel.plot(where, values, **own)
        panel.fill_between(where, values - half, values + half, color=own["color"], alpha=0.2, lw=0)
    if one.converged is not None:
        bounds = np.where(one.converged.values, np.nan, values)
        panel.plot(where, bounds, **own | {"lw": 0, "mfc": "w", "label": "_", "marker": own["marker"] or "o"})


def _texts(values: xr.DataArray, x: str) -> list[str]:
    """Return the places of an axis that are no numbers, as texts."""
    if x in values.coords and values[x].dtype.kind not in "iuf":
        return [str(text) for text in values[x].values]
    return []


def _places(values: xr.DataArray, x: str, kind: str) -> np.ndarray:
    if x == "step":
        return step_places(values.step.values, kind)
    if x in values.coords and not _texts(values, x):
        return np.asarray(values[x].values)
    return np.arange(values.sizes[x])


def _label(grid: np.ndarray, values: xr.DataArray, x: str, count: int, look: Look) -> None:
    """Label the axes of the panels that are in use, and hide the others."""
    where = _places(values, x, "true")
    for place, panel in enumerate(grid.flat):
        if place >= count:
            panel.set_axis_off()
            continue
        if x == "step":
            step_axis(panel, values.step.values, look.step_axis)
        else:
            panel.set_xlabel(look.xlabel or short(axis_text(values, x), 40))
            if texts := _texts(values, x):
                panel.set_xticks(where, [short(text, 16) for text in texts], rotation=30, ha="right")
            elif where.dtype.kind in "iu" and not wide(where):
                whole(panel.xaxis)
            elif wide(where):
                rescale(panel.xaxis, "log")
        if place % grid.shape[1] == 0:
            panel.set_ylabel(look.ylabel or short(axis_text(values) + unit_of(values), 34))
