"""Trainings from several seeds as one dataset: means, and standard errors over the seeds.

A figure of one seed says how well it is known of *that* network: its standard error is that of an estimate.
Other initial weights and other trials give another figure; how far these vary, only several seeds can show.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from kpframe.errors import ArgumentError, mismatch
from kpframe.study._described import LONG_NAMES
from kpframe.study._over_seeds import stderr_of_mean

#: Variables that are numbers of updates: the earliest of all seeds stands for all.
_EARLIEST = ("diverged_at", "failed_at")
#: What can become of a rule, the worst last: it stands for all seeds.
_OUTCOMES = ("", "trained", "under way", "diverged", "failed")


def gathered(trainings: Sequence[xr.Dataset], first: int) -> xr.Dataset:
    """Return one training as it is, several over their seeds: ``first`` and those after it."""
    if len(trainings) == 1:
        return trainings[0]
    return over_seeds(trainings, range(first, first + len(trainings)))


def over_seeds(trainings: Sequence[xr.Dataset], seeds: Sequence[int]) -> xr.Dataset:
    """Return trainings by the same rules, one from each seed, as a dataset with a dimension ``seed``.

    A figure ``x`` is its mean over the seeds in which it is known. ``x_stderr`` is the standard error of that
    mean over the seeds, widened to what Student's t asks for, so that ``x +- 1.96 x_stderr`` is a 95%
    interval; it holds what estimates are off by, too, and is infinite for a figure of one seed.
    ``x_by_seed`` has the figures themselves, and ``x_stderr_by_seed`` the standard errors of estimates.
    ``seeds_counted`` says in how many seeds a rule's training came to its end, which figures after training
    are means of.

    Args:
        trainings: as ``train_rules`` returns them.
        seeds: of each, in order.

    Raises:
        ArgumentError: for fewer than two trainings, or not a seed for each.
    """
    if len(trainings) < 2 or len(trainings) != len(seeds):
        expected = "two trainings or more, and a seed for each"
        raise ArgumentError(mismatch("trainings", expected, f"{len(trainings)} with {len(seeds)} seeds"))
    rules = list(dict.fromkeys(rule for one in trainings for rule in one.rule.values.tolist()))
    rows = [
        one.reset_coords("checkpoint").reindex(rule=rules, rule_other=rules) for one in trainings
    ]  # of one that was interrupted not all rules are there
    data = xr.Dataset(coords=rows[0].coords).assign_coords(
        seed=("seed", list(seeds), {"long_name": LONG_NAMES["seed"], "units": "1"})
    )
    for name in map(str, rows[0].data_vars):
        every = xr.concat([one[name] for one in rows], dim=data.seed)
        if every.dtype.kind in "OUT":
            every = every.copy(data=np.where(every.isnull(), "", every))
            data[name] = _words(name, every)
        elif name in _EARLIEST:
            data[name] = every.min("seed", keep_attrs=True)
        elif not name.endswith("_stderr"):
            data[name], data[f"{name}_stderr"] = _mean(every)
        data[f"{name}_by_seed"] = every
    counted = data.test_loss_by_seed.notnull().sum("seed")
    data["seeds_counted"] = counted.assign_attrs(
        long_name="seeds in which the training came to its end", units="1"
    )
    return data.set_coords(["checkpoint", "checkpoint_by_seed"])


def _mean(every: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """Return the mean over the seeds in which a figure is known, and its standard error."""
    text, units = every.attrs["long_name"], every.attrs["units"]
    return (
        every.mean("seed").assign_attrs(long_name=f"{text}: mean over seeds", units=units),
        stderr_of_mean(every, "seed").assign_attrs(
            long_name=f"{text}: standard error of the mean over seeds", units=units
        ),
    )


def _words(name: str, every: xr.DataArray) -> xr.DataArray:
    """Return what is said of all seeds: the worst outcome, the names of files, reasons each with its seed."""

    def of(words: np.ndarray) -> str:
        said = [(seed, word) for seed, word in zip(every.seed.values, words, strict=True) if word]
        if len(set(words)) == 1:
            return str(words[0])
        if name == "outcome":
            return str(max(words, key=_OUTCOMES.index))
        if name == "checkpoint":
            return ", ".join(word for _, word in said)
        return "; ".join(f"seed {seed}: {word}" for seed, word in said)

    axis = every.get_axis_num("seed")
    joined = np.apply_along_axis(lambda words: np.array(of(words), dtype=object), axis, every.values)
    return every.isel(seed=0, drop=True).copy(data=joined.astype(object))
