"""The page of networks trained by several learning rules: loss curves, geometry and tables."""

from __future__ import annotations

from pathlib import Path

import xarray as xr

from kpframe.study._plot import rules, training
from kpframe.study._plot.look import as_wide, on
from kpframe.study._plot.training import score_name, score_of
from kpframe.study._report import captions_of_rules as captions
from kpframe.study._report.page import Section, Table, page_about, write_page
from kpframe.study._report.words import few, plus_minus


def write_training(data: xr.Dataset, path: Path, *, files: bool = False) -> Path:
    """Write the page of a training, as ``train_rules`` returns it; return its path."""
    tables = [
        Table("Results", *training_rows(data)),
        Table("Change of each parameter, |change| / |initial|", *_parameters(data)),
        Table("Cosines between the changes of the parameters", *_cosines(data)),
    ]
    if "effective_rank_method" in data:
        tables.append(Table("How the estimates were made", *_methods(data)))
    return write_page(
        path,
        page_about(
            data,
            title=data.attrs.get("title", "Networks trained by learning rules"),
            done=[
                f"{_start(data)}, trained on the same trials for {data.sizes['update']} updates by each of "
                f"the rules: {few(data.rule.values, 12)}."
            ],
            sections=[
                Section("Learning", as_wide(on(training.losses(data))), captions.rule_losses(data)),
                Section(
                    "The geometry they end in",
                    as_wide(on(rules.rule_geometry(data))),
                    captions.rule_geometry(data),
                ),
            ],
            tables=tables,
            notes=[f"Failed: {failure}." for failure in failed_rules(data)],
            covers=_ONE_SEED if _seeds(data) == 1 else _several_text(data),
            file=path.with_suffix(".nc").name,
        ),
        files=files,
    )


def _seeds(data: xr.Dataset) -> int:
    return data.sizes.get("seed", 1)


def _start(data: xr.Dataset) -> str:
    if _seeds(data) == 1:
        return "One initial network"
    return f"From each of {_seeds(data)} seeds one initial network"


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
