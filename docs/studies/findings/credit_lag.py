"""What the study of lags found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr
from common import COLOURS, draw_line, is_below, said, step_axis
from matplotlib.figure import Figure
from scipy.stats import spearmanr

ENOUGH = 0.9
TEXTS = {
    "P": "error of P",
    "flow": "error of the flow",
    "descent": "share of the descent",
    "cosine": "cosine",
}
ALIKE = {"within": "trials of one task", "between": "of two tasks"}


def numbers(run: xr.DataTree, folder: Path) -> xr.Dataset:
    """Return the routing map by lag, the credit by lag, and what windows lose, at each recorded step."""
    data = run.to_dataset()
    lags = np.arange(1, data.sizes["time"])
    routed = [
        np.sqrt(
            np.mean(
                [
                    data.routing.sel(time=t, time_other=t - lag, drop=True) ** 2
                    for t in range(int(lag), data.sizes["time"])
                ],
                axis=0,
            )
        )
        for lag in lags
    ]
    dims = [dim for dim in data.routing.dims if dim not in ("time", "time_other")]
    routing = xr.DataArray(np.stack(routed), dims=["routing_lag", *dims], coords={"routing_lag": lags})
    return xr.Dataset(
        {
            "routing": routing,
            "credit": data.credit_by_lag,
            "P": data.truncation_error,
            "flow": data.truncation_flow_error,
            "cosine": data.truncation_gradient_cosine,
            "descent": data.truncation_descent,
            "loss": data.test_loss,
            **alike(data.propagator_similarity),
        }
    )


def alike(similarity: xr.DataArray) -> dict[str, xr.DataArray]:
    """Return how alike P is along two trials of one task, a mean over the tasks, and of two tasks."""
    one, other = similarity.group.values
    within = [similarity.sel(group=name, group_other=name, drop=True) for name in (one, other)]
    return {
        "within": sum(within) / len(within),
        "between": similarity.sel(group=one, group_other=other, drop=True),
    }


def least_window(numbers: xr.Dataset) -> xr.DataArray:
    """Return the least window that keeps ``ENOUGH`` of the exact descent."""
    return numbers.window.where(numbers.descent >= ENOUGH).min("window")


def rank_correlation(one: xr.DataArray, other: xr.DataArray) -> xr.DataArray:
    """Return Spearman's rank correlation over networks, steps and windows but the last, ``[seed]``."""
    dims = ("network", "step", "window")
    one, other = (
        part.isel(window=slice(None, -1)).stack(case=dims).transpose("seed", "case") for part in (one, other)
    )
    found = [spearmanr(left, right).statistic for left, right in zip(one.values, other.values, strict=True)]
    return xr.DataArray(found, dims="seed")


def figure(numbers: xr.Dataset) -> Figure:
    """Draw the routing map and the credit by lag, and what windows lose."""
    names = numbers.network.values
    made = Figure(figsize=(8.2, 2.6 * (len(names) + 1)), layout="constrained")
    panels = made.subplots(len(names) + 1, 3, squeeze=False)
    for (left, middle, right), network in zip(panels, names, strict=False):
        own = numbers.sel(network=network)
        for place, step in enumerate(own.step.values):
            style = {"color": COLOURS[place], "label": f"after {step} updates", "ms": 2.5}
            draw_line(left, own.lag.values, own.credit.sel(step=step), **style)
            draw_line(middle, own.routing_lag.values, own.routing.sel(step=step), **style)
        left.axhline(0, color="0.6", lw=0.8)
        left.set(ylabel=f"{network}\nshare of the descent", xlabel="steps that an error travels back")
        middle.set(ylabel="routing map", xlabel="steps that a perturbation travels", yscale="log")
        for place, (name, text) in enumerate(TEXTS.items()):
            draw_line(right, own.window.values, own.isel(step=-1)[name], color=COLOURS[place], label=text)
        right.set(xlabel="window, after training", xscale="log")
        right.set_xticks(own.window.values, [str(one) for one in own.window.values])
        right.minorticks_off()
        for axes in (left, middle, right):
            axes.grid(True, color="0.93", lw=0.6)
        for axes in (left, middle):
            axes.set_xticks(range(0, own.sizes["lag"], 5))
    for axes, network in zip(panels[-1], names, strict=False):
        for place, (name, label) in enumerate(ALIKE.items()):
            draw_line(
                axes,
                numbers.step.values,
                numbers[name].sel(network=network),
                color=COLOURS[place],
                label=label,
            )
        step_axis(axes, numbers.step.values)
        axes.set_ylabel(f"{network}\nsimilarity of P - I")
        axes.grid(True, color="0.93", lw=0.6)
    for axes in panels[-1][len(names) :]:
        axes.set_axis_off()
    panels[-1][0].legend(fontsize=7, frameon=False)
    panels[0][0].legend(fontsize=7, frameon=False)
    where, title = (panels[-1][-1], "Right") if len(names) < 3 else (panels[0][2], None)  # beside the lines
    where.legend(*panels[0][2].get_legend_handles_labels(), title=title, fontsize=7, frameon=False)
    return made


def finding(numbers: xr.Dataset) -> str:
    """Say what was found."""
    names, last = numbers.network.values, numbers.isel(step=-1)
    windows = least_window(numbers)
    enough = ", ".join(
        f"{said(windows.sel(network=name).isel(step=-1), 1)} for the {name} (before training "
        f"{said(windows.sel(network=name).isel(step=0), 1)})"
        for name in names
    )
    steps = int(numbers.lag.size)
    credit = numbers.credit
    far = credit.sel(lag=slice(4, None)).sum("lag")

    def percent(share: xr.DataArray, name: str, place: int) -> str:
        return f"{said(100 * share.sel(network=name).isel(step=place), 0)}%"

    shares = "; ".join(
        f"{name}: lag 0 has {percent(credit.sel(lag=0), name, 0)} before training and "
        f"{percent(credit.sel(lag=0), name, -1)} after it, lags of 4 and more together "
        f"{percent(far, name, 0)} and {percent(far, name, -1)}"
        for name in names
    )
    k = 4
    beside = "; ".join(
        f"{name}: "
        + ", ".join(f"{text} {said(last[own].sel(network=name, window=k))}" for own, text in TEXTS.items())
        for name in names
    )
    arrives = "; ".join(
        f"{name}: {said(last.routing.sel(network=name, routing_lag=1))} after one step, "
        f"{said(last.routing.sel(network=name, routing_lag=8))} after 8"
        for name in names
    )
    ratio = is_below(last.descent.sel(window=k).mean("network"), last.cosine.sel(window=k).mean("network"))
    likeness = {own: said(rank_correlation(numbers[own], 1 - numbers.descent)) for own in ("P", "flow")}
    tasks = "; ".join(
        f"{name}: {said(one.within.isel(step=0))} within a task and {said(one.between.isel(step=0))} "
        f"between the tasks before training, {said(one.within.isel(step=-1))} and "
        f"{said(one.between.isel(step=-1))} after it ({_apart(one)})"
        for name in names
        for one in [numbers[["within", "between"]].sel(network=name)]
    )
    counts = "The cosine is above the share of the descent" if ratio else "No cosine is shown to be above it"
    return f"""After training, the least window that keeps {100 * ENOUGH:.0f}% of the exact descent of the \
loss is {enough}, of {steps} steps.

Shares of the descent by lag: {shares}. A negative share is that of errors that others outweigh.

What is lost by a window of {k} terms, after training: {beside}. {counts}. Over networks, steps and \
windows the rank correlation of the descent that is lost with the error of P is {likeness["P"]}, with that \
of the flow {likeness["flow"]}.

By the routing map, a perturbation of the state arrives with this root mean square size per unit: \
{arrives}.

Tasks by P: the similarity of `P - I` along two trials is, {tasks}."""


def _apart(one: xr.Dataset) -> str:
    """Return whether training moved the propagators of the two tasks apart."""
    gap = one.within - one.between
    first, last = gap.isel(step=0, drop=True), gap.isel(step=-1, drop=True)
    if is_below(first, last):
        return f"training pulls the tasks apart by {said(last - first)}"
    if is_below(last, first):
        return f"training brings the tasks together by {said(first - last)}"
    return "no change of the difference is shown"


LEFT_OUT = """
Two tasks that differ in their response alone, short trials, no noise. `interference` has the similarity of
four tasks by gradients and by Phi. Routing by lag is the root mean square of the map over the steps at that
lag.
"""
