"""What the study of the rank of learned changes found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr
from common import COLOURS, draw_line, mean_and_half, said
from matplotlib.figure import Figure

RECURRENT, INPUT = "weight_hh_l0", "weight_ih_l0"
#: Share of what the change of a weight does for the loss that counts as all of it.
ENOUGH = 0.95
#: How many times the trained loss is as good as trained.
MOST = 1.2


def numbers(run: xr.DataTree, folder: Path) -> xr.Dataset:
    """Return losses by the rank that changes are cut to, at the last step, and ranks of the changes."""
    data = run.to_dataset().squeeze("network", drop=True)
    last = data.isel(step=-1, drop=True)
    return xr.Dataset(
        {
            "loss": last.cut_loss.sel(parameter=[INPUT, RECURRENT]),
            "share": last.cut_share.sel(parameter=[INPUT, RECURRENT]),
            "effective": last.parameter_change_rank.sel(parameter=[INPUT, RECURRENT]),
            "trained": last.test_loss,
            "untrained": data.test_loss.isel(step=0, drop=True),
        }
    ).drop_vars([name for name in ("parameter_first_step",) if name in last.coords])


def needed(numbers: xr.Dataset) -> xr.DataArray:
    """Return the least rank that has ``ENOUGH`` of what a change does for the loss, ``[parameter, ...]``."""
    worst, trained = numbers.loss.sel(cut_rank=0), numbers.trained
    kept = (worst - numbers.loss) / (worst - trained)
    ranks = numbers.cut_rank.where(kept >= ENOUGH)
    return ranks.min("cut_rank")


def figure(numbers: xr.Dataset) -> Figure:
    """Draw the loss, and the share of the change that is kept, against the rank."""
    made = Figure(figsize=(8.2, 3.4), layout="constrained")
    left, right = made.subplots(1, 2)
    ranks = numbers.cut_rank.values[:-1]
    for place, gain in enumerate(numbers.gain.values):
        own = numbers.sel(gain=gain, parameter=RECURRENT)
        style = {"color": COLOURS[place], "label": f"g = {gain:g}"}
        rows = [ratios(own.loss.sel(cut_rank=rank)) for rank in ranks]
        mean, low, high = zip(*rows, strict=True)
        left.plot(ranks, mean, marker="o", ms=3.5, lw=1.5, **style)
        left.fill_between(ranks, low, high, color=COLOURS[place], alpha=0.15, lw=0)
        left.axhline(ratios(own.trained)[0], color=COLOURS[place], ls=":", lw=1)
        draw_line(right, ranks, own.share.sel(cut_rank=ranks), **style)
    left.set(yscale="log", ylabel="test loss", xlabel="rank of the change of W_hh that is kept")
    right.set(ylabel="share of |W - W_0|^2 that is kept", xlabel="rank of the change of W_hh that is kept")
    left.legend(fontsize=8, frameon=False)
    for axes in (left, right):
        axes.grid(True, color="0.93", lw=0.6)
    return made


def ratios(values: xr.DataArray) -> tuple[float, float, float]:
    """Return a geometric mean over seeds, and both ends of its 95% interval; ``values`` is [seed]."""
    mean, half = mean_and_half(np.log(values))
    return tuple(float(np.exp(one)) for one in (mean, mean - half, mean + half))


def finding(numbers: xr.Dataset) -> str:
    """Say what was found."""
    least, gains = needed(numbers), numbers.gain.values

    def each(values: xr.DataArray, digits: int, unit: str = "") -> str:
        return ", ".join(f"{said(values.sel(gain=gain), digits)}{unit} at g = {gain:g}" for gain in gains)

    at_six = {
        gain: ratios((numbers.loss.sel(cut_rank=6) / numbers.trained).sel(parameter=RECURRENT, gain=gain))
        for gain in gains
    }
    told = ", ".join(
        f"{mean:.3g} ({low:.3g} to {high:.3g}) at g = {gain:g}" for gain, (mean, low, high) in at_six.items()
    )
    verdicts = "; ".join(f"{verdict(low, high)} at g = {gain:g}" for gain, (_, low, high) in at_six.items())
    share = numbers.share.sel(parameter=RECURRENT, cut_rank=6)
    return f"""Cut to rank 6, with all other weights as trained, the change of `W_hh` leaves a test loss of \
this many times the trained one: {told} (geometric means over seeds, with 95% intervals). The claim that \
about 6 directions suffice {verdicts}, taking a loss of {MOST:g} times the trained one for sufficient.

The least rank that keeps {100 * ENOUGH:.0f}% of what the change does for the loss is \
{each(least.sel(parameter=RECURRENT), 1)}, of 48 that it could have; for the input weights, of 7, \
{each(least.sel(parameter=INPUT), 1)}. Rank 6 holds {each(100 * share, 0, "%")} of |W - W_0|^2, and the \
participation ratio of the change is {each(numbers.effective.sel(parameter=RECURRENT), 1)}: a network that \
has reached a small loss owes much of it to small directions.

Losses before training: {each(numbers.untrained, 2)}; after it: {each(numbers.trained, 4)}."""


def verdict(low: float, high: float) -> str:
    """Return what an interval of the ratio of losses says of the claim."""
    if high <= MOST:
        return "holds"
    return "does not hold" if low > MOST else "is neither shown nor refuted"


LEFT_OUT = """
Networks of 48 units trained by Adam for 500 updates, where the published ones have more units and plain
gradient descent; low rank is said to be a property of gradient descent from small changes, which Adam
need not share. Weights are cut one at a time; `cut_together_loss` of the run has the loss with all of
them cut.
"""
