"""What the study of initial ranks found."""

from __future__ import annotations

from pathlib import Path

import xarray as xr
from common import COLOURS, draw_line, is_below, said, step_axis
from matplotlib.figure import Figure

WEIGHT = "weight_hh_l0"
PANELS = {
    "loss": "loss on test trials",
    "change": "|W - W_0| / |W_0|",
    "alignment": "alignment of Phi with Phi_0",
    "gap": "|outputs - forecast| / |outputs - start|",
}


def numbers(run: xr.DataTree, folder: Path) -> xr.Dataset:
    """Return losses, changes of weights and of Phi, and gaps of forecasts from the first step."""
    data = run.to_dataset()
    phi = data.sel(operator="Phi", drop=True)
    first = data.sel(forecast_from="first", drop=True)
    return xr.Dataset(
        {
            "loss": data.test_loss,
            "change": data.parameter_distance_relative.sel(parameter=WEIGHT, drop=True),
            "alignment": phi.alignment_with_first,
            "kernel_change": phi.kernel_change,
            "gap": first.forecast_output_gap,
            "loss_gap": first.forecast_gap,
            "stable": first.forecast_stable,
        }
    ).squeeze("network", drop=True)


def figure(numbers: xr.Dataset) -> Figure:
    """Draw loss, change of the weights, alignment and gap along the training, a line an initial rank."""
    made = Figure(figsize=(8.2, 5.4), layout="constrained")
    for axes, (name, text) in zip(made.subplots(2, 2).flat, PANELS.items(), strict=True):
        for place, rank in enumerate(numbers.initial_rank.values):
            own = numbers[name].sel(initial_rank=rank)
            if name == "gap":
                own = own.isel(step=slice(1, None))
            draw_line(axes, own.step.values, own, color=COLOURS[place], label=f"rank {rank}")
        step_axis(axes, numbers.step.values)
        axes.set_ylabel(text)
        axes.set_ylim(bottom=0)
        axes.grid(True, color="0.93", lw=0.6)
    made.axes[0].legend(fontsize=7, frameon=False)
    return made


#: What tells lazy from rich: its name in words, and whether it is small where learning is lazy.
MEASURES = {
    "change": ("the relative change of the recurrent weights", True),
    "kernel_change": ("the relative change of Phi", True),
    "alignment": ("the alignment of Phi with its start", False),
    "gap": ("the error of a forecast from the first step", True),
}
LAZIER, RICHER, NEITHER = (
    "lazier with the higher rank",
    "richer with the higher rank",
    "no difference is shown",
)


def verdict(numbers: xr.Dataset, name: str, step: int) -> str:
    """Return whether the highest rank is lazier than the least by a measure, or richer."""
    values, small = numbers[name].sel(step=step), MEASURES[name][1]
    low, high = (values.isel(initial_rank=place) for place in (0, -1))
    less, more = is_below(high, low), is_below(low, high)
    return NEITHER if not less and not more else LAZIER if less == small else RICHER


def counted(numbers: xr.Dataset, step: int) -> str:
    """Return by how many of the measures the claim holds after some updates, and by how many its opposite."""
    found = [verdict(numbers, name, step) for name in MEASURES]
    return f"{found.count(LAZIER)} of {len(found)} measures (its opposite by {found.count(RICHER)})"


def by_rank(values: xr.DataArray, digits: int = 2) -> str:
    """Return means over seeds with their intervals, one for each rank."""
    return ", ".join(said(values.sel(initial_rank=rank), digits) for rank in values.initial_rank.values)


def finding(numbers: xr.Dataset) -> str:
    """Say what was found."""
    steps = numbers.step.values.tolist()
    counts = ", ".join(f"{counted(numbers, step)} after {step} updates" for step in steps[1:])

    def line(name: str, step: int) -> str:
        values = by_rank(numbers[name].sel(step=step))
        return f"{MEASURES[name][0]} {values} ({verdict(numbers, name, step)})"

    parts = [
        f"After {step} updates the loss was {by_rank(numbers.loss.sel(step=step), 3)}; "
        + "; ".join(line(name, step) for name in MEASURES)
        + "."
        for step in (steps[-2], steps[-1])
    ]
    order = ", ".join(map(str, numbers.initial_rank.values))
    unstable = float((numbers.stable.isel(step=slice(1, None)) == 0).mean())
    last = numbers.isel(step=-1).mean("seed")
    further = bool((last.loss.argsort().values == last.change.argsort().values[::-1]).all())
    unequal = (
        " The further the loss fell, the further the weights have moved: the figures at the end compare "
        "networks that have learned more with others that have learned less."
        if further
        else ""
    )
    untrained = by_rank(numbers.loss.isel(step=0), 3)
    missed = by_rank(numbers.loss_gap.isel(step=-1))
    return f"""That networks of a higher initial rank learn more lazily holds by {counts}.

Verdicts are on the least and the highest rank, by the interval of their differences seed by seed. In the \
order of initial ranks {order}: the loss before training was {untrained}. {parts[0]}

{parts[1]}{unequal}

Of what the loss fell by, a forecast from the first step misses the share {missed} in the end; above 0 the \
network got further than was forecast. The learning rate was above the largest stable one in \
{100 * unstable:.0f}% of the forecasts."""


LEFT_OUT = """
The networks are smaller than the published ones (60 units for 300, one task, few updates), and they are
compared after as many updates, not at the same loss: what learns faster has moved further by then. Ranks
are about the same shares of the width. Forecasts are of gradient descent on the recorded trials, while the
training drew other ones of the same 8 directions.
"""
