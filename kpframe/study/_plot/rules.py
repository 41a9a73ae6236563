"""Figures of learning rules beside the exact gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from kpframe.errors import ArgumentError
from kpframe.study._plot.lines import LINES, draw_line
from kpframe.study._plot.look import (
    HALF_95,
    PANELS,
    WIDTH,
    Panels,
    draw_legend,
    legend_of,
    panels_of,
    say,
    short,
    style,
    title_panel,
    unit_of,
)
from kpframe.study._plot.maps import colour_bar, with_grey
from kpframe.study._plot.numbers import Numbers, cut, numbers_of, parts
from kpframe.study._plot.source import figure
from kpframe.study._plot.ticks import step_axis as draw_step_axis
from kpframe.study._plot.ticks import step_places, whole

#: Most rules of a map, those that have their numbers written into it, and bars.
MAPPED, WRITTEN, BARS = 200, 16, 60


@figure("gradient_cosine", "flow_alignment", quantity="rules")
def rules(
    data: xr.Dataset, /, *, axes: Panels = None, step_axis: str = "true", **selection: Any
) -> np.ndarray:
    """How close each rule's update and flow stay to those of the exact gradient along the training."""
    both = [numbers_of(data, name) for name in ("gradient_cosine", "flow_alignment")]
    values = both[0].values
    apart = [str(dim) for dim in values.dims if dim not in ("step", "rule")]
    shown, left = cut(list(parts(values, apart)), 4, "trainings", apart)
    lines, more = cut(list(parts(values, ["rule"])), LINES, "rules", ["rule"])
    below = legend_of([short(label, 54) for label, _ in lines])
    grid = panels_of(axes, 2, len(shown), (8.2, 5.0 + below), sharey="row")
    for column, (title, place) in enumerate(shown):
        for panel, numbers in zip(grid[:, column], both, strict=True):
            where = step_places(values.step.values, step_axis)
            for at, (label, which) in enumerate(lines):
                draw_line(panel, where, numbers.isel(place).isel(which), style(at, label), bars=True)
            draw_step_axis(panel, values.step.values, step_axis)
            panel.axhline(1, color="0.8", lw=0.8, zorder=0)
        title_panel(grid[0, column], title, len(shown))
    grid[0, 0].set_ylabel("cosine of updates")
    grid[1, 0].set_ylabel(r"alignment with $\Phi$")
    draw_legend(grid[0, -1], axes)
    say(grid, [left, more, _said(both)], axes)
    return grid


def _said(both: list[Numbers]) -> str:
    said = next((numbers.said for numbers in both if numbers.said), "")
    return f"Bars: 95% intervals {said}." if said else ""


@figure("rule_cosine")
def rule_cosines(data: xr.Dataset, /, *, ax: Axes | None = None, **selection: Any) -> Axes:
    """Heat map of the cosines between the updates of the rules; columns are numbered like the rows."""
    one = only(data, "rule_cosine", ("rule", "rule_other"))
    labels, left = cut([str(rule) for rule in one.rule.values], MAPPED, "rules", ["rule"])
    count = len(labels)
    cosines = one.rule_cosine.values[:count, :count]
    rules = [f"{short(rule, 36)}  {place}" for place, rule in enumerate(labels, 1)]
    scale = 0.36 if count <= WRITTEN else max(0.16, 6.0 / count) if count <= 40 else 6.0 / count
    size = (4.3 + scale * count, 1.1 + scale * count)
    panel: Axes = panels_of(ax, 1, 1, size, square=True)[0, 0]
    image = panel.imshow(cosines, vmin=-1, vmax=1, cmap=with_grey("RdBu_r"))
    some = np.arange(count) if count <= 40 else np.linspace(0, count - 1, 20).round().astype(int)
    across = some[:: 1 + (count > WRITTEN)]
    panel.set_xticks(across, [str(place + 1) for place in across])
    panel.set_yticks(some, [rules[place] for place in some])
    panel.tick_params(length=0, labelsize=8 if count <= 24 else 7)
    for (row, column), value in np.ndenumerate(cosines if count <= WRITTEN else np.zeros((0, 0))):
        colour = "w" if abs(value) > 0.6 else "k"
        panel.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=colour)
    colour_bar(np.array([[panel]]), image, "cosine of updates")
    say(np.array([[panel]]), [left], ax)
    return panel


@figure("loss_rate_by_lag")
def lags(data: xr.Dataset, /, *, ax: Axes | None = None, **selection: Any) -> Axes:
    """Lines of the speed at which the loss falls, by the steps that the error travels back."""
    one = only(data, "loss_rate_by_lag", ("rule", "lag"))
    lines, left = _lines(one)
    panel: Axes = panels_of(ax, 1, 1, (WIDTH, 2.9 + _height(lines)))[0, 0]
    for place, rule in enumerate(lines):
        panel.plot(one.lag, -one.loss_rate_by_lag.sel(rule=rule), **style(place, rule))
    panel.axhline(0, color="0.7", lw=0.8, zorder=0)
    panel.set(xlabel="steps the error travels back", ylabel=_fall(one.loss_rate_by_lag))
    whole(panel.xaxis)
    draw_legend(panel, ax)
    say(np.array([[panel]]), [left], ax)
    return panel


@figure("cosine_by_time")
def cosines_by_time(data: xr.Dataset, /, *, axes: Panels = None, **selection: Any) -> np.ndarray:
    """Lines of the cosines at each step, a panel for each facing."""
    one = only(data, "cosine_by_time", ("rule", "facing", "time"))
    facings = [str(facing) for facing in one.facing.values]
    lines, left = _lines(one)
    rows = -(-len(facings) // 2)
    columns = min(2, len(facings))
    grid = panels_of(axes, rows, columns, (WIDTH, 0.2 + 2.2 * rows + _height(lines)), sharey=True)
    last = one.sizes["time"] - 1
    for panel, facing in zip(grid.flat, facings, strict=False):
        for place, rule in enumerate(lines):
            panel.plot(one.time, one.cosine_by_time.sel(rule=rule, facing=facing), **style(place, rule))
        panel.set_title(f"{facing}-facing" if facing in ("past", "future") else facing)
        panel.axhline(0, color="0.7", lw=0.8, zorder=0)
        panel.set(ylim=(-1.08, 1.08), xlim=(-0.02 * last - 0.3, 1.02 * last + 0.3))
        whole(panel.xaxis)
    for panel in grid.ravel()[len(facings) :]:
        panel.set_axis_off()
    for panel in grid[-1]:
        panel.set_xlabel("step")
    for panel in grid[:, 0]:
        panel.set_ylabel("cosine")
    draw_legend(grid.flat[0], axes)
    say(grid, [left], axes)
    return grid


@figure("loss_rate_by_pair")
def pairs(data: xr.Dataset, /, *, axes: Panels = None, **selection: Any) -> np.ndarray:
    """Heat maps of the fall of the loss by the step of the error and the step of its use, one a rule."""
    one = only(data, "loss_rate_by_pair", ("rule", "time", "time_used"))
    rules, left = cut([str(rule) for rule in one.rule.values], PANELS, "rules", ["rule"])
    columns = min(4, len(rules))
    rows = -(-len(rules) // columns)
    size = (1.0 + 1.8 * columns, 0.4 + 1.95 * rows)
    grid = panels_of(axes, rows, columns, size, square=True)
    values = (-one.loss_rate_by_pair).assign_attrs(one.loss_rate_by_pair.attrs)
    known = np.abs(values.values[np.isfinite(values.values)])
    most = float(known.max(initial=0.0))
    limit = (float(np.quantile(known, 0.995)) if known.size else 0.0) or most or 1.0
    for panel in grid.ravel()[len(rules) :]:
        panel.set_axis_off()
    for place, (panel, rule) in enumerate(zip(grid.flat, rules, strict=False)):
        image = panel.imshow(
            values.sel(rule=rule), vmin=-limit, vmax=limit, cmap=with_grey("RdBu_r"), origin="lower"
        )
        panel.set_title(short(rule, 26), fontsize=7.5)
        panel.tick_params(labelsize=8)
        whole(panel.xaxis, 4)
        whole(panel.yaxis, 4)
        if place + columns >= len(rules):
            panel.set_xlabel("step of use", fontsize=8)
        if place % columns == 0:
            panel.set_ylabel("step of error", fontsize=8)
    beyond = "both" if most > limit else "neither"
    colour_bar(grid, image, _fall(values), extend=beyond)
    say(grid, [left], axes)
    return grid


@figure("singular_value", "singular_value_converged", "propagator_error")
def flow_spectra(data: xr.Dataset, /, *, ax: Axes | None = None, **selection: Any) -> Axes:
    """Leading singular values of each rule's flow; open markers did not converge: lower bounds."""
    one = only(data, "singular_value", ("rule", "k"))
    lines, left = _lines(one)
    panel: Axes = panels_of(ax, 1, 1, (WIDTH, 2.9 + _height(lines)))[0, 0]
    for place, rule in enumerate(lines):
        values, look = one.singular_value.sel(rule=rule), style(place, rule)
        panel.plot(one.k, values.where(values > 0), **look)
        bounds = values.where((values > 0) & ~one.singular_value_converged.sel(rule=rule))
        panel.plot(one.k, bounds, **look | {"lw": 0, "mfc": "w", "label": None})
    panel.set(xlabel="k", ylabel="singular value")
    if bool((one.singular_value > 0).any()):
        panel.set_yscale("log")
    whole(panel.xaxis)
    draw_legend(panel, ax)
    say(np.array([[panel]]), [left], ax)
    return panel


@figure("effective_rank", "effective_rank_before", "alignment_with_first")
def rule_geometry(data: xr.Dataset, /, *, axes: Panels = None, **selection: Any) -> np.ndarray:
    """Effective ranks, and the alignment of Phi with that of the first rule, a bar for each rule."""
    data = only(data, "effective_rank", ("rule", "operator"))
    shown, left = cut([str(rule) for rule in data.rule.values], BARS, "rules", ["rule"])
    data = data.isel(rule=slice(len(shown)))
    rules = [short(rule, 30) for rule in shown]
    operators = [str(operator) for operator in data.operator.values]
    size = (WIDTH, 1.2 + 0.3 * len(rules))
    panels: np.ndarray = panels_of(axes, 1, len(operators) + 1, size, sharey=True)[0]
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
    say(panels[None], ["Dashed: before training. Bars: 95% intervals.", left], axes)
    return panels


def only(data: xr.Dataset, name: str, dims: tuple[str, ...]) -> xr.Dataset:
    """Return data whose variable has these dims alone; raises ``ArgumentError`` where one must be chosen."""
    rest = [str(dim) for dim in data[name].dims if dim not in dims]
    for dim in rest:
        if data.sizes[dim] > 1:
            labels = [str(one) for one in data[dim].values.tolist()] if dim in data.coords else []
            few = ", ".join(map(repr, labels[:6])) + (", ..." if len(labels) > 6 else "")
            example = f"{dim}={data[dim].values.tolist()[0]!r}" if labels else f"{dim}=0"
            raise ArgumentError(
                f"{dim}: expected one, got {data.sizes[dim]}{f' ({few})' if few else ''}; choose: {example}"
            )
    return data.isel(dict.fromkeys(rest, 0))


def _lines(one: xr.Dataset) -> tuple[list[str], str]:
    return cut([str(rule) for rule in one.rule.values], LINES, "rules", ["rule"])


def _height(labels: list[str]) -> float:
    return legend_of([short(label, 54) for label in labels])


def _fall(rate: xr.DataArray) -> str:
    return f"fall of the loss{unit_of(rate)}\nper unit learning rate"


def _half(stderr: xr.DataArray) -> xr.DataArray:
    """Return half of a 95% interval; none of a figure that one seed of several has alone."""
    return HALF_95 * stderr.where(np.isfinite(stderr))
