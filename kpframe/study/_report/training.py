"""The page of networks trained by several learning rules: loss curves, geometry and tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kpframe.study._report.comparison import WIDTH, Table, as_wide, draw_legend, legend_height, short, style
from kpframe.study._report.figures import (
    HALF_95,
    UPDATES,
    drawable,
    loss_label,
    panels_of,
    running_mean,
    score_name,
    score_of,
    svg,
)
from kpframe.study._report.html import Section, plus_minus, provenance_rows, write_page


def write_training(data: xr.Dataset, path: Path) -> Path:
    """Write the page of a training, as ``train_rules`` returns it; return its path."""
    names = ", ".join(str(rule) for rule in data.rule.values)
    seen = drawable(data)
    return write_page(
        path,
        "comparison.html.j2",
        title=data.attrs.get("title", "Networks trained by learning rules"),
        lead=f"{_start(data)}, trained on the same trials for {data.sizes['update']} updates by each of "
        f"the rules: {names}.",
        sections=[
            Section("Learning", Markup(svg(losses(seen))), "Training losses", _learning_text(data)),
            Section(
                "The geometry they end in",
                Markup(svg(geometry(seen))),
                "Geometry",
                _geometry_text(data),
            ),
        ],
        tables=[
            Table("Results", *training_rows(data)),
            Table("Change of each parameter, |change| / |initial|", *_parameters(data)),
            Table("Cosines between the changes of the parameters", *_cosines(data)),
        ]
        + (
            [Table("How the estimates were made", *_methods(data))] if "effective_rank_method" in data else []
        ),
        notes=[_ONE_SEED if _seeds(data) == 1 else _several_text(data)]
        + [f"Failed: {failure}." for failure in failed_rules(data)],
        provenance=provenance_rows(data),
    )


def losses(data: xr.Dataset) -> Figure:
    """Loss curves, a running mean of each; a cross where a rule diverged."""
    figure, (panel,) = panels_of(1, 1, (WIDTH, 3.2 + legend_height(data)))
    for place, rule in enumerate(data.rule.values):
        made, smooth = running_mean(data.training_loss.sel(rule=rule))
        look = style(place, str(rule)) | {"markevery": max(1, len(smooth) // 10)}
        panel.plot(made, smooth, **look)
        gone = float(data.diverged_at.sel(rule=rule))
        if gone > 0 and len(smooth):
            panel.plot(gone - 1, smooth[-1], marker="x", ms=9, mew=2, color=look["color"])
    panel.set(xlabel=UPDATES, ylabel=loss_label(data.training_loss), yscale="log")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    draw_legend(figure, panel)
    return as_wide(figure)


def geometry(data: xr.Dataset) -> Figure:
    """Effective ranks, and the alignment of Phi with that of the first rule, a bar for each rule."""
    rules = [short(str(rule), 30) for rule in data.rule.values]
    operators = [str(operator) for operator in data.operator.values]
    figure, panels = panels_of(1, len(operators) + 1, (WIDTH, 1.2 + 0.3 * len(rules)), sharey=True)
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
    return as_wide(figure)


def _half(stderr: xr.DataArray) -> xr.DataArray:
    """Return half of a 95% interval; none of a figure that one seed of several has alone."""
    return HALF_95 * stderr.where(np.isfinite(stderr))


def _seeds(data: xr.Dataset) -> int:
    return data.sizes.get("seed", 1)


def _start(data: xr.Dataset) -> str:
    if _seeds(data) == 1:
        return "One initial network"
    return f"From each of {_seeds(data)} seeds one initial network"


def _geometry_text(data: xr.Dataset) -> str:
    what = "estimates, for these networks" if _seeds(data) == 1 else "mean over seeds"
    return (
        "After training, on the same held-out trials, with 95% intervals. Dashed: before training. A rule "
        f"that diverged or failed has no bar. The intervals are those of the {what}. Two rules may reach one "
        "loss by networks whose Phi differ: they would learn the next task differently."
    )


_ONE_SEED = (
    "One seed: ± and bars are those of the estimates alone, for these networks along these trials. They do "
    "not say how far other initial weights and other training trials would lead, which is often much "
    "further; kpframe train --seeds 5 shows that. Losses and scores are those of this seed's test trials."
)


def _several_text(data: xr.Dataset) -> str:
    seeds = ", ".join(str(seed) for seed in data.seed.values)
    return (
        f"Means over the seeds {seeds}, each with initial weights, training trials and held-out trials of "
        "its own. ± is the standard error of the mean over the seeds, which holds what estimates are off by; "
        "1.96 times that is the 95% interval by Student's t. For a rule that diverged or failed in some "
        "seeds these are of the others. training.nc has the figures of each seed."
    )


def _learning_text(data: xr.Dataset) -> str:
    text = (
        f"Test loss {_figure(data, 'test_loss_before')} and {score_name(data)} "
        f"{_figure(data, f'{score_of(data)}_before')} "
        "before training; see the table for what they are afterwards."
    )
    gone = [str(rule) for rule in data.rule.values if bool(data.diverged_at.sel(rule=rule) > 0)]
    return f"{text} Diverged, at the crosses: {', '.join(gone)}." if gone else text


def failed_rules(data: xr.Dataset) -> list[str]:
    """Return which rules raised an error, when and why."""
    failures = []
    for rule in data.rule.values if "failed_at" in data else ():
        one = data.sel(rule=rule)
        if bool(one.failed_at > 0):
            late = bool(one.failed_at > one.sizes["update"])
            when = "after the last update" if late else f"at update {int(one.failed_at)}"
            failures.append(f"{rule}, {when} ({one.reason.item()})")
    return failures


def training_rows(data: xr.Dataset) -> tuple[list[str], list[list[str]]]:
    """Return the head and the rows of the table of results."""
    head = ["rule", "test loss", f"test {score_name(data)}", "diverged at"]
    head += [f"effective rank of {name}" for name in data.operator.values]
    head += ["alignment with the first", "alignment with the initial"]
    head.append("checkpoint" if _seeds(data) == 1 else "seeds")
    rows = []
    for rule in data.rule.values:
        one = data.sel(rule=rule)
        diverged = bool(one.diverged_at > 0)
        estimates = list(zip(one.effective_rank, one.effective_rank_stderr, strict=True))
        for name in ("first", "initial"):
            estimates.append((one[f"alignment_with_{name}"], one[f"alignment_with_{name}_stderr"]))
        rows.append(
            [
                str(rule),
                _figure(one, "test_loss"),
                _figure(one, score_of(data)),
                f"update {int(one.diverged_at)}" if diverged else "-",
                *("-" if bool(value.isnull()) else plus_minus(value, stderr) for value, stderr in estimates),
                _kept(one, diverged),
            ]
        )
    return head, rows


def _kept(one: xr.Dataset, diverged: bool) -> str:
    """Return the name of a rule's checkpoint; of several seeds, how many came to the end."""
    if _seeds(one) > 1:
        return f"{int(one.seeds_counted)} of {_seeds(one)}"
    return "-" if diverged else str(one.checkpoint.item()) or "-"


def _parameters(data: xr.Dataset) -> tuple[list[str], list[list[str]]]:
    share = data.parameter_change / data.parameter_norm_before.where(data.parameter_norm_before > 0)
    names = [str(name) for name in data.parameter.values]
    rows = [
        [str(rule), *(_number(share.sel(rule=rule, parameter=name)) for name in names)]
        for rule in data.rule.values
    ]
    return ["rule", *names], rows


def _cosines(data: xr.Dataset) -> tuple[list[str], list[list[str]]]:
    labels = [str(rule) for rule in data.rule.values]
    rows = [
        [f"{place}  {rule}", *(_number(value) for value in data.change_cosine.sel(rule=rule))]
        for place, rule in enumerate(labels, 1)
    ]
    return ["rule", *(str(place) for place in range(1, len(labels) + 1))], rows


def _figure(data: xr.Dataset, name: str) -> str:
    """Return a figure, with its standard error where seeds give one."""
    if f"{name}_stderr" not in data or bool(data[name].isnull()):
        return _number(data[name])
    return plus_minus(data[name], data[f"{name}_stderr"])


def _methods(data: xr.Dataset) -> tuple[list[str], list[list[str]]]:
    """Return how each estimate was made, and of which operator G an effective rank tr(G)^2 / tr(G^2) is."""
    found = {
        f"effective rank of {name}": data.effective_rank_method.sel(operator=name)
        for name in data.operator.values
    }
    found |= {
        f"alignment with the {name}": data[f"alignment_with_{name}_method"] for name in ("first", "initial")
    }
    rows = [
        [str(rule), *(str(methods.sel(rule=rule).item()) or "-" for methods in found.values())]
        for rule in data.rule.values
    ]
    return ["rule", *found], rows


def _number(value: xr.DataArray) -> str:
    return "-" if bool(value.isnull()) else f"{float(value):.4f}"
