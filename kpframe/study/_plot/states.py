"""Figures of the states: trajectories in principal components, and dimensions."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from kpframe.errors import ArgumentError, mismatch
from kpframe.study._plot import lines
from kpframe.study._plot.look import COLOURS, PANELS, Panels, panels_of, say, title_panel
from kpframe.study._plot.numbers import cut, few_steps, one_seed, parts
from kpframe.study._plot.source import figure


@figure("pc_trajectory", "pc_explained", quantity="states")
def trajectories(
    data: xr.Dataset, /, *, axes: Panels = None, components: tuple[int, int] = (1, 2), **selection: Any
) -> np.ndarray:
    """Trajectories of trials in two principal components, with the readout's rows as arrows.

    A trial begins at its open marker. Arrows show the rows' directions; they are of the length that fits,
    with their proportions kept. First and last recorded step, unless ``step`` selects others; of several
    seeds the first.

    Args:
        components: the two, counted from 1.

    Raises:
        ArgumentError: for components that are not recorded, or the same twice.
    """
    known = [int(pc) for pc in data.pc.values]
    if len(components) != 2 or len(set(components)) != 2 or not set(components) <= set(known):
        raise ArgumentError(mismatch("components", f"two of {known}", repr(components)))
    data, seed = one_seed(data)
    values, left = few_steps(data.pc_trajectory, 2)
    apart = [str(dim) for dim in values.dims if dim not in ("pc_trial", "time", "pc")]
    shown, more = cut(list(parts(values, apart)), PANELS, "panels", apart)
    columns = min(3 if len(shown) > 4 else 2, len(shown))
    rows = -(-len(shown) // columns)
    grid = panels_of(axes, rows, columns, (1.0 + 3.2 * columns, 0.6 + 2.9 * rows))
    at = [known.index(one) for one in components]
    for panel, (title, place) in zip(grid.flat, shown, strict=False):
        step = {"step": values.step.values[place["step"]]} if "step" in place else {}
        rest = {dim: spot for dim, spot in place.items() if dim != "step"}
        share = data.pc_explained.isel(rest).sel(step).values
        paths = values.isel(place).transpose("pc_trial", "time", "pc").values[..., at]
        _paths(panel, paths)
        if "pc_readout" in data:
            _arrows(panel, data.pc_readout.isel(rest).sel(step).transpose("output", "pc").values[:, at])
        title_panel(panel, title, columns)
        panel.set_xlabel(f"component {components[0]} ({share[at[0]]:.0%})")
        panel.set_ylabel(f"component {components[1]} ({share[at[1]]:.0%})")
    for panel in grid.ravel()[len(shown) :]:
        panel.set_axis_off()
    arrows = "Arrows: the readout's rows, in proportion." if "pc_readout" in data else ""
    count = f"{values.sizes['pc_trial']} trials, each from its open marker."
    say(grid, [count, arrows, seed, left, more], axes)
    return grid


def _paths(panel: Axes, paths: np.ndarray) -> None:
    for place, path in enumerate(paths):
        known = path[np.isfinite(path).all(-1)]
        if not len(known):
            continue
        colour = COLOURS[place % len(COLOURS)]
        panel.plot(known[:, 0], known[:, 1], color=colour, lw=1.1, marker="." if len(known) <= 40 else "")
        panel.plot(*known[0], color=colour, marker="o", mfc="w", ms=5, lw=0)


def _arrows(panel: Axes, rows: np.ndarray) -> None:
    """Draw rows as arrows from 0, as long together as the panel allows."""
    longest = float(np.nanmax(np.linalg.norm(rows, axis=1), initial=0.0))
    if not longest > 0:
        return
    reach = max(float(np.abs(panel.dataLim.get_points()).max()), 1e-12)
    scaled = rows / longest * 0.8 * reach
    for row in scaled[np.isfinite(scaled).all(-1)]:
        look = {"arrowstyle": "-|>", "color": "0.35", "lw": 1.2}
        panel.annotate("", tuple(row), (0, 0), arrowprops=look, annotation_clip=False)
    panel.update_datalim([*scaled[np.isfinite(scaled).all(-1)], (0, 0)])
    panel.autoscale_view()


@figure("pc_explained", quantity="states")
def variance_explained(data: xr.Dataset, /, *, axes: Panels = None, **selection: Any) -> np.ndarray:
    """The share of the variance of the states that each principal component explains."""
    look = lines.Look(xlabel="principal component", ylabel="share of the variance", scale="linear")
    apart = [str(dim) for dim in data.pc_explained.dims if dim not in ("pc", "step", "seed")]
    return lines.draw_lines(data, "pc_explained", "pc", axes=axes, panels=apart, look=look)


@figure("state_participation_ratio", quantity="states")
def state_dimensions(
    data: xr.Dataset, /, *, ax: Axes | None = None, step_axis: str = "true", **selection: Any
) -> Axes:
    """The participation ratio of the states along the training, a line for each training."""
    look = lines.Look(step_axis=step_axis, ylabel="participation ratio\nof the states")
    panel: Axes = lines.draw_lines(data, "state_participation_ratio", "step", axes=ax, look=look)[0, 0]
    return panel
