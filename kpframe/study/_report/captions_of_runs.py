"""Captions of the figures of any run: losses, figures over steps and sweeps, curves and maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from kpframe.study._over_seeds import stderr_of_mean
from kpframe.study._plot.grouped import Grouped, Variable, stacked
from kpframe.study._plot.look import HALF_95, after, unit_of
from kpframe.study._report.captions import PAIR, Caption, Change, change_along, changes, levels, one_step
from kpframe.study._report.words import counted, estimated, few, in_words, joined, named

#: Most figures that a sentence tells of.
FIGURES = 4


def losses(run: Grouped) -> Caption:
    """How far the training losses fell, and which trainings did not come to their end."""
    loss = run.data.training_loss
    window = max(1, loss.sizes["update"] // 10)
    found = {}
    for place, label in enumerate(run.labels):
        one = loss.isel(network=place)
        if bool(one.notnull().any()):
            found[label] = change_along(_ends(one, window), None, "end")
    text = changes(found)
    share = f"the mean of the first {counted(window, 'loss').replace('losss', 'losses')} and of the last"
    covers = (
        " ± is one standard error over the seeds, by Student's t; the change is judged by the differences of "
        "each seed."
        if run.several
        else " Losses of one training each: there is no interval."
    )
    seeds = " A thin line for each seed." if run.several else ""
    return Caption(
        f"The training loss {text}." if text else "",
        f"Losses before each update; the sentence compares {share} of each training.{covers}{seeds}",
    ).and_about(_unended(run))


def _ends(loss: xr.DataArray, window: int) -> xr.DataArray:
    """Return the means of the first and the last losses of each training, along ``end``."""
    rows = loss.transpose(..., "update").values.reshape(-1, loss.sizes["update"])
    means = []
    for row in rows:
        known = row[np.isfinite(row)]
        means.append([known[:window].mean(), known[-window:].mean()] if known.size else [np.nan, np.nan])
    dims = ("seed", "end") if "seed" in loss.dims else ("end",)
    return xr.DataArray(np.array(means).reshape(*(loss.sizes[d] for d in dims[:-1]), 2), dims=dims)


def _unended(run: Grouped) -> str:
    if "outcome" not in run.data:
        return ""
    outcomes = run.data.outcome.values.astype(str)
    bad = {how: int((outcomes == how).sum()) for how in np.unique(outcomes) if how in ("diverged", "failed")}
    of = outcomes.size
    said = [f"{count} of {counted(of, 'training')} {how}" for how, count in bad.items()]
    return f"{joined(said)}: see the table of trainings." if said else ""


def series(run: Grouped, variables: Sequence[Variable], covers: str) -> Caption:
    """How each figure changed over the steps, in each group."""
    rows = [(variable, name, part) for variable in variables for name, part in variable.parts()]
    single = run.data.sizes.get("step", 1) < 2
    said: list[str] = []
    for variable, name, part in rows:
        what = _what(variable, name)
        text = _levels(run, variable, part) if single else changes(_changes(run, variable, part))
        if text:
            said.append(f"{what} {'is ' if single else ''}{text}{unit_of(variable.values) if single else ''}")
    more = f" {len(said) - FIGURES} more are drawn." if len(said) > FIGURES else ""
    return Caption(_sentences(said[:FIGURES]) + more, f"{texts(variables)} {covers}").and_about(
        one_step(run.data)
    )


def told(run: Grouped, variable: Variable, part: Mapping[str, Any]) -> str:
    """Return how one figure changed over the steps, or what it is at the one step; nothing if not known."""
    if any(place not in variable.values[dim].values.tolist() for dim, place in part.items()):
        return ""
    if run.data.sizes.get("step", 1) > 1:
        return changes(_changes(run, variable, part))
    text = _levels(run, variable, part)
    return f"is {text}" if text else ""


def _what(variable: Variable, part: str) -> str:
    """Return what a figure is called in a sentence, with a place that has a name: of Phi, (a rule)."""
    name = in_words(variable.values)
    if not part:
        return name
    return f"{name} of {part}" if variable.named == ("operator",) else f"{name} ({part})"


def _sentences(said: Sequence[str]) -> str:
    return " ".join(f"{text[0].upper()}{text[1:]}." for text in said if text)


def _changes(run: Grouped, variable: Variable, part: Mapping[str, Any]) -> dict[str, Change]:
    found = {}
    for place, label in enumerate(run.labels):
        values = variable.values.isel(network=place).sel(part)
        errors = None if variable.errors is None else variable.errors.isel(network=place).sel(part)
        found[label] = change_along(values, errors)
    return found


def _levels(run: Grouped, variable: Variable, part: Mapping[str, Any]) -> str:
    found = {}
    for place, label in enumerate(run.labels):
        values = variable.values.isel(network=place).sel(part).squeeze("step", drop=True)
        if not bool(values.notnull().any()):
            continue
        if "seed" in values.dims:
            text = estimated(float(values.mean()), float(stderr_of_mean(values, "seed")))
        else:
            errors = variable.errors
            error = np.nan if errors is None else float(errors.isel(network=place).sel(part).squeeze("step"))
            text = estimated(float(values), error)
        found[label] = text
    return levels(found) if found else ""


def texts(variables: Sequence[Variable]) -> str:
    """Return what figures are, with their units: their names where these say something else."""
    said = []
    for variable in variables:
        plain = variable.name.replace("_", " ")
        name = "" if plain.casefold() == variable.text.casefold() else f"{variable.name}: "
        said.append(f"{name}{variable.text}{unit_of(variable.values)}")
    return f"Drawn: {'; '.join(said)}."


def sweep(
    data: xr.Dataset,
    run: Grouped,
    axis: str,
    cells: Sequence[str],
    variables: Sequence[Variable],
    covers: str,
) -> Caption:
    """How each figure at the last step changes from one end of a sweep to the other."""
    others = [dim for dim in cells if dim not in (axis, "seed")]
    ends = data[axis].values[[0, -1]].tolist()
    said: list[str] = []
    for variable in variables:
        for name, part in variable.parts():
            own = data[[n for n in (variable.name, f"{variable.name}_stderr") if n in data]].sel(part)
            own = own.isel(step=-1) if "step" in own.dims else own
            if not run.several and "seed" in own.dims:
                own = own.isel(seed=0)
            order = [dim for dim in others if dim in own.dims]
            own, lines = stacked(own.transpose(*order, ...), others)
            found = {}
            for place, label in enumerate(lines):
                one = own.isel(network=place)
                found[label] = change_along(one[variable.name], one.get(f"{variable.name}_stderr"), axis)
            if text := changes(found, "line"):
                said.append(f"{_what(variable, name)} {text}{_between(own[variable.name], axis)}")
    more = f" {len(said) - FIGURES} more are drawn." if len(said) > FIGURES else ""
    return Caption(
        f"From {axis} {ends[0]} to {ends[1]}: {_sentences(said[:FIGURES])}{more}" if said else "", covers
    )


def _between(values: xr.DataArray, axis: str) -> str:
    """Return where a figure is largest or smallest inside a sweep, of one line over several seeds."""
    if values.sizes["network"] != 1 or "seed" not in values.dims or values.sizes[axis] < 3:
        return ""
    one = values.isel(network=0)
    for what, sign in (("largest", 1), ("smallest", -1)):
        means = (sign * one).mean("seed").values
        if np.isnan(means).all() or (at := int(np.nanargmax(means))) in (0, len(means) - 1):
            continue
        gaps = [sign * (one.isel({axis: at}) - one.isel({axis: end})) for end in (0, -1)]
        if all(float(gap.mean()) > HALF_95 * float(stderr_of_mean(gap, "seed")) for gap in gaps):
            return f", and is {what} at {one[axis].values[at]}"
    return ""


def curves(run: Grouped, variable: Variable, covers: str) -> Caption:
    """Where along its axis a figure is largest at the last step."""
    (axis,) = variable.axes
    values = variable.values.astype(float)
    values = values.mean("seed") if "seed" in values.dims else values
    last = values.isel(step=-1) if "step" in values.dims else values
    name, part = next(iter(variable.parts(1)))
    last, tops = last.sel(part), {}
    for place, label in enumerate(run.labels):
        one = last.isel(network=place)
        if bool(one.notnull().any()):
            at = int(np.nanargmax(one.values))
            where = str(one[axis].values[at]) if axis in one.coords else str(at)
            tops[label] = (where, f"{float(one.min()):.3g} to {float(one.max()):.3g}")
    dim = axis.replace("_", " ")
    if len({where for where, _ in tops.values()}) == 1 and len(tops) > PAIR:
        said = [f"largest at {dim} {next(iter(tops.values()))[0]} in all {counted(len(tops), 'network')}"]
    else:
        said = [
            f"largest at {dim} {where} in {named(label)} ({ends})" for label, (where, ends) in tops.items()
        ]
        said = [*said[:PAIR], *([f"{len(said) - PAIR} more are drawn"] if len(said) > PAIR else [])]
    at_last = f" {after(int(variable.values.step[-1]))}" if "step" in variable.values.dims else ""
    missing = len(run.labels) - len(tops)
    unknown = f" Not known in {counted(missing, 'network')}." if missing else ""
    found = _sentences([f"{_what(variable, name)}{at_last} is {joined(said)}"]) if said else ""
    return Caption(f"{found}{unknown}".strip(), f"{texts([variable])} {covers}").and_about(
        one_step(variable.values)
    )


def maps(run: Grouped, variable: Variable) -> Caption:
    """Between which places a matrix is largest and smallest, off its diagonal where it has one."""
    values = variable.values.astype(float)
    values = values.isel(seed=0) if "seed" in values.dims else values
    over_steps = "step_other" in variable.axes
    rows, columns = (("step", "step_other") if over_steps else variable.axes)[:2]
    values = values.isel({axis: 0 for axis in variable.axes if axis not in (rows, columns)})
    if not over_steps and "step" in values.dims:
        values = values.isel(step=-1)
    name, part = next(iter(variable.parts(1)))
    values, said = values.sel(part), []
    for place, label in enumerate(run.labels[:PAIR]):
        one = values.isel(network=place).transpose(rows, columns).values.copy()
        if one.shape[0] == one.shape[1] and columns == f"{rows}_other":
            np.fill_diagonal(one, np.nan)
        if np.isnan(one).all():
            said.append(f"is not known in {named(label)}")
            continue
        ends = [np.unravel_index(int(find(one)), one.shape) for find in (np.nanargmax, np.nanargmin)]
        texts_of = [
            f"{one[at]:.3g} ({_place(values, rows, int(at[0]))}, {_place(values, columns, int(at[1]))})"
            for at in ends
        ]
        if np.ptp(one[~np.isnan(one)]) == 0:  # of two groups, say
            said.append(f"is {float(np.nanmax(one)):.3g} in {named(label)}")
            continue
        said.append(f"is between {texts_of[1]} and {texts_of[0]} in {named(label)}")
    off = " off its diagonal" if columns == f"{rows}_other" else ""
    rest = len(run.labels) - PAIR
    more = f"; of {rest} more nothing is said here" if rest > 0 else ""
    seed = f" in seed {run.seeds[0]}" if "seed" in variable.values.dims else ""
    last = not over_steps and variable.values.sizes.get("step", 0) > 1
    when = f" {after(int(variable.values.step[-1]))}" if last else ""
    found = _sentences([f"{_what(variable, name)}{seed}{when}{off} {joined(said)}{more}"])
    return Caption(found, texts([variable]))


def _place(values: xr.DataArray, dim: str, at: int) -> str:
    place = values[dim].values[at] if dim in values.coords else at
    return f"{dim} {named(place)}"


def trainings(run: Grouped) -> str:
    """Return how many networks there are, from which seeds, and what is not there."""
    shown = few([named(label) for label in run.labels])
    each = ", each" if len(run.labels) > 1 else ""
    seeds = f"{each} from {counted(len(run.seeds), 'seed')}" if run.several else ""
    absent = (
        f" Nothing is recorded yet of {few([named(label) for label in run.absent])}." if run.absent else ""
    )
    return f"{counted(len(run.labels), 'network')}{seeds}: {shown}.{absent}"
