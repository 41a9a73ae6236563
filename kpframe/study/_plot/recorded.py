"""Figures of whatever a run recorded: series over steps, curves, maps, losses and sweeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from attrs import frozen
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kpframe.study._plot.grouped import Grouped, Variable, interval, stacked
from kpframe.study._plot.look import (
    UPDATES,
    WIDTH,
    after,
    as_wide,
    draw_legend,
    on,
    open_markers,
    panels_of,
    short,
    style,
    unit_of,
)
from kpframe.study._plot.maps import colour_bar, colours_of
from kpframe.study._plot.ticks import finish, step_axis, step_places, whole
from kpframe.study._plot.training import loss_label, running_mean

#: Most lines in a panel, panels in a figure, groups and named places with curves or maps of their own.
LINES, PANELS, GROUPS, PLACES = 12, 12, 4, 3


@frozen
class Drawn:
    """A figure and what it leaves out, as a sentence; empty for nothing."""

    figure: Figure
    left_out: str


def label(text: object, width: int = 54) -> str:
    """Return a text that matplotlib takes as it is, cut to two lines: ``$`` starts no formula in it."""
    shown = short(str(text), width)
    return f"{' ' * shown.startswith('_')}{shown}".replace("$", r"\$")


def left(kind: str, shown: int, count: int) -> str:
    """Return what to say where not all of a kind, ``"groups"``, are drawn."""
    more = count - shown
    if more <= 0:
        return ""
    return f" Not drawn: {more} more {kind if more > 1 else kind.removesuffix('s')}."


def losses(run: Grouped) -> Drawn:
    """Draw training losses, a colour for each group and a thin line for each seed."""
    loss = run.data.training_loss
    labels = run.labels[:LINES]
    panel = panels_of(None, 1, 1, (WIDTH, 3.0 + _legend_height(labels)))[0, 0]
    for place, network in enumerate(labels):
        one = loss.isel(network=place)
        every = [one.isel(seed=at) for at in range(one.sizes["seed"])] if run.several else [one]
        look = style(place, "") | {"marker": "", "label": label(network), "lw": 0.9 if run.several else 1.3}
        for row in every:
            if row.notnull().any():
                made, smooth = running_mean(row)
                panel.plot(made, smooth, **look | ({"marker": "o"} if len(smooth) == 1 else {}))
                look |= {"label": "_"}
    logarithmic(panel, loss)
    panel.set(xlabel=UPDATES, ylabel=loss_label(loss))
    whole(panel.xaxis)
    draw_legend(panel, None)
    finish([panel])
    return Drawn(as_wide(on(panel)), left("groups", len(labels), len(run.labels)))


def series(run: Grouped, variables: Sequence[Variable]) -> Drawn:
    """Draw figures over the steps, a panel for each and each named place, a line for each group.

    Of one group alone, the places are lines of one panel.
    """
    labels = run.labels[:LINES]
    rows: list[tuple[Variable, str, list[tuple[str, dict[str, Any]]]]] = []
    for variable in variables:
        if len(labels) == 1:
            lines = list(variable.parts(LINES))
            rows.append((variable, "", [(name or labels[0], part | {"network": 0}) for name, part in lines]))
            continue
        for name, part in variable.parts():
            rows.append((variable, name, [(own, part | {"network": at}) for at, own in enumerate(labels)]))
    shown = rows[:PANELS]
    columns = min(3, len(shown))
    height = -(-len(shown) // columns)
    names = [name for _, _, lines in shown for name, _ in lines]
    own_legends = len(labels) == 1
    legend = 0.0 if own_legends else _legend_height(labels)
    panels = panels_of(None, height, columns, (WIDTH, 0.2 + 2.4 * height + legend)).ravel()
    for panel, (variable, name, lines) in zip(panels, shown, strict=False):
        middle, half = interval(variable.values, variable.errors)
        for place, (own, part) in enumerate(lines):
            at = {"network": part["network"]}
            rest = {dim: value for dim, value in part.items() if dim != "network"}
            one, bars = (values.isel(at).sel(rest) for values in (middle, half))
            bars = bars.where(np.isfinite(bars))
            look = style(place, "") | {"label": label(own, 30)}
            panel.errorbar(step_places(one.step.values), one, yerr=bars, capsize=2, **look)
        step_axis(panel, middle.step.values)
        panel.set_title(label(f"{variable.name}{f', {name}' if name else ''}", 34), fontsize=8.5)
        panel.set_ylabel(label(variable.name.replace("_", " ") + unit_of(variable.values), 30), fontsize=8)
        panel.tick_params(which="both", labelsize=7.5)
        logarithmic(panel, middle)
        if own_legends and len(lines) > 1:
            panel.legend(frameon=False, fontsize=7)
    for panel in panels[len(shown) :]:
        panel.set_axis_off()
    if not own_legends and names:
        draw_legend(panels[0], None)
    said = left("groups", len(labels), len(run.labels)) + left("panels", len(shown), len(rows))
    if own_legends and any(variable.count > LINES for variable in variables):
        said += f" At most {LINES} lines are drawn in a panel."
    finish(panels.flat)
    return Drawn(as_wide(on(panels)), said)


def curves(run: Grouped, variable: Variable) -> Drawn:
    """Draw a figure along its axis at the first and the last step, a row a group, a column a named place."""
    (axis,) = variable.axes
    labels, parts = run.labels[:GROUPS], list(variable.parts(GROUPS))
    grid = panels_of(None, len(labels), len(parts), (WIDTH, 0.4 + 2.4 * len(labels)))
    panels = grid.ravel()
    middle, half = interval(variable.values, variable.errors)
    where = _axis_values(middle, axis)
    for (row, column), panel in np.ndenumerate(grid):
        name, part = parts[column]
        one, bars = (values.isel(network=row).sel(part) for values in (middle, half))
        for place, (moment, at) in enumerate(_moments(one)):
            look = style(place, "") | {"label": moment, "marker": "o" if len(where) <= 40 else ""}
            panel.plot(where, one.isel(at), **look)
            if variable.converged is not None:
                kept = variable.converged.isel(network=row).sel(part).isel(at)
                kept = (kept != 0).all("seed") if "seed" in kept.dims else kept != 0
                panel.plot(where, one.isel(at).where(~kept), **look | {"lw": 0, "mfc": "w", "label": "_"})
            low, high = (one.isel(at) + sign * bars.isel(at) for sign in (-1, 1))
            panel.fill_between(where, low, high, color=look["color"], alpha=0.2, lw=0)
        title = ", ".join(text for text in (labels[row] if len(labels) > 1 else "", name) if text)
        panel.set_title(label(title, 34), fontsize=8.5)
        panel.set_xlabel(label(axis_text(middle, axis), 30), fontsize=8)
        panel.tick_params(which="both", labelsize=7.5)
        if np.asarray(where).dtype.kind in "iu":
            whole(panel.xaxis, nbins=6)
        logarithmic(panel, middle)
    for panel in grid[:, 0]:
        panel.set_ylabel(label(variable.name + unit_of(variable.values), 30), fontsize=8)
    draw_legend(panels[0], None)
    said = left("groups", len(labels), len(run.labels)) + left("places", len(parts), variable.count)
    if variable.converged is not None:
        said = open_markers(variable.converged != 0) + said
    finish(panels.flat)
    return Drawn(as_wide(on(panels)), said)


def maps(run: Grouped, variable: Variable) -> Drawn:
    """Draw a matrix as heat maps at the first and the last step; over steps, as one map."""
    values = variable.values.astype(float)
    if "seed" in values.dims:
        values = values.isel(seed=0)
    labels = run.labels[:GROUPS]
    parts = list(variable.parts(max(1, PLACES if len(labels) == 1 else 6 // len(labels))))
    over_steps = "step_other" in variable.axes
    rows, columns = (("step", "step_other") if over_steps else variable.axes)[:2]
    further = [axis for axis in variable.axes if axis not in (rows, columns)]  # beside the steps: modes
    values = values.isel(dict.fromkeys(further, 0))
    moments = [("", {})] if over_steps else _moments(values)
    count = len(labels) * len(parts)
    size = (1.2 + 2.6 * len(moments), 0.4 + 2.5 * count)
    grid = panels = panels_of(None, count, len(moments), size, square=True)
    for place, (at, (name, part)) in enumerate((at, part) for at in range(len(labels)) for part in parts):
        one = values.isel(network=at).sel(part)
        shown = [one.isel(moment).transpose(rows, columns) for _, moment in moments]
        low, high, colours = colours_of(shown)
        for panel, own, (moment, _) in zip(grid[place], shown, moments, strict=True):
            image = panel.imshow(
                own,
                vmin=low,
                vmax=high,
                cmap=colours,
                interpolation="nearest",
                aspect="auto",
            )
            who = labels[at] if len(labels) > 1 else ""
            title = ", ".join(text for text in (who, name, moment) if text)
            panel.set_title(label(title, 40), fontsize=8.5)
            panel.set_ylabel(label(axis_text(values, rows), 30), fontsize=8)
            panel.set_xlabel(label(axis_text(values, columns), 30), fontsize=8)
            _ticks(panel.yaxis, values, rows)
            _ticks(panel.xaxis, values, columns)
            panel.tick_params(which="both", labelsize=7)
        colour_bar(grid[place], image, label(variable.name.replace("_", " ") + unit_of(variable.values), 30))
    said = left("groups", len(labels), len(run.labels)) + left("places", len(parts), variable.count)
    if "seed" in variable.values.dims:
        said += f" Of seed {run.seeds[0]} alone."
    said += "".join(f" Of the first {axis_text(variable.values, axis)} alone." for axis in further)
    finish(panels.flat)
    return Drawn(as_wide(on(panels)), said)


def sweep(
    data: xr.Dataset, run: Grouped, axis: str, cells: Sequence[str], names: Sequence[Variable]
) -> Drawn:
    """Draw the figures at the last step over an axis of a sweep, a line for each of the other trainings."""
    others = [dim for dim in cells if dim not in (axis, "seed")]
    rows = [(variable, name, part) for variable in names for name, part in variable.parts()]
    shown = rows[:PANELS]
    columns = min(3, len(shown))
    height = -(-len(shown) // columns)
    places, texts = _axis_places(data[axis])
    lines: list[str] = []
    panels = panels_of(None, height, columns, (WIDTH, 0.2 + 2.4 * height + 0.9)).ravel()
    for panel, (variable, name, part) in zip(panels, shown, strict=False):
        own = data[[n for n in (variable.name, f"{variable.name}_stderr") if n in data]].sel(part)
        own = own.isel(step=-1) if "step" in own.dims else own
        if not run.several and "seed" in own.dims:
            own = own.isel(seed=0)
        own, lines = stacked(own.transpose(*cells_in(own, others), ...), others)
        middle, half = interval(own[variable.name], own.get(f"{variable.name}_stderr"))
        for place, line in enumerate(lines[:LINES]):
            one, bars = (values.isel(network=place) for values in (middle, half))
            if not one.notnull().any():
                continue
            look = style(place, "") | {"label": label(line)} | ({"linestyle": ""} if texts else {})
            panel.errorbar(places, one, yerr=bars.where(np.isfinite(bars)), capsize=2, **look)
        if texts:
            panel.set_xticks(places, [label(text, 16) for text in texts])
        elif (places > 0).all() and places.max() > 30 * places.min():
            panel.set_xscale("log")
        panel.set_title(label(f"{variable.name}{f', {name}' if name else ''}", 34), fontsize=8.5)
        panel.set_xlabel(label(axis, 30), fontsize=8)
        panel.set_ylabel(label(variable.name.replace("_", " ") + unit_of(variable.values), 30), fontsize=8)
        panel.tick_params(which="both", labelsize=7.5)
        logarithmic(panel, middle)
    for panel in panels[len(shown) :]:
        panel.set_axis_off()
    if len(lines) > 1:
        draw_legend(panels[0], None)
    said = left("lines", min(len(lines), LINES), len(lines)) + left("panels", len(shown), len(rows))
    finish(panels.flat)
    return Drawn(as_wide(on(panels)), said)


def cells_in(data: xr.Dataset, dims: Sequence[str]) -> list[str]:
    """Return those of the dims that data have."""
    return [dim for dim in dims if dim in data.dims]


def logarithmic(panel: Axes, values: xr.DataArray) -> None:
    """Give a panel a logarithmic scale where its values are positive and differ much, or say it is empty."""
    drawn = [np.asarray(line.get_ydata(), float) for line in panel.get_lines()]
    if not any(np.isfinite(own).any() for own in drawn):
        panel.text(0.5, 0.5, "no values", transform=panel.transAxes, ha="center", va="center", color="0.5")
        return
    known = values.values[np.isfinite(values.values)]
    if known.min() > 0 and known.max() > 30 * known.min():
        panel.set_yscale("log")


def axis_text(values: xr.DataArray, dim: str) -> str:
    """Return what stands at an axis."""
    name = dim.replace("_", " ")
    if dim not in values.coords:
        return name
    return str(values[dim].attrs.get("long_name", name)) + unit_of(values[dim])


def _axis_values(values: xr.DataArray, dim: str) -> Any:
    if dim in values.coords and values[dim].dtype.kind in "iuf":
        return values[dim].values
    return np.arange(values.sizes[dim])


def _axis_places(coordinate: xr.DataArray) -> tuple[np.ndarray, list[str]]:
    """Return where the values of a sweep stand, and their texts where they are no numbers."""
    if coordinate.dtype.kind in "iuf":
        return coordinate.values, []
    return np.arange(coordinate.size), [str(value) for value in coordinate.values]


def _moments(values: xr.DataArray) -> list[tuple[str, dict[str, int]]]:
    """Return the first and the last step, as text and a selection."""
    if "step" not in values.dims:
        return [("all steps", {})]
    places = sorted({0, values.sizes["step"] - 1})
    return [(after(int(values.step[place])), {"step": place}) for place in places]


def _ticks(axis: Any, values: xr.DataArray, dim: str) -> None:
    """Name the places of an axis, all of a few, some of many."""
    size = values.sizes[dim]
    texts = [str(value) for value in _axis_labels(values, dim)]
    places = sorted({round(place) for place in np.linspace(0, size - 1, min(size, 8))})
    axis.set_ticks(places, [label(texts[place], 18) for place in places])


def _axis_labels(values: xr.DataArray, dim: str) -> list[Any]:
    return values[dim].values.tolist() if dim in values.coords else list(range(values.sizes[dim]))


def _legend_height(labels: Sequence[str]) -> float:
    lines = [short(text, 54).count("\n") + 1 for text in labels]
    return 0.2 + 0.17 * max(1, sum(lines) / 2)
