"""The page of a comparison of learning rules: sentences, figures and tables."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from kpframe.study._plot import rules
from kpframe.study._plot.look import as_wide, drawable, on
from kpframe.study._report import captions_of_rules as captions
from kpframe.study._report.captions import Caption
from kpframe.study._report.page import Section, Table, page_about, write_page
from kpframe.study._report.words import counted, few, plus_minus

#: Most checkpoints that get figures of their own; the tables have all of them.
FIGURES = 4
#: What the reason begins with where a rule does not apply to a model.
_UNSUPPORTED = "UnsupportedError: "


def write_comparison(data: xr.Dataset, path: Path, *, files: bool = False) -> Path:
    """Write the page of a comparison (see ``compare_source``); return its path."""
    shown = data.isel(checkpoint=_shown(data.sizes["checkpoint"]))
    left = data.sizes["checkpoint"] - shown.sizes["checkpoint"]
    done = (
        f"On {counted(data.sizes['checkpoint'], 'network')}, each rule's update beside the exact gradient of "
        f"backpropagation through time: {few(data.rule.values, 12)}."
    )
    if left:
        done += f" Figures are those of {shown.sizes['checkpoint']} networks; the tables have all of them."
    return write_page(
        path,
        page_about(
            data,
            title=data.attrs.get("title", "Learning rules compared"),
            done=[done],
            sections=[
                section
                for name in shown.checkpoint.values
                for section in _sections(compared(shown.sel(checkpoint=name)), str(name))
            ],
            tables=[
                Table(str(name), *comparison_rows(data.sel(checkpoint=name)))
                for name in data.checkpoint.values
            ]
            + [Table("How the estimates were made", *_methods(data))],
            notes=[
                _NOTE,
                *(f"Skipped: {text}." for text in skipped_comparisons(data)),
                *(f"Failed: {failure}." for failure in failed_comparisons(data)),
            ],
            file=path.with_suffix(".nc").name,
            covers="Standard errors are those of the estimates along these trials; they say nothing of other "
            "trials or other networks.",
        ),
        files=files,
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
    if not one.sizes["rule"]:
        return []
    drawn: list[tuple[str, Callable[[xr.Dataset], Axes | np.ndarray], Callable[[xr.Dataset], Caption]]] = [
        ("Which rules agree", rules.rule_cosines, captions.rule_cosines),
        ("How far errors travel", rules.lags, captions.lags),
        ("Step by step", rules.cosines_by_time, captions.cosines_by_time),
        ("Where learning comes from", rules.pairs, captions.pairs),
        ("Spectra", rules.flow_spectra, captions.flow_spectra),
    ]
    seen = drawable(one)
    return [Section(f"{name}: {title}", as_wide(on(draw(seen))), say(one)) for title, draw, say in drawn]


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
    "not converge, of which only this bound is known; ~ marks a ratio of norms that did not."
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
