"""What the study of estimators found."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import xarray as xr
from common import COLOURS, is_below, said, trend
from matplotlib.figure import Figure

from kpframe.study._over_seeds import half_interval

NAMES = {
    "hutchinson": "Hutchinson",
    "one_sided": "one-sided",
    "hutchpp": "Hutch++",
    "xtrace": "XTrace",
    "xnystrace": "XNysTrace",
    "nystrom": "Nyström",
    "two_sided": "two-sided",
}
FEW, MANY = 8, 64


def numbers(run: xr.DataTree, folder: Path) -> xr.Dataset:
    """Return the errors of each method by budget."""
    return run.to_dataset()[["trace_error", "rank_error", "rank_exact"]].squeeze("network", drop=True)


def geometric(errors: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
    """Return geometric means over seeds, and both ends of their 95% intervals: errors spread over decades."""
    logs = np.log(errors)
    mean, half = logs.mean("seed"), half_interval(logs, "seed")
    return np.exp(mean), np.exp(mean - half), np.exp(mean + half)


def percent(errors: xr.DataArray) -> str:
    """Return a geometric mean in percent, with its interval."""
    mean, low, high = (100 * float(part) for part in geometric(errors))
    return f"{mean:.2g}% ({low:.2g} to {high:.2g})"


def figure(numbers: xr.Dataset) -> Figure:
    """Draw errors against products, after training."""
    made = Figure(figsize=(8.2, 5.4), layout="constrained")
    panels = made.subplots(2, 3, sharex=True, sharey="row", squeeze=False)
    last = numbers.isel(step=-1)
    for row, figure_of in enumerate(("trace", "rank")):
        dim = f"{figure_of}_method"
        for axes, operator in zip(panels[row], numbers.operator.values, strict=True):
            for _place, method in enumerate(numbers[dim].values):
                errors = last[f"{figure_of}_error"].sel({"operator": operator, dim: method})
                colour = COLOURS[list(NAMES).index(method) % len(COLOURS)]
                mean, low, high = geometric(errors)
                style = {"label": NAMES[method], "color": colour, "marker": "o", "ms": 3.5, "lw": 1.5}
                axes.plot(numbers.budget.values, mean, **style)
                axes.fill_between(numbers.budget.values, low, high, color=colour, alpha=0.15, lw=0)
            axes.set(xscale="log", yscale="log")
            axes.set_xticks(numbers.budget.values, [str(one) for one in numbers.budget.values], fontsize=7)
            axes.minorticks_off()
            axes.grid(True, color="0.93", lw=0.6)
        panels[row][0].set_ylabel(f"relative error of the {'trace' if row == 0 else 'effective rank'}")
        panels[row][0].legend(fontsize=7, frameon=False)
    for axes, operator in zip(panels[0], numbers.operator.values, strict=True):
        axes.set_title(f"{operator}, after training", fontsize=10)
    for axes in panels[1]:
        axes.set_xlabel("operator products")
    return made


def finding(numbers: xr.Dataset) -> str:
    """Say what was found."""
    last = numbers.isel(step=-1)
    errors = last.trace_error.sel(operator="Phi")

    def at(method: str, budget: int) -> str:
        return percent(errors.sel(trace_method=method, budget=budget))

    ranks = ", ".join(
        f"{said(last.rank_exact.sel(operator=name), 1)} for {name}" for name in last.operator.values
    )
    slopes = trend(np.log(last.trace_error), "budget")
    fall = "; ".join(
        f"{name}: "
        + ", ".join(
            f"{NAMES[method]} {said(slopes.sel(operator=name, trace_method=method))}"
            for method in last.trace_method.values
        )
        for name in last.operator.values
    )
    order = ["hutchinson", "hutchpp", "xtrace", "xnystrace"]
    holds, fails = [], []
    for name in last.operator.values:
        for worse, better in itertools.pairwise(order):
            own = last.trace_error.sel(operator=name, budget=MANY)
            shown = is_below(np.log(own.sel(trace_method=better)), np.log(own.sel(trace_method=worse)))
            (holds if shown else fails).append(f"{NAMES[better]} below {NAMES[worse]} for {name}")
    sided = []
    for name in last.operator.values:
        own = np.log(last.trace_error.sel(operator=name))
        budgets = [
            int(budget)
            for budget in own.budget.values
            if is_below(
                own.sel(budget=budget, trace_method="one_sided"),
                own.sel(budget=budget, trace_method="hutchpp"),
            )
        ]
        sided.append(f"{name} at {', '.join(map(str, budgets))} products" if budgets else f"{name} at none")
    best = last.rank_error.sel(operator="Phi", budget=MANY)
    return f"""With {MANY} products the trace of Phi is known to {at("xnystrace", MANY)} by XNysTrace and \
to {at("hutchinson", MANY)} by Hutchinson's estimator (root mean square errors, after training; in \
brackets the 95% interval of the geometric mean over seeds). XTrace has {at("xtrace", MANY)}, Hutch++ \
{at("hutchpp", MANY)}, one-sided products {at("one_sided", MANY)}. Effective ranks are {ranks}: the lower \
the rank, the more the methods that find leading directions gain.

Exponents of the fall of the error with the number of products N, -1/2 for Hutchinson's estimator in \
theory: {fall}.

**The published order** (each method below the one before it, at {MANY} products, by the interval of the \
difference over seeds) holds for {"; ".join(holds) or "no pair"}. It is not shown for \
{"; ".join(fails) or "no pair left"}.

**One-sided estimators** are better than Hutch++ for {"; ".join(sided)}. They get there by buying two \
probes for the price of one product; that is all they gain over Hutchinson's, {np.sqrt(2):.2f} in theory. \
With {FEW} products on Phi one-sided has {at("one_sided", FEW)}, Hutch++ {at("hutchpp", FEW)} and \
XNysTrace, which needs one product a probe, {at("xnystrace", FEW)}.

The effective rank of Phi from {MANY} products is off by {percent(best.sel(rank_method="nystrom"))} by the \
Nyström sketch that `kpframe.effective_rank` takes, by {percent(best.sel(rank_method="one_sided"))} by \
one-sided and {percent(best.sel(rank_method="two_sided"))} by two-sided means."""


LEFT_OUT = """
Time is counted in products with the operator; a product with one of its two factors counts half. The
published gains of 10 to 10^4 in time are over forming the whole matrix, which takes as many products as
the states have dimensions, and grow with those; nothing of it is timed here. Errors are those of
estimators on operators whose matrices were formed exactly.
"""
