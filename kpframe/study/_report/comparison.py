"""The page of a comparison of learning rules: sentences, figures and tables."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import xarray as xr
from attrs import frozen
from markupsafe import Markup
from matplotlib.axes import Axes

from kpframe.study._plot import rules
from kpframe.study._plot.look import as_wide, drawable, on, open_markers, svg
from kpframe.study._report.html import Section, plus_minus, provenance_rows, write_page

#: Most checkpoints that get figures of their own; the tables have all of them.
FIGURES = 4
#: What the reason begins with where a rule does not apply to a model.
_UNSUPPORTED = "UnsupportedError: "


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
        notes=[
            _NOTE,
            *(f"Skipped: {text}." for text in skipped_comparisons(data)),
            *(f"Failed: {failure}." for failure in failed_comparisons(data)),
        ],
        provenance=provenance_rows(data),
    )


def compared(one: xr.Dataset) -> xr.Dataset:
    """Return a checkpoint's part of a dataset with the rules that could be compared on it."""
    if "failure" not in one:
        return one
    rules = one.rule.values[one.failure.values == ""]
    return one.sel(rule=rules, rule_other=rules)


def failed_comparisons(data: xr.Dataset) -> list[str]:
    """Return which rules raised an error on which checkpoints, and why."""
    return [
        f"{name}, {rule}: {why}" for name, _, rule, why in _without(data) if not why.startswith(_UNSUPPORTED)
    ]


def skipped_comparisons(data: xr.Dataset) -> list[str]:
    """Return which rules do not apply to the models of which checkpoints, and why."""
    return [
        f"{rule} does not apply to {name} (model {model}): {why.removeprefix(_UNSUPPORTED)}"
        for name, model, rule, why in _without(data)
        if why.startswith(_UNSUPPORTED)
    ]


def _without(data: xr.Dataset) -> Iterator[tuple[str, str, str, str]]:
    """Yield the checkpoint, model, rule and reason of each comparison that has no figures."""
    for name, model, rule, why in json.loads(data.attrs.get("left_out", "[]")):
        yield name, model, rule, why
    if "failure" in data:
        for name, model in zip(data.checkpoint.values.tolist(), data.model.values.tolist(), strict=True):
            for rule in data.rule.values.tolist():
                if why := str(data.failure.sel(checkpoint=name, rule=rule).item()):
                    yield name, model, rule, why


def _shown(count: int) -> list[int]:
    """Return evenly spread places, the first and the last among them."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, FIGURES))})


def _sections(one: xr.Dataset, name: str) -> list[Section]:
    drawn: list[tuple[str, Callable[[xr.Dataset], Axes | np.ndarray], str]] = [
        (
            "Which rules agree",
            rules.rule_cosines,
            "Cosines between the updates of two rules, summed over trials and steps; columns "
            "are numbered like the rows.",
        ),
        (
            "How far errors travel",
            rules.lags,
            "The speed at which the loss falls, by the number of steps that the error travels back; below "
            "zero the loss grows.",
        ),
        (
            "Step by step",
            rules.cosines_by_time,
            "Past-facing: the contribution of the error at a step. Future-facing: of the parameters' use "
            "at a step. The mixed facings compare one with the other and are small even for the exact "
            "gradient, so they say little about a rule.",
        ),
        (
            "Where learning comes from",
            rules.pairs,
            "The speed at which the loss falls by an error at one step that reaches the parameters' use at "
            "an earlier one; below zero the loss grows. Steps count from 0.",
        ),
        (
            "Spectra",
            rules.flow_spectra,
            "Leading singular values of P K P_rule* E, the map by which the rule moves the states."
            + open_markers(one.singular_value_converged),
        ),
    ]
    seen = drawable(one)
    return [
        Section(f"{name}: {title}", Markup(svg(as_wide(on(draw(seen))))), title, text)
        for title, draw, text in drawn
    ]


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
