"""The page of a comparison of learning rules: sentences, figures and tables."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from attrs import frozen
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from kpframe.study._report.figures import COLOURS, MARKERS, drawable, open_markers, panels_of, svg, unit_of
from kpframe.study._report.html import Section, plus_minus, provenance_rows, write_page

#: Most checkpoints that get figures of their own; the tables have all of them.
FIGURES = 4
#: Width of every figure [inch].
WIDTH = 8.2


@frozen
class Table:
    """A table of a page."""

    title: str
    head: list[str]
    rows: list[list[str]]


def write_comparison(data: xr.Dataset, path: Path) -> Path:
    """Write the page of a comparison (see ``compare_source``); return its path."""
    names = ", ".join(str(rule) for rule in data.rule.values)
    shown = data.isel(checkpoint=_shown(data.sizes["checkpoint"]))
    return write_page(
        path,
        "comparison.html.j2",
        title=data.attrs.get("title", "Learning rules compared"),
        lead=f"Each rule's update beside the exact gradient of backpropagation through time: {names}.",
        sections=[
            section
            for name in shown.checkpoint.values
            for section in _sections(compared(shown.sel(checkpoint=name)), str(name))
        ],
        tables=[
            Table(str(name), *comparison_rows(data.sel(checkpoint=name))) for name in data.checkpoint.values
        ]
        + [Table("How the estimates were made", *_methods(data))],
        notes=[_NOTE, *(f"Failed: {failure}." for failure in failed_comparisons(data))],
        provenance=provenance_rows(data),
    )


def compared(one: xr.Dataset) -> xr.Dataset:
    """Return a checkpoint's part of a dataset with the rules that could be compared on it."""
    if "failure" not in one:
        return one
    rules = one.rule.values[one.failure.values == ""]
    return one.sel(rule=rules, rule_other=rules)


def failed_comparisons(data: xr.Dataset) -> list[str]:
    """Return which rules could not be compared on which checkpoints, and why."""
    failures = list(json.loads(data.attrs.get("left_out", "[]")))
    if "failure" in data:
        failures += [
            f"{name}, {rule}: {text}"
            for name in data.checkpoint.values
            for rule in data.rule.values
            if (text := str(data.failure.sel(checkpoint=name, rule=rule).item()))
        ]
    return failures


def _shown(count: int) -> list[int]:
    """Return evenly spread places, the first and the last among them."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, FIGURES))})


def _sections(one: xr.Dataset, name: str) -> list[Section]:
    drawn: list[tuple[str, Callable[[xr.Dataset], Figure], str]] = [
        (
            "Which rules agree",
            rule_cosines,
            "Cosines between the updates of two rules, summed over trials and steps; columns "
            "are numbered like the rows.",
        ),
        (
            "How far errors travel",
            lags,
            "The speed at which the loss falls, by the number of steps that the error travels back; below "
            "zero the loss grows.",
        ),
        (
            "Step by step",
            cosines_by_time,
            "Past-facing: the contribution of the error at a step. Future-facing: of the parameters' use "
            "at a step. The mixed facings compare one with the other and are small even for the exact "
            "gradient, so they say little about a rule.",
        ),
        (
            "Where learning comes from",
            pairs,
            "The speed at which the loss falls by an error at one step that reaches the parameters' use at "
            "an earlier one; below zero the loss grows. Steps count from 0.",
        ),
        (
            "Spectra",
            spectra,
            "Leading singular values of P K P_rule* E, the map by which the rule moves the states."
            + open_markers(one.singular_value_converged),
        ),
    ]
    seen = drawable(one)
    return [Section(f"{name}: {title}", Markup(svg(draw(seen))), title, text) for title, draw, text in drawn]


def rule_cosines(one: xr.Dataset) -> Figure:
    """Heat map of the cosines between the updates of the rules; columns are numbered like the rows."""
    count = one.sizes["rule"]
    rules = [f"{short(str(rule), 36)}  {place}" for place, rule in enumerate(one.rule.values, 1)]
    figure, (panel,) = panels_of(1, 1, (4.3 + 0.36 * count, 1.1 + 0.36 * count), square=True)
    image = panel.imshow(one.rule_cosine, vmin=-1, vmax=1, cmap="RdBu_r")
    panel.set_xticks(range(count), [str(place) for place in range(1, count + 1)])
    panel.set_yticks(range(count), rules)
    panel.tick_params(length=0, labelsize=8)
    for (row, column), value in np.ndenumerate(one.rule_cosine.values):
        colour = "w" if abs(value) > 0.6 else "k"
        panel.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=6.5, color=colour)
    bar = figure.colorbar(image, ax=panel, fraction=0.05, ticks=(-1, 0, 1))
    bar.ax.tick_params(labelsize=8)
    return as_wide(figure)


def lags(one: xr.Dataset) -> Figure:
    """Lines of the speed at which the loss falls, by lag."""
    figure, (panel,) = panels_of(1, 1, (WIDTH, 2.9 + legend_height(one)))
    for place, rule in enumerate(one.rule.values):
        panel.plot(one.lag, -one.loss_rate_by_lag.sel(rule=rule), **style(place, str(rule)))
    panel.axhline(0, color="0.7", lw=0.8, zorder=0)
    panel.set(xlabel="steps the error travels back", ylabel=_fall(one.loss_rate_by_lag))
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    draw_legend(figure, panel)
    return as_wide(figure)


def cosines_by_time(one: xr.Dataset) -> Figure:
    """Lines of the cosines at each step, a panel for each facing."""
    facings = [str(facing) for facing in one.facing.values]
    figure, panels = panels_of(2, 2, (WIDTH, 4.6 + legend_height(one)), sharey=True)
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
    draw_legend(figure, panels[0])
    return as_wide(figure)


def _fall(rate: xr.DataArray) -> str:
    return f"fall of the loss{unit_of(rate)}\nper unit learning rate"


def pairs(one: xr.Dataset) -> Figure:
    """Heat maps of the fall of the loss by the step of the error and the step of its use, one a rule."""
    rules = [str(rule) for rule in one.rule.values]
    columns = min(4, len(rules))
    rows = -(-len(rules) // columns)
    figure, panels = panels_of(rows, columns, (1.0 + 1.8 * columns, 0.4 + 1.95 * rows), square=True)
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
    bar = figure.colorbar(image, ax=panels, fraction=0.05, extend=beyond)
    bar.ax.tick_params(labelsize=8)
    bar.set_label(_fall(values), fontsize=8)
    return as_wide(figure)


def spectra(one: xr.Dataset) -> Figure:
    """Leading singular values of each rule's flow."""
    figure, (panel,) = panels_of(1, 1, (WIDTH, 2.9 + legend_height(one)))
    for place, rule in enumerate(one.rule.values):
        values, look = one.singular_value.sel(rule=rule), style(place, str(rule))
        panel.plot(one.k, values.where(values > 0), **look)
        bounds = values.where((values > 0) & ~one.singular_value_converged.sel(rule=rule))
        panel.plot(one.k, bounds, **look | {"lw": 0, "mfc": "w", "label": None})
    panel.set(xlabel="k", ylabel="singular value", yscale="log")
    panel.set_xticks(one.k.values)
    draw_legend(figure, panel)
    return as_wide(figure)


def short(label: str, width: int) -> str:
    """Return a label on at most two lines of ``width`` characters, with an ellipsis for what is left out."""
    lines = textwrap.wrap(label, width)
    if len(lines) <= 2:
        return "\n".join(lines)
    return f"{lines[0]}\n{lines[1][: width - 1]}…"


def style(place: int, label: str) -> dict[str, Any]:
    """Return how a rule's line is drawn: colours come again with other markers, dashed."""
    turn = place // len(COLOURS)
    return {
        "color": COLOURS[place % len(COLOURS)],
        "marker": MARKERS[(place + turn) % len(MARKERS)],
        "linestyle": ("-", "--", ":")[turn % 3],
        "ms": 3.5,
        "lw": 1.2,
        "label": short(label, 54),
    }


def draw_legend(figure: Figure, panel: Axes) -> None:
    """Draw one legend below the panels, where long names have room."""
    figure.legend(
        *panel.get_legend_handles_labels(),
        frameon=False,
        loc="outside lower left",
        ncols=2,
        fontsize=8,
    )


def legend_height(one: xr.Dataset) -> float:
    """Return the height that the legend of a dataset's rules takes [inch]."""
    lines = [short(str(rule), 54).count("\n") + 1 for rule in one.rule.values]
    return 0.2 + 0.17 * max(1, sum(lines) / 2)


def as_wide(figure: Figure) -> Figure:
    """Give a figure the width of the page with an empty frame, so that text is of one size in all."""
    share = max(1.0, WIDTH / figure.get_figwidth())
    frame = Rectangle((0, 0), share, 1, transform=figure.transFigure, facecolor="none", edgecolor="none")
    figure.add_artist(frame)
    return figure


_HEAD = [
    "rule",
    "flow",
    "cosine of updates",
    "descent",
    "norm ratio",
    "metric's condition number",
    "alignment with Phi",
    "effective rank of F F*",
    "symmetric part",
    "|P - P_rule| / |P|",
]
_NOTE = (
    "F is the rule's flow, P K P_rule* E. Its effective rank is tr(G)^2 / tr(G^2) with G = F F* for every "
    "rule, also where F is positive, as Phi is: that of Phi itself (G = Phi) is a larger figure and is not "
    "to be compared with it. The symmetric part (F + F*) / 2 is given by its smallest and its largest "
    "eigenvalue: below zero there are errors that the rule makes larger. ≤ and ≥ mark an eigenvalue that did "
    "not converge, of which only this bound is known; ~ marks a ratio of norms that did not. Standard errors "
    "are those of the estimates along these trials; they say nothing of other trials or other networks."
)


def comparison_rows(one: xr.Dataset) -> tuple[list[str], list[list[str]]]:
    """Return the head and the rows of a checkpoint's table, as they stand on the page."""
    rows = []
    one = compared(one)
    for rule in one.rule.values:
        row = one.sel(rule=rule)
        rows.append(
            [
                str(rule),
                str(row.formula.item()),
                f"{float(row.update_cosine):.4f}",
                f"{float(row.descent):.4f}",
                f"{float(row.norm_ratio):.3g}",
                f"{float(row.metric_condition):.3g}",
                plus_minus(row.flow_alignment, row.flow_alignment_stderr),
                plus_minus(row.effective_rank, row.effective_rank_stderr),
                "none" if math.isnan(float(row.symmetric_smallest)) else f"{least(row)} to {greatest(row)}",
                f"{'' if bool(row.propagator_error_converged) else '~ '}{float(row.propagator_error):.3g}",
            ]
        )
    return _HEAD, rows


def least(row: xr.Dataset) -> str:
    """Return the smallest eigenvalue of a flow's symmetric part, as a bound where it did not converge."""
    return f"{'' if bool(row.symmetric_smallest_converged) else '≤ '}{float(row.symmetric_smallest):.3g}"


def greatest(row: xr.Dataset) -> str:
    """Return the largest eigenvalue of a flow's symmetric part, as a bound where it did not converge."""
    return f"{'' if bool(row.symmetric_largest_converged) else '≥ '}{float(row.symmetric_largest):.3g}"


def _methods(data: xr.Dataset) -> tuple[list[str], list[list[str]]]:
    """Return the head and the rows of the table that says how each estimate was made."""
    names = ("flow_alignment", "effective_rank", "singular_value", "symmetric")
    rows = [
        [str(name), str(rule)]
        + [str(data[f"{what}_method"].sel(checkpoint=name, rule=rule).item()) for what in names]
        for name in data.checkpoint.values
        for rule in compared(data.sel(checkpoint=name)).rule.values
    ]
    return [
        "checkpoint",
        "rule",
        "alignment with Phi",
        "effective rank",
        "singular values",
        "symmetric part",
    ], rows
