"""A figure of several runs side by side, on common axes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from kpframe.study._plot.grouped import Grouped, interval
from kpframe.study._plot.look import UPDATES, WIDTH, as_wide, on, panels_of, style
from kpframe.study._plot.recorded import LINES, label

#: Most panels in a row.
COLUMNS = 3


def beside(runs: Mapping[str, Grouped], name: str, part: Mapping[str, Any], title: str) -> Figure:
    """Draw a variable over the steps, a panel a run and a line a network, with 95% intervals as bars.

    Args:
        runs: by their names; those without the variable, or without that part of it, have an empty panel.
        name: of the variable.
        part: which of its named places.
        title: what stands at the axis.
    """
    columns = min(COLUMNS, len(runs))
    rows = -(-len(runs) // columns)
    panels = panels_of(None, rows, columns, (WIDTH, 0.3 + 2.7 * rows), sharey=True)
    places = {
        network: at for at, network in enumerate(dict.fromkeys(n for o in runs.values() for n in o.labels))
    }
    steps, drawn = [], []
    for panel, (run, own) in zip(panels.flat, runs.items(), strict=False):
        panel.set_title(label(run, 34), fontsize=8.5)
        panel.tick_params(which="both", labelsize=7.5)
        panel.set_xlabel(UPDATES, fontsize=8)
        found = part_of(own, name, part)
        if found is None:
            panel.text(0.5, 0.5, "not recorded", transform=panel.transAxes, ha="center", color="0.4")
            continue
        middle, half = interval(*found)
        for at, network in enumerate(own.labels[:LINES]):
            one, bars = (values.isel(network=at) for values in (middle, half))
            look = style(places[network], "") | {"label": label(network, 24)}  # of one colour in all runs
            panel.errorbar(one.step, one, yerr=bars.where(np.isfinite(bars)), capsize=2, **look)
        steps += middle.step.values.tolist()
        drawn += middle.values[np.isfinite(middle.values)].tolist()
        panel.legend(frameon=False, fontsize=6.5)
    for panel in panels.flat[len(runs) :]:
        panel.set_axis_off()
    for panel in panels.flat:
        if steps and max(steps) > 30:
            panel.set_xscale("symlog", linthresh=1)
        if drawn and min(drawn) > 0 and max(drawn) > 30 * min(drawn):
            panel.set_yscale("log")
        if steps:
            panel.set_xlim(min(steps) - 0.2, max(steps) * 1.2 + 0.2)
    for panel in panels[:, 0]:
        panel.set_ylabel(label(title, 30), fontsize=8)
    return as_wide(on(panels))


def part_of(
    run: Grouped, name: str, part: Mapping[str, Any]
) -> tuple[xr.DataArray, xr.DataArray | None] | None:
    """Return a part of a variable of a run with its standard errors; None where it is not recorded."""
    values = run.data.get(name)
    if values is None or "step" not in values.dims:
        return None
    for dim, place in part.items():
        if dim not in values.dims or place not in values[dim].values.tolist():
            return None
    errors = run.data.get(f"{name}_stderr")
    return values.sel(part), None if errors is None else errors.sel(part)
