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
from kpframe.study._plot.numbers import Numbers, check_dims, cut, numbers_of, parts
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


@frozen(eq=False)
class Line:
    """A line of a panel.

    Attributes:
        label: what the legend calls it.
        place: of its colour and marker among all.
        numbers: along the one axis.
    """

    label: str
    place: int
    numbers: Numbers


@frozen(eq=False)
class Panel:
    """What is drawn on one panel.

    Attributes:
        title: of it; empty for none.
        values: all that its lines are of, by which its axes are scaled.
        lines: that are drawn.
        ylabel: of its axis.
        empty: what stands there where no line has a value.
    """

    title: str
    values: xr.DataArray
    lines: Sequence[Line]
    ylabel: str
    empty: str = "no values"


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
        numbers, said = numbers.at_few_steps(look.most_steps)
        notes.append(said)
    values = numbers.values
    rest = [str(dim) for dim in values.dims if dim != x]
    apart = _panel_dims(values, rest, own, panels)
    shown, said = cut(_known(numbers, list(parts(values, apart))), PANELS, "panels", apart)
    notes.append(said)
    dims = [dim for dim in rest if dim not in apart]
    kept, said = cut(list(parts(values, dims)), look.most, "lines", [d for d in dims if values.sizes[d] > 1])
    notes.append(said)
    titled = bool(apart) and (len(shown) > 1 or values.sizes[apart[0]] > 1)
    ylabel = look.ylabel or axis_text(values) + unit_of(values)
    drawn = []
    for title, at in shown:
        lines = [
            Line(look.name(label, own_at), place, numbers.isel(at | own_at))
            for place, (label, own_at) in enumerate(kept)
        ]
        drawn.append(Panel(title if titled else "", values, lines, ylabel))
    grid, said_of_panels = draw_panels(drawn, x, axes=axes, look=look, beside=beside)
    notes += said_of_panels
    kind = "Bars" if x == "step" or _texts(values, x) else "Bands and bars"
    if numbers.said:
        notes.append(f"{kind}: 95% intervals {numbers.said}.")
    say(grid, notes, axes)
    return grid


def draw_panels(
    panels: Sequence[Panel],
    x: str,
    *,
    axes: Axes | Panels = None,
    look: Look | None = None,
    columns: int = 3,
    beside: Callable[[Axes], None] | None = None,
) -> tuple[np.ndarray, list[str]]:
    """Draw panels of lines along a dim; return them ``[rows, columns]``, and what is to be said of them.

    One legend stands below where all panels have the same lines, otherwise each has its own.

    Args:
        panels: what is drawn on each.
        x: the dim.
        axes: to draw on.
        look: of the lines.
        columns: most panels beside each other.
        beside: draws something else on each panel, which the legend names.
    """
    look = look or Look()
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    texts = [short(line.label, 54) for line in max(panels, key=lambda own: len(own.lines)).lines]
    alike = len({tuple(line.label for line in own.lines) for own in panels if own.lines}) < 2
    named = len(texts) > 1 or beside is not None
    size = (WIDTH, 0.5 + look.height * rows + (legend_of(texts) if named and alike else 0.0))
    grid = panels_of(axes, rows, columns, size, sharey=look.sharey)
    together = np.concatenate([own.values.values.ravel() for own in panels]) if look.sharey else None
    notes = []
    for panel, own in zip(grid.flat, panels, strict=False):
        if _logarithmic(own.values.values if together is None else together, look.scale):
            panel.set_yscale("log")
        notes.append(_panel(panel, own, x, look))
        if beside is not None:
            beside(panel)
        if own.title:
            title_panel(panel, own.title, columns)
        if not alike and len(own.lines) > 1:
            panel.legend(frameon=False, fontsize=7)
    _label(grid, panels, x, look)
    if named and alike:
        draw_legend(grid, axes)
    return grid, notes


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


def _panel(panel: Axes, own: Panel, x: str, look: Look) -> str:
    where = _places(own.values, x, look.step_axis)
    for line in own.lines:
        if bool(line.numbers.values.notnull().any()):
            drawn = style(line.place, line.label)
            if _texts(own.values, x):
                drawn |= {"linestyle": ""}
            draw_line(panel, where, line.numbers, drawn, bars=x == "step" or bool(drawn["linestyle"] == ""))
    if look.level is not None:
        panel.axhline(look.level, color="0.7", lw=0.8, zorder=0)
    values = [line.numbers.values.values.ravel() for line in own.lines] or [np.zeros(0)]
    known = np.concatenate(values)
    known = known[np.isfinite(known)]
    if not known.size:
        panel.text(0.5, 0.5, own.empty, transform=panel.transAxes, ha="center", va="center", color="0.5")
    hidden = int((known <= 0).sum()) if panel.get_yscale() == "log" else 0
    return f"{hidden} value{'s' if hidden > 1 else ''} of 0 or less not drawn." if hidden else ""


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


def _label(grid: np.ndarray, panels: Sequence[Panel], x: str, look: Look) -> None:
    """Label the axes of the panels that are in use, and hide the others; one label for like ones of a row."""
    steps = np.unique(np.concatenate([own.values.step.values for own in panels])) if x == "step" else None
    columns = grid.shape[1]
    for place, panel in enumerate(grid.flat):
        if place >= len(panels):
            panel.set_axis_off()
            continue
        values, ylabel = panels[place].values, panels[place].ylabel
        if steps is not None:
            step_axis(panel, steps, look.step_axis)
        else:
            where = _places(values, x, "true")
            panel.set_xlabel(look.xlabel or short(axis_text(values, x), 40))
            if texts := _texts(values, x):
                panel.set_xticks(where, [short(text, 16) for text in texts], rotation=30, ha="right")
            elif where.dtype.kind in "iu" and not wide(where):
                whole(panel.xaxis)
            elif wide(where):
                rescale(panel.xaxis, "log")
        if place % columns == 0 or ylabel != panels[place - 1].ylabel:
            panel.set_ylabel(short(ylabel, 34) if look.ylabel is None else ylabel)
