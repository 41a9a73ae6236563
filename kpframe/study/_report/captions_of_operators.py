"""Captions of the figures of a study of few networks: learning, ranks, spectra, kernels."""

from __future__ import annotations

import math

import numpy as np
import xarray as xr

from kpframe.study._plot.look import HALF_95, after, open_markers
from kpframe.study._plot.operators import as_cosines
from kpframe.study._plot.training import score_name, score_of
from kpframe.study._report.captions import (
    MOST,
    Caption,
    change_along,
    changes,
    levels,
    of_estimates,
    one_step,
    when,
)
from kpframe.study._report.words import estimated, joined, named, two_digits


def learning(data: xr.Dataset) -> Caption:
    """What networks have learned: their scores before and after, and trainings that did not end well."""
    name, last = score_name(data), data.isel(step=-1)
    scores = data[score_of(data)]
    said = []
    for network in data.network.values[:MOST]:
        own = [score_text(data, value) for value in scores.sel(network=network).values[[0, -1]]]
        came = f" (from {own[0]} {when(int(data.step[0]))})" if data.sizes["step"] > 1 else ""
        said.append(f"{own[1]} in {named(network)}{came}")
    more = data.sizes["network"] - MOST
    found = f"Test {name} {after(int(last.step))}: {joined(said)}{f', and {more} more' if more > 0 else ''}."
    return Caption(
        found + _ends(data),
        "Left: training losses, of the network before each update. Right: on test trials, which were not "
        "trained on. One seed: there is no interval that says where other seeds would lead.",
    )


def _ends(data: xr.Dataset) -> str:
    if "outcome" not in data:
        return ""
    ends = {str(network): str(data.outcome.sel(network=network).item()) for network in data.network.values}
    bad = [f"{named(network)} {how}" for network, how in ends.items() if how not in ("trained", "")]
    return f" Did not come to its end: {joined(bad)}." if bad else ""


def score_text(data: xr.Dataset, value: float) -> str:
    """Return an accuracy in percent, or an R^2."""
    if math.isnan(value):
        return "none"
    return f"{value:.1%}" if score_of(data) == "test_accuracy" else f"{value:.4f}"


def effective_ranks(data: xr.Dataset) -> Caption:
    """How the effective rank of each operator changed in each network."""
    said = []
    for operator in _operators(data):
        rank, error = (
            data[name].sel(operator=operator) for name in ("effective_rank", "effective_rank_stderr")
        )
        if data.sizes["step"] == 1:
            text = levels(
                {
                    str(network): estimated(
                        float(rank.sel(network=network)[0]), float(error.sel(network=network)[0])
                    )
                    for network in data.network.values
                }
            )
            said.append(f"that of {operator} is {text}")
            continue
        text = changes(
            {
                str(network): change_along(rank.sel(network=network), error.sel(network=network))
                for network in data.network.values
            }
        )
        if text:
            said.append(f"that of {operator} {text}")
    sizes = sorted({int(size) for size in data.state_dimension.values[data.state_dimension.notnull()]})
    found = f"Effective rank: {'; '.join(said)}." if said else ""
    return Caption(
        found,
        "The effective rank counts the directions of trajectory space (trials, time and units together) that "
        f"an operator uses evenly; the space has {' or '.join(map(str, sizes))} dimensions. {of_estimates()}"
        + (" The figures of P are those of P P*." if "P P*" in data.operator.values else ""),
    ).and_about(one_step(data))


def _operators(data: xr.Dataset) -> list[str]:
    """Return the operators, Phi first."""
    return sorted((str(operator) for operator in data.operator.values), key=lambda name: name != "Phi")


def spectra(data: xr.Dataset) -> Caption:
    """How the largest singular value of each operator changed, and how flat each spectrum is."""
    values, said, flat = data.singular_value, [], []
    for operator in _operators(data):
        own, shares = [], []
        for network in data.network.values[:MOST]:
            one = values.sel(network=network, operator=operator)
            first, last = float(one.isel(step=0, k=0)), float(one.isel(step=-1, k=0))
            if data.sizes["step"] > 1 and first > 0 and math.isfinite(last):
                own.append(f"{two_digits(last / first)} in {named(network)}")
            if last > 0:
                shares.append(f"{float(one.isel(step=-1, k=-1)) / last:.1%} in {named(network)}")
        if own:
            said.append(f"{operator} {joined(own)}")
        if shares and operator == "Phi":
            flat.append(f"The {_nth(data.sizes['k'])} of Phi is {joined(shares)} of the largest.")
    times = f"as a multiple of that {when(int(data.step[0]))}"
    found = f"Largest singular value {after(int(data.step[-1]))}, {times}: {'; '.join(said)}."
    found = found if said else "".join(flat)
    worst = float((data.singular_value_residual / values.isel(k=0)).max())
    return Caption(
        found,
        " ".join(flat if said else [])
        + " The leading singular values of each operator; large ones are directions in which the same error "
        f"moves the trajectory far. The largest residual of a singular vector is {worst:.1e} of the leading "
        "value; of one seed, there is no interval that says where other seeds would lead."
        f"{open_markers(data.singular_value_converged.isel(step=[0, -1]))}",
    ).and_about(one_step(data))


def _nth(place: int) -> str:
    ending = "th" if 10 <= place % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th")
    return f"{place}{ending}"


def eigenfunctions(data: xr.Dataset) -> Caption:
    """How much the first eigenfunction over time explains of each operator."""
    said = []
    for operator in _operators(data):
        own = []
        for network in data.network.values[:MOST]:
            shares = data.time_explained.sel(network=network, operator=operator).isel(mode=0).values
            came = f" (was {shares[0]:.0%})" if data.sizes["step"] > 1 else ""
            own.append(f"{shares[-1]:.0%} in {named(network)}{came}")
        said.append(f"of {operator}, {joined(own)}")
    return Caption(
        f"Share of the first eigenfunction over time, {after(int(data.step[-1]))}: {'; '.join(said)}.",
        "Averaged over trials and traced over units, each operator becomes a kernel over time. Its "
        "eigenfunctions are the time courses along which changes are coordinated; a share is the part of the "
        "kernel's trace that one explains. The kernels are exact along these trials of one seed.",
    ).and_about(one_step(data))


def trial_kernels(data: xr.Dataset, operator: str = "Phi") -> Caption:
    """Whether trials of one class are moved together more than others, before and after."""
    about = (
        f"Averaged over time and traced over units, {operator} becomes a kernel between trials: red pairs of "
        "trials are moved alike by learning from either of them, blue pairs oppositely."
    )
    kernels = data.trial_kernel.sel(operator=operator)
    if "trial_label" not in data.coords:
        said = [
            f"{_off_diagonal(kernels.sel(network=network).isel(step=-1).values):.2f} in {named(network)}"
            for network in data.network.values[:MOST]
        ]
        return Caption(
            f"Mean cosine between two trials {after(int(data.step[-1]))}: {joined(said)}.", about
        ).and_about(one_step(data))
    labels = data.trial_label.values.reshape(-1, data.sizes["trial"])[0]
    said = []
    for network in data.network.values[:MOST]:
        steps = sorted({0, data.sizes["step"] - 1})
        found = [classes_apart(kernels.sel(network=network).isel(step=step).values, labels) for step in steps]
        if any(math.isnan(own[0]) for own in found):
            said.append(f"classes of {named(network)} cannot be told apart by these trials")
            continue
        within, between, error = found[-1]
        gap = within - between
        sure = abs(gap) > HALF_95 * error  # not where the error is unknown
        more = ("more than" if gap > 0 else "less than") if sure else "not distinguishably more or less than"
        came = f", {found[0][0]:.2f} and {found[0][1]:.2f} before" if len(found) > 1 else ""
        said.append(
            f"in {named(network)} trials of one class are moved alike {more} those of two (mean cosines "
            f"{within:.2f} within and {between:.2f} between classes, difference "
            f"{estimated(gap, error)}{came})"
        )
    text = "; ".join(said)
    last = after(int(data.step[-1]))
    return Caption(
        f"{last[0].upper()}{last[1:]}, {text}.",
        f"{about} Trials are ordered by class. ± is one standard error over the trials, each left out in "
        "turn; it says nothing of other networks.",
    ).and_about(one_step(data))


def _off_diagonal(kernel: np.ndarray) -> float:
    return float(as_cosines(kernel)[~np.eye(len(kernel), dtype=bool)].mean())


def classes_apart(kernel: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    """Return the mean cosine within and between classes, and a standard error of their difference.

    The error is the jackknife's over trials, of which pairs are no independent draws. NaN where a class of
    two trials, or a second class, is missing.
    """
    cosine, same = as_cosines(kernel), labels[:, None] == labels[None, :]
    alone = np.eye(len(labels), dtype=bool)

    def means(kept: np.ndarray) -> tuple[float, float]:
        pair = np.outer(kept, kept)
        inside, outside = cosine[same & ~alone & pair], cosine[~same & pair]
        if not inside.size or not outside.size:
            return math.nan, math.nan
        return float(inside.mean()), float(outside.mean())

    within, between = means(np.ones(len(labels), dtype=bool))
    left_out = np.array([np.subtract(*means(~alone[place])) for place in range(len(labels))])
    count = len(left_out)
    error = math.sqrt((count - 1) / count * float(np.square(left_out - left_out.mean()).sum()))
    return within, between, error
