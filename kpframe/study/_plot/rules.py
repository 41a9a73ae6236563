"""Figures of learning rules beside the exact gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from kpframe.study._plot.look import (
    COLOURS,
    HALF_95,
    MARKERS,
    WIDTH,
    Panels,
    draw_legend,
    legend_height,
    on,
    panels_of,
    short,
    spread,
    step_axis,
    style,
    unit_of,
)
from kpframe.study._plot.source import figure


@figure("gradient_cosine", "flow_alignment", "flow_alignment_stderr", quantity="rules")
def rules(data: xr.Dataset, /, *, axes: Panels = None, **selection: Any) -> np.ndarray:
    """How close each rule's update and flow stay to those of the exact gradient along the training."""
    grid = panels_of(axes, 2, data.sizes["network"], (8.2, 5.2), sharey="row")
    for column, network in enumerate(data.network.values):
        for place, rule in enumerate(data.rule.values):
            one = data.sel(network=network, rule=rule)
            style = {"marker": MARKERS[place], "color": COLOURS[place], "label": str(rule), "ms": 4}
            grid[0, column].plot(spread(one.step.values), one.gradient_cosine, **style)
            grid[1, column].errorbar(
                spread(one.step.values),
                one.flow_alignment,
                yerr=HALF_95 * one.flow_alignment_stderr,
                capsize=2.5,
                **style,
            )
        grid[0, column].set_title(str(network))
        for panel in grid[:, column]:
            step_axis(panel, data.step.values)
            panel.axhline(1, color="0.8", lw=0.8, zorder=0)
    grid[0, 0].set_ylabel("cosine of updates")
    grid[1, 0].set_ylabel(r"alignment with $\Phi$")
    grid[0, -1].legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return grid


@figure("rule_cosine")
def rule_cosines(one: xr.Dataset, /, *, ax: Axes | None = None, **selection: Any) -> Axes:
    """Heat map of the cosines between the updates of the rules; columns are numbered like the rows."""
    count = one.sizes["rule"]
    rules = [f"{short(str(rule), 36)}  {place}" for place, rule in enumerate(one.rule.values, 1)]
    size = (4.3 + 0.36 * count, 1.1 + 0.36 * count)
    panel: Axes = panels_of(ax, 1, 1, size, square=True)[0, 0]
    image = panel.imshow(one.rule_cosine, vmin=-1, vmax=1, cmap="RdBu_r")
    panel.set_xticks(range(count), [str(place) for place in range(1, count + 1)])
    panel.set_yticks(range(count), rules)
    panel.tick_params(length=0, labelsize=8)
    for (row, column), value in np.ndenumerate(one.rule_cosine.values):
        colour = "w" if abs(value) > 0.6 else "k"
        panel.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=6.5, color=colour)
    bar = on(panel).colorbar(image, ax=panel, fraction=0.05, ticks=(-1, 0, 1))
    bar.ax.tick_params(labelsize=8)
    return panel


@figure("loss_rate_by_lag")
def lags(one: xr.Dataset, /, *, ax: Axes | None = None, **selection: Any) -> Axes:
    """Lines of the speed at which the loss falls, by lag."""
    panel: Axes = panels_of(ax, 1, 1, (WIDTH, 2.9 + legend_height(one)))[0, 0]
    for place, rule in enumerate(one.rule.values):
        panel.plot(one.lag, -one.loss_rate_by_lag.sel(rule=rule), **style(place, str(rule)))
    panel.axhline(0, color="0.7", lw=0.8, zorder=0)
    panel.set(xlabel="steps the error travels back", ylabel=_fall(one.loss_rate_by_lag))
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    draw_legend(panel, ax)
    return panel


@figure("cosine_by_time")
def cosines_by_time(one: xr.Dataset, /, *, axes: Panels = None, **selection: Any) -> np.ndarray:
    """Lines of the cosines at each step, a panel for each facing."""
    facings = [str(facing) for facing in one.facing.values]
    grid = panels_of(axes, 2, 2, (WIDTH, 4.6 + legend_height(one)), sharey=True)
    panels = grid.ravel()
    last = one.sizes["time"] - 1
    for panel, facing in zip(panels, facings, strict=True):
        for place, rule in enumerate(one.rule.values):
            panel.plot(one.time, one.cosine_by_time.sel(rule=rule, facing=facing), **style(place, str(rule)))
        panel.set_title(f"{facing}-facing" if facing in ("past", "future") else facing)
        panel.axhline(0, color="0.7", lw=0.8, zorder=0)
        panel.set(ylim=(-1.08, 1.08), xlim=(-0.02 * last - 0.3, 1.02 * last + 0.3))
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    for panel in panels[2:]:
        panel.set_xlabel("step")
    for panel in panels[::2]:
        panel.set_ylabel("cosine")
    draw_legend(panels[0], axes)
    return grid


@figure("loss_rate_by_pair")
def pairs(one: xr.Dataset, /, *, axes: Panels = None, **selection: Any) -> np.ndarray:
    """Heat maps of the fall of the loss by the step of the error and the step of its use, one a rule."""
    rules = [str(rule) for rule in one.rule.values]
    columns = min(4, len(rules))
    rows = -(-len(rules) // columns)
    size = (1.0 + 1.8 * columns, 0.4 + 1.95 * rows)
    grid = panels_of(axes, rows, columns, size, square=True)
    panels = grid.ravel()
    values = (-one.loss_rate_by_pair).assign_attrs(one.loss_rate_by_pair.attrs)
    limit = float(np.quantile(np.abs(values), 0.995)) or float(np.abs(values).max()) or 1.0
    for panel in panels[len(rules) :]:
        panel.set_axis_off()
    for place, (panel, rule) in enumerate(zip(panels, rules, strict=False)):
        image = panel.imshow(values.sel(rule=rule), vmin=-limit, vmax=limit, cmap="RdBu_r", origin="lower")
        panel.set_title(short(rule, 26), fontsize=7.5)
        panel.tick_params(labelsize=8)
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_locator(MaxNLocator(nbins=4, integer=True))
        if place + columns >= len(rules):
            panel.set_xlabel("step of use", fontsize=8)
        if place % columns == 0:
            panel.set_ylabel("step of error", fontsize=8)
    beyond = "both" if float(np.abs(values).max()) > limit else "neither"
    bar = on(grid).colorbar(image, ax=panels.tolist(), fraction=0.05, extend=beyond)
    bar.ax.tick_params(labelsize=8)
    bar.set_label(_fall(values), fontsize=8)
    return grid


@figure("singular_value", "singular_value_converged", "flow_alignment")
def flow_spectra(one: xr.Dataset, /, *, ax: Axes | None = None, **selection: Any) -> Axes:
    """Leading singular values of each rule's flow."""
    panel: Axes = panels_of(ax, 1, 1, (WIDTH, 2.9 + legend_height(one)))[0, 0]
    for place, rule in enumerate(one.rule.values):
        values, look = one.singular_value.sel(rule=rule), style(place, str(rule))
        panel.plot(one.k, values.where(values > 0), **look)
        bounds = values.where((values > 0) & ~one.singular_value_converged.sel(rule=rule))
        panel.plot(one.k, bounds, **look | {"lw": 0, "mfc": "w", "label": None})
    panel.set(xlabel="k", ylabel="singular value", yscale="log")
    panel.set_xticks(one.k.values)
    draw_legend(panel, ax)
    return panel


@figure("effective_rank", "effective_rank_before", "alignment_with_first")
def rule_geometry(data: xr.Dataset, /, *, axes: Panels = None, **selection: Any) -> np.ndarray:
    """Effective ranks, and the alignment of Phi with that of the first rule, a bar for each rule."""
    rules = [short(str(rule), 30) for rule in data.rule.values]
    operators = [str(operator) for operator in data.operator.values]
    panels: np.ndarray = panels_of(axes, 1, len(operators) + 1, (WIDTH, 1.2 + 0.3 * len(rules)), sharey=True)[
        0
    ]
    places = np.arange(len(rules))
    for panel, operator in zip(panels, operators, strict=False):
        one = data.sel(operator=operator)
        panel.barh(places, one.effective_rank, xerr=_half(one.effective_rank_stderr), color="#56B4E9")
        panel.axvline(float(one.effective_rank_before), color="0.4", lw=1, ls="--")
        panel.set_xlabel(f"effective rank of {operator}", fontsize=8)
    panels[-1].barh(
        places, data.alignment_with_first, xerr=_half(data.alignment_with_first_stderr), color="#56B4E9"
    )
    panels[-1].set_xlabel("alignment of Phi with\nthat of the first rule", fontsize=8)
    panels[0].set_yticks(places, rules)
    panels[0].invert_yaxis()
    for panel in panels:
        panel.tick_params(labelsize=8)
    return panels


def _fall(rate: xr.DataArray) -> str:
    return f"fall of the loss{unit_of(rate)}\nper unit learning rate"


def _half(stderr: xr.DataArray) -> xr.DataArray:
    """Return half of a 95% interval; none of a figure that one seed of several has alone."""
    return HALF_95 * stderr.where(np.isfinite(stderr))
