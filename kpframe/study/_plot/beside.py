"""A figure of several runs side by side, on common axes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from kpframe.study._plot.grouped import Grouped
from kpframe.study._plot.lines import LINES, Line, Look, Panel, draw_panels
from kpframe.study._plot.look import as_wide, drawable, on, plain
from kpframe.study._plot.numbers import numbers_of, parts
from kpframe.study._plot.ticks import finish


def beside(runs: Mapping[str, Grouped], name: str, part: Mapping[str, Any], title: str) -> Figure:
    """Draw a variable over the steps, a panel a run and a line a network, with 95% intervals as bars.

    Args:
        runs: by their names; those without the variable, or without that part of it, have an empty panel.
        name: of the variable.
        part: which of its named places.
        title: what stands at the axis.
    """
    every = dict.fromkeys(network for own in runs.values() for network in own.labels)
    places = {network: at for at, network in enumerate(every)}  # of one colour in all runs
    steps = np.unique(np.concatenate([own.data.step.values for own in runs.values() if "step" in own.data]))
    panels = []
    for run, own in runs.items():
        found = part_of(own, name, part)
        if found is None:
            nothing = xr.DataArray(np.full(len(steps), np.nan), {"step": steps}, ["step"])
            panels.append(Panel(plain(run), nothing, [], title, "not recorded"))
            continue
        numbers = numbers_of(drawable(found), name)
        lines = [
            Line(label, places[network], numbers.isel(at))
            for network, (label, at) in zip(own.labels, parts(numbers.values, ["network"]), strict=True)
        ]
        panels.append(Panel(plain(run), numbers.values, lines[:LINES], title))
    grid, _ = draw_panels(panels, "step", look=Look(sharey=True))
    finish(grid.flat)
    used = [panel for panel in grid.flat if panel.axison]
    ends = np.array([panel.get_xlim() for panel in used])
    for panel in used:
        panel.set_xlim(ends[:, 0].min(), ends[:, 1].max())
    return as_wide(on(grid))


def part_of(run: Grouped, name: str, part: Mapping[str, Any]) -> xr.Dataset | None:
    """Return a part of a variable of a run with its standard errors; None where it is not recorded."""
    values = run.data.get(name)
    if values is None or "step" not in values.dims:
        return None
    for dim, place in part.items():
        if dim not in values.dims or place not in values[dim].values.tolist():
            return None
    return run.data[[one for one in (name, f"{name}_stderr") if one in run.data]].sel(part)
