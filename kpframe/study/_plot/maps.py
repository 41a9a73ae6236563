"""Heat maps of whatever variable over two dims, with one colour scale for all panels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from attrs import frozen
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.ticker import MaxNLocator

from kpframe.study._plot.look import (
    PANELS,
    WIDTH,
    Panels,
    axis_text,
    on,
    panels_of,
    say,
    short,
    title_panel,
    unit_of,
)
from kpframe.study._plot.numbers import check_dims, cut, few_steps, name_of, one_seed, parts
from kpframe.study._plot.ticks import check_step_axis, scale_steps, wide

#: Dims that are steps of training.
STEPS = ("step", "step_other")
#: Most places of an axis that have their names: of a panel alone, of one of several; and most numbers.
NAMED, BESIDE, SOME = 24, 8, 8


@frozen(kw_only=True)
class Look:
    """How maps are drawn.

    Attributes:
        bar: label of the colour bar; that of the variable when left out.
        limits: of the colours; found from the values when left out.
        rows, columns: labels of the axes; of the dims when left out.
        most_steps: that are drawn.
        mean: whether several seeds are averaged; else it is a map of the first.
        height: of a row of panels [inch].
        relative: whether each panel is divided by its own largest magnitude.
        step_axis: how steps of training stand: ``"true"``, by their number, or ``"index"``, evenly spaced.
    """

    bar: str | None = None
    limits: tuple[float, float] | None = None
    rows: str | None = None
    columns: str | None = None
    most_steps: int = 2
    mean: bool = True
    height: float = 2.7
    relative: bool = False
    step_axis: str = "true"


def draw_maps(
    data: xr.Dataset,
    name: str,
    rows: str,
    columns: str,
    *,
    axes: Axes | Panels = None,
    look: Look | None = None,
) -> np.ndarray:
    """Draw a variable over two dims, a panel for each place of the others; return the panels.

    Colours are sequential from 0 where all values have one sign, otherwise diverging and symmetric about 0.

    Raises:
        ArgumentError: for dims that the variable has not.
    """
    look = look or Look()
    values = data[name].astype(float).assign_attrs(data[name].attrs)
    check_dims(values, [rows, columns], "dims")
    notes = []
    if "seed" in values.dims and not look.mean:
        own, said = one_seed(data[[name]])
        values = own[name].astype(float).assign_attrs(data[name].attrs)
        notes.append(said)
    elif "seed" in values.dims:
        if values.sizes["seed"] > 1:
            notes.append(f"Means over {values.sizes['seed']} seeds.")
        values = values.mean("seed", keep_attrs=True)
    if "step" not in (rows, columns):
        values, said = few_steps(values, look.most_steps)
        notes.append(said)
    apart = [str(dim) for dim in values.dims if dim not in (rows, columns)]
    found = [one for one in parts(values, apart) if bool(values.isel(one[1]).notnull().any())]
    if not found:
        found = list(parts(values, apart))[:1]
    shown, said = cut(found, PANELS, "panels", [dim for dim in apart if values.sizes[dim] > 1])
    notes.append(said)
    width = _columns(values, apart, len(shown))
    height = -(-len(shown) // width)
    size = (min(WIDTH, 1.8 + 2.6 * width), 0.5 + look.height * height)
    grid = panels_of(axes, height, width, size, square=True)
    titled = bool(apart) and len(shown) > 1
    drawn = [(title if titled else "", values.isel(place)) for title, place in shown]
    notes.append(paint(grid, drawn, rows, columns, look))
    say(grid, notes, axes)
    return grid


def paint(
    grid: np.ndarray,
    shown: Sequence[tuple[str, xr.DataArray]],
    rows: str,
    columns: str,
    look: Look,
) -> str:
    """Paint matrices, each with its title, on panels, with one scale and bar; return what is to be said."""
    width = grid.shape[1]
    drawn = [one.transpose(rows, columns) for _, one in shown]
    if look.relative:
        drawn = [one / (float(np.abs(one).max()) or 1.0) for one in drawn]
    by_step = check_step_axis(look.step_axis) == "true" and {rows, columns} & {*STEPS}
    low, high, colours = colours_of(drawn, look.limits)
    image: Any = None
    for place, (panel, one, (title, _)) in enumerate(zip(grid.flat, drawn, shown, strict=False)):
        how: dict[str, Any] = {"vmin": low, "vmax": high, "cmap": colours}
        if by_step:
            edges = (edges_of(one, columns), edges_of(one, rows))
            image = panel.pcolormesh(*edges, np.ma.masked_invalid(one.values), **how)
            panel.invert_yaxis()
        else:
            aspect = "equal" if _pair(rows, columns) else "auto"
            image = panel.imshow(one, interpolation="nearest", origin="upper", aspect=aspect, **how)
        if title:
            title_panel(panel, title, max(3, width))
        for axis, dim in ((panel.yaxis, rows), (panel.xaxis, columns)):
            if by_step and dim in STEPS:
                scale_steps(axis, one[dim].values)
            else:
                name_places(axis, one, dim, NAMED if len(shown) == 1 else BESIDE)
        panel.tick_params(which="both", labelsize=7.5)
        if place % width == 0:
            panel.set_ylabel(look.rows or short(axis_text(one, rows), 34))
        if place >= len(shown) - width:
            panel.set_xlabel(look.columns or short(axis_text(one, columns), 34))
    for panel in grid.ravel()[len(shown) :]:
        panel.set_axis_off()
    values = shown[0][1]
    colour_bar(grid, image, look.bar or short(axis_text(values) + unit_of(values), 40))
    return "Grey: no value." if any(bool(one.isnull().any()) for one in drawn) else ""


def _pair(rows: str, columns: str) -> bool:
    return rows.removesuffix("_other") == columns.removesuffix("_other")


def _columns(values: xr.DataArray, apart: Sequence[str], count: int) -> int:
    """Return how many panels stand beside each other: the places of the last dim where they are few."""
    last = next((values.sizes[dim] for dim in reversed(apart) if values.sizes[dim] > 1), 1)
    return max(1, min(count, last if 1 < last <= 4 else 3))


def edges_of(values: xr.DataArray, dim: str) -> np.ndarray:
    """Return the edges of the cells of a dim: about its places, or steps of training as they are scaled."""
    steps = values[dim].values.astype(float) if dim in STEPS else np.zeros(0)
    above = steps[steps > 0]
    if dim not in STEPS:
        return np.arange(values.sizes[dim] + 1) - 0.5
    if len(steps) < 2:
        return np.array([steps[0] - 0.5, steps[0] + 0.5])
    inner = (steps[1:] + steps[:-1]) / 2
    if not wide(above):
        return np.array([steps[0] * 1.5 - steps[1] / 2, *inner, steps[-1] * 1.5 - steps[-2] / 2])
    inner = np.where(steps[:-1] > 0, np.sqrt(np.abs(steps[1:] * steps[:-1])), inner)
    low = -inner[0] if steps[0] <= 0 else steps[0] ** 1.5 / steps[1] ** 0.5
    return np.array([low, *inner, steps[-1] ** 1.5 / steps[-2] ** 0.5])


def colours_of(
    values: Sequence[xr.DataArray], limits: tuple[float, float] | None = None
) -> tuple[float, float, Colormap]:
    """Return the limits of colours and their map, from all that is drawn with it."""
    known = np.concatenate([own.values[np.isfinite(own.values)] for own in values] or [np.zeros(0)])
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    if limits is not None:
        low, high = limits
        name = "RdBu_r" if low < 0 < high else "viridis"
    elif low < 0 < high:
        low, high = -max(-low, high), max(-low, high)
        name = "RdBu_r"
    elif high <= 0 and low < 0:
        high, name = 0.0, "viridis_r"
    else:
        low, high, name = 0.0, high or 1.0, "viridis"
    return low, high, with_grey(name)


def with_grey(name: str) -> Colormap:
    """Return a map of colours in which what has no value is grey."""
    return mpl.colormaps[name].with_extremes(bad="0.85")


def colour_bar(panels: np.ndarray, image: Any, label: str, **settings: Any) -> Any:
    """Draw one colour bar for panels, with at least three ticks; return it."""
    shown = [panel for panel in panels.flat if panel.axison]
    bar = on(panels).colorbar(image, ax=shown, fraction=0.05, **settings)
    bar.locator = MaxNLocator(nbins=5, min_n_ticks=3)
    bar.update_ticks()
    bar.ax.tick_params(labelsize=8)
    bar.set_label(label, fontsize=8.5)
    return bar


def name_places(axis: Any, values: xr.DataArray, dim: str, named: int = NAMED) -> None:
    """Name the places of an axis of a map: all where they are few, some of many (``named`` texts)."""
    size = values.sizes[dim]
    text = dim in values.coords and values[dim].dtype.kind in "OUT"
    most = named if text else SOME
    places = np.unique(np.linspace(0, size - 1, min(size, most)).round().astype(int))
    if dim in ("step", "step_other") or dim not in values.coords or text:
        names = [_short_name(values, dim, int(place)) for place in places]
    else:
        names = [f"{values[dim].values[place]:.6g}" for place in places]
    long = axis.axis_name == "x" and max(map(len, names), default=0) > 4
    axis.set_ticks(places, names, **({"rotation": 45, "ha": "right"} if long else {}))


def _short_name(values: xr.DataArray, dim: str, place: int) -> str:
    if dim in ("step", "step_other"):
        return str(values[dim].values[place])
    if dim not in values.coords:
        return str(place)
    return short(name_of(values, dim, place), 18)
