"""Figures of whatever a run recorded, as its page has them: which panels they have, and what is left out.

``lines``, ``maps`` and ``training`` draw them, as they do those of ``kpframe.plot``.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import xarray as xr
from attrs import frozen
from matplotlib.figure import Figure

from kpframe.study._plot import training
from kpframe.study._plot.grouped import Grouped, Variable, stacked
from kpframe.study._plot.lines import LINES, Line, Look, Panel, draw_panels
from kpframe.study._plot.look import (
    PANELS,
    WIDTH,
    as_wide,
    axis_text,
    draw_legend,
    drawable,
    legend_of,
    on,
    open_markers,
    panels_of,
    short,
    unit_of,
)
from kpframe.study._plot.maps import Look as MapLook
from kpframe.study._plot.maps import paint
from kpframe.study._plot.numbers import Numbers, few_steps, numbers_of, parts
from kpframe.study._plot.ticks import finish

#: Most groups and named places with curves or maps of their own.
GROUPS, PLACES = 4, 3
#: How many of the steps curves and maps show: the first and the last.
ENDS = 2

Place = tuple[str, dict[Hashable, int]]


@frozen
class Drawn:
    """A figure and what it leaves out, as a sentence; empty for nothing."""

    figure: Figure
    left_out: str


def left(kind: str, shown: int, count: int) -> str:
    """Return what to say where not all of a kind, ``"groups"``, are drawn."""
    more = count - shown
    if more <= 0:
        return ""
    return f" Not drawn: {more} more {kind if more > 1 else kind.removesuffix('s')}."


def losses(run: Grouped) -> Drawn:
    """Draw training losses, a colour for each group and a thin line for each seed."""
    names = [name for name in ("training_loss", "outcome", "stopped_at") if name in run.data]
    labels = run.labels[:LINES]
    below = legend_of([short(one, 54) for one in labels])
    panel = panels_of(None, 1, 1, (WIDTH, 3.0 + below))[0, 0]
    training.draw_losses(panel, drawable(run.data[names]))
    draw_legend(panel, None)
    finish([panel])
    return Drawn(as_wide(on(panel)), left("groups", len(labels), len(run.labels)))


def series(run: Grouped, variables: Sequence[Variable]) -> Drawn:
    """Draw figures over the steps, a panel for each and each named place, a line for each group.

    Of one group alone, the places are lines of one panel.
    """
    panels, said = [], ""
    for variable in variables:
        numbers = _numbers(run.data, variable.name)
        groups = list(parts(numbers.values, ["network"]))
        if len(groups) > 1:
            panels += [
                _panel(variable, numbers, name, [(own, part | at) for own, at in groups[:LINES]])
                for name, part in _places(numbers, variable)
            ]
            continue
        ((group, at),) = groups
        every = [(name or group, part | at) for name, part in _places(numbers, variable, LINES)]
        panels.append(_panel(variable, numbers, "", every))
        if variable.count > LINES:
            said = f" At most {LINES} lines are drawn in a panel."
    shown, groups_of = panels[:PANELS], len(run.labels)
    said = left("groups", min(LINES, groups_of), groups_of) + left("panels", len(shown), len(panels)) + said
    return _drawn(*draw_panels(shown, "step"), said)


def curves(run: Grouped, variable: Variable) -> Drawn:
    """Draw a figure along its axis at the first and the last step, a row a group, a column a named place."""
    (axis,) = variable.axes
    numbers, _ = _numbers(run.data, variable.name).at_few_steps(ENDS)
    moments = list(parts(numbers.values, ["step"] if "step" in numbers.values.dims else []))
    groups = list(parts(numbers.values, ["network"]))[:GROUPS]
    places = list(_places(numbers, variable, GROUPS))
    panels = [
        _panel(
            variable,
            numbers,
            ", ".join(text for text in (group if len(groups) > 1 else "", name) if text),
            [(moment, at | part | when) for moment, when in moments],
            named=False,
        )
        for group, at in groups
        for name, part in places
    ]
    said = left("groups", len(groups), len(run.labels)) + left("places", len(places), variable.count)
    if variable.converged is not None:
        said = open_markers(variable.converged != 0) + said
    return _drawn(*draw_panels(panels, axis, columns=len(places)), said)


def maps(run: Grouped, variable: Variable) -> Drawn:
    """Draw a matrix as heat maps at the first and the last step; over steps, as one map."""
    values = drawable(run.data[[variable.name]])[variable.name]
    values = values.astype(float).assign_attrs(values.attrs)
    if "seed" in values.dims:
        values = values.isel(seed=0)
    over_steps = "step_other" in variable.axes
    rows, columns = (("step", "step_other") if over_steps else variable.axes)[:2]
    further = [axis for axis in variable.axes if axis not in (rows, columns)]  # beside the steps: modes
    values = values.isel(dict.fromkeys(further, 0))
    values = values if over_steps else few_steps(values, ENDS)[0]
    groups = list(parts(values, ["network"]))[:GROUPS]
    most = max(1, PLACES if len(groups) == 1 else 6 // len(groups))
    places = list(_places(values, variable, most))
    moments = list(parts(values, ["step"] if not over_steps and "step" in values.dims else []))
    who = [
        (", ".join(text for text in (group if len(groups) > 1 else "", name) if text), at | part)
        for group, at in groups
        for name, part in places
    ]
    rows_are, columns_are = (short(axis_text(values, dim), 30) for dim in (rows, columns))
    if rows_are == columns_are and not over_steps:  # what a caption calls them tells them apart
        rows_are, columns_are = f"{rows_are}\n({rows})", f"{columns_are}\n({columns})"
    bar = short(variable.name.replace("_", " ") + unit_of(values), 30)
    look = MapLook(bar=bar, rows=rows_are, columns=columns_are)
    size = (min(WIDTH, 1.8 + 2.6 * len(moments)), 0.5 + look.height * len(who))
    grid = panels_of(None, len(who), len(moments), size, square=True)
    notes = []
    for place, (name, at) in enumerate(who):  # each with a scale of its own: operators differ much
        shown = [
            (", ".join(text for text in (name, moment) if text), values.isel(at | when))
            for moment, when in moments
        ]
        notes.append(paint(grid[[place]], shown, rows, columns, look))
    said = left("groups", len(groups), len(run.labels)) + left("places", len(places), variable.count)
    if "seed" in variable.values.dims:
        said += f" Of seed {run.seeds[0]} alone."
    said += "".join(f" Of the first {axis_text(variable.values, axis)} alone." for axis in further)
    return _drawn(grid, notes, said)


def sweep(
    data: xr.Dataset, run: Grouped, axis: str, cells: Sequence[str], names: Sequence[Variable]
) -> Drawn:
    """Draw the figures at the last step over an axis of a sweep, a line for each of the other trainings."""
    others = [dim for dim in cells if dim not in (axis, "seed")]
    panels: list[Panel] = []
    lines: list[str] = []
    for variable in names:
        own = data[[n for n in (variable.name, f"{variable.name}_stderr") if n in data]]
        own = own.isel(step=-1) if "step" in own.dims else own
        if not run.several and "seed" in own.dims:
            own = own.isel(seed=0)
        own, lines = stacked(own.transpose(*(dim for dim in others if dim in own.dims), ...), others)
        numbers = _numbers(own.assign_coords(network=lines), variable.name)
        groups = list(parts(numbers.values, ["network"]))[:LINES]
        panels += [
            _panel(variable, numbers, name, [(label, part | at) for label, at in groups])
            for name, part in _places(numbers, variable)
        ]
    shown = panels[:PANELS]
    said = left("lines", min(len(lines), LINES), len(lines)) + left("panels", len(shown), len(panels))
    return _drawn(*draw_panels(shown, axis, look=Look(xlabel=axis.replace("_", " "))), said)


def _numbers(data: xr.Dataset, name: str) -> Numbers:
    names = [one for one in (name, f"{name}_stderr", f"{name}_converged") if one in data]
    return numbers_of(drawable(data[names]), name)


def _places(of: Numbers | xr.DataArray, variable: Variable, most: int | None = None) -> list[Place]:
    """Return the named places of a variable, at most so many; Phi where not all are."""
    values = of.values if isinstance(of, Numbers) else of
    found = list(parts(values, variable.named))
    if most is not None and len(found) > most:
        if "operator" in variable.named:
            names = values.operator.values.tolist()
            found.sort(key=lambda one: names[one[1]["operator"]] != "Phi")
        found = found[:most]
    return found


def _panel(
    variable: Variable, numbers: Numbers, name: str, lines: Sequence[Place], *, named: bool = True
) -> Panel:
    """Return a panel of lines; its title is that of the figure where it is ``named``, and of the place."""
    what = variable.name.replace("_", " ")
    return Panel(
        ", ".join(text for text in (what if named else "", name) if text),
        numbers.values,
        [Line(label, place, numbers.isel(at)) for place, (label, at) in enumerate(lines)],
        what + unit_of(numbers.values),
    )


def _drawn(grid: np.ndarray, notes: Sequence[str], said: str) -> Drawn:
    finish(grid.flat)
    return Drawn(as_wide(on(grid)), " ".join([said, *dict.fromkeys(note for note in notes if note)]))
