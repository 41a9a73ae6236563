"""The page of a comparison of learning rules: sentences, figures and tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from attrs import frozen
from markupsafe import Markup
from matplotlib.figure import Figure

from kpframe.report.figures import COLOURS, MARKERS, panels_of, svg
from kpframe.report.html import Section, plus_minus, provenance_rows, write_page

#: Most checkpoints that get figures of their own; the tables have all of them.
FIGURES = 4


@frozen
class Table:
    """A table of a page."""

    title: str
    head: list[str]
    rows: list[list[str]]


def write_comparison(data: xr.Dataset, path: Path) -> Path:
    """Write the page of a comparison (see ``kpframe.study.compare.compare_source``); return its path."""
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
            for section in _sections(shown.sel(checkpoint=name), str(name))
        ],
        tables=[Table(str(name), _HEAD, _rows(data.sel(checkpoint=name))) for name in data.checkpoint.values],
        provenance=provenance_rows(data),
    )


def _shown(count: int) -> list[int]:
    """Return evenly spread places, the first and the last among them."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, FIGURES))})


def _sections(one: xr.Dataset, name: str) -> list[Section]:
    drawn: list[tuple[str, Callable[[xr.Dataset], Figure], str]] = [
        (
            "Which rules agree",
            rule_cosines,
            "Cosines between the updates of two rules, summed over trials and steps.",
        ),
        (
            "How far errors travel",
            lags,
            "The speed at which the loss falls, by the number of steps that the error travels back.",
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
            "The loss rate of an error at one step that reaches the parameters' use at an earlier one.",
        ),
        (
            "Spectra",
            spectra,
            "Leading singular values of P K P_rule* E, the map by which the rule moves the states.",
        ),
    ]
    return [Section(f"{name}: {title}", Markup(svg(draw(one))), title, text) for title, draw, text in drawn]


def rule_cosines(one: xr.Dataset) -> Figure:
    """Heat map of the cosines between the updates of the rules."""
    labels = [str(rule) for rule in one.rule.values]
    size = 2.4 + 0.42 * len(labels)
    figure, (panel,) = panels_of(1, 1, (size + 1.4, size), square=True)
    image = panel.imshow(one.rule_cosine, vmin=-1, vmax=1, cmap="RdBu_r")
    panel.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
    panel.set_yticks(range(len(labels)), labels)
    for (row, column), value in np.ndenumerate(one.rule_cosine.values):
        colour = "w" if abs(value) > 0.6 else "k"
        panel.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=colour)
    figure.colorbar(image, ax=panel, shrink=0.8, label="cosine of updates")
    return figure


def lags(one: xr.Dataset) -> Figure:
    """Lines of the loss rate by lag."""
    figure, (panel,) = panels_of(1, 1, (8.2, 3.0))
    for place, rule in enumerate(one.rule.values):
        panel.plot(one.lag, one.loss_rate_by_lag.sel(rule=rule), **_style(place, str(rule)))
    panel.axhline(0, color="0.7", lw=0.8, zorder=0)
    panel.set(xlabel="steps the error travels back", ylabel="change of the loss\nper unit learning rate")
    _legend(panel)
    return figure


def cosines_by_time(one: xr.Dataset) -> Figure:
    """Lines of the cosines at each step, a panel for each facing."""
    facings = [str(facing) for facing in one.facing.values]
    figure, panels = panels_of(2, 2, (8.2, 4.6), sharey=True)
    for panel, facing in zip(panels, facings, strict=True):
        for place, rule in enumerate(one.rule.values):
            panel.plot(one.time, one.cosine_by_time.sel(rule=rule, facing=facing), **_style(place, str(rule)))
        panel.set_title(f"{facing}-facing" if facing in ("past", "future") else facing)
        panel.axhline(0, color="0.7", lw=0.8, zorder=0)
        panel.set(xlabel="step", ylim=(-1.05, 1.05))
    panels[0].set_ylabel("cosine")
    panels[2].set_ylabel("cosine")
    _legend(panels[1])
    return figure


def pairs(one: xr.Dataset) -> Figure:
    """Heat maps of the loss rate by the step of the error and the step of its use, one for each rule."""
    rules = [str(rule) for rule in one.rule.values]
    columns = min(4, len(rules))
    rows = -(-len(rules) // columns)
    figure, panels = panels_of(rows, columns, (1.2 + 2.1 * columns, 0.4 + 2.2 * rows), square=True)
    values = -one.loss_rate_by_pair
    limit = float(np.quantile(np.abs(values), 0.995)) or 1.0
    for panel in panels[len(rules) :]:
        panel.set_axis_off()
    for panel, rule in zip(panels, rules, strict=False):
        image = panel.imshow(values.sel(rule=rule), vmin=-limit, vmax=limit, cmap="RdBu_r", origin="lower")
        panel.set_title(rule, fontsize=8)
        panel.set(xlabel="step of use", ylabel="step of error")
    figure.colorbar(image, ax=panels, shrink=0.7, label="fall of the loss\nper unit learning rate")
    return figure


def spectra(one: xr.Dataset) -> Figure:
    """Leading singular values of each rule's flow."""
    figure, (panel,) = panels_of(1, 1, (8.2, 3.0))
    for place, rule in enumerate(one.rule.values):
        values = one.singular_value.sel(rule=rule)
        panel.plot(one.k, values.where(values > 0), **_style(place, str(rule)))
    panel.set(xlabel="place", ylabel="singular value", yscale="log")
    panel.set_xticks(one.k.values)
    _legend(panel)
    return figure


def _style(place: int, label: str) -> dict[str, Any]:
    return {
        "color": COLOURS[place % len(COLOURS)],
        "marker": MARKERS[place % len(MARKERS)],
        "ms": 3.5,
        "lw": 1.2,
        "label": label,
    }


def _legend(panel: object) -> None:
    panel.legend(  # type: ignore[attr-defined]
        frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8
    )


_HEAD = [
    "rule",
    "flow",
    "cosine of updates",
    "descent",
    "norm ratio",
    "metric's condition number",
    "alignment with Phi",
    "effective rank",
    "symmetric part",
    "|P - P_rule| / |P|",
]


def _rows(one: xr.Dataset) -> list[list[str]]:
    rows = []
    for rule in one.rule.values:
        row = one.sel(rule=rule)
        ends = float(row.symmetric_smallest), float(row.symmetric_largest)
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
                f"{ends[0]:.3g} to {ends[1]:.3g}",
                f"{float(row.propagator_error):.3g}",
            ]
        )
    return rows
