"""What the study of the dimension of K found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr
from common import COLOURS, draw_line, is_below, said
from matplotlib.figure import Figure

UNITS = 24


def numbers(run: xr.DataTree, folder: Path) -> xr.Dataset:
    """Return the effective rank of K, and that of K traced over units, ``Z Z^T`` where gains are alike."""
    data = run.to_dataset().sel(operator="K", step=0, drop=True)
    exact = (data.effective_rank_stderr == 0) & (data.view_effective_rank_stderr == 0)
    return xr.Dataset(
        {
            "dimension": data.effective_rank.where(exact),
            "gram": data.view_effective_rank.where(exact),
            "states": data.state_dimension,
        }
    )


def figure(numbers: xr.Dataset) -> Figure:
    """Draw the dimension of K, and how far the closed form is from it."""
    made = Figure(figsize=(8.2, 3.4), layout="constrained")
    left, right = made.subplots(1, 2)
    for place, name in enumerate(numbers.network.values):
        own = numbers.sel(network=name)
        style = {"color": COLOURS[place], "label": str(name)}
        draw_line(left, numbers.gain.values, own.dimension, **style)
        draw_line(left, numbers.gain.values, UNITS * own.gram, color=COLOURS[place], ls="--", marker=None)
        draw_line(right, numbers.gain.values, own.dimension / (UNITS * own.gram), **style)
    left.plot([], [], "k--", lw=1.5, label="H x PR of K traced over units")
    left.set(xlabel="gain g of the initial weights", ylabel="effective dimension of K")
    left.legend(fontsize=8, frameon=False)
    right.set(xlabel="gain g of the initial weights", ylabel="effective dimension / closed form")
    for axes in (left, right):
        axes.grid(True, color="0.93", lw=0.6)
    return made


def finding(numbers: xr.Dataset) -> str:
    """Say what was found."""
    ratio = numbers.dimension / (UNITS * numbers.gram)
    gaps = {str(name): float(np.abs(ratio.sel(network=name) - 1).max()) for name in numbers.network.values}
    low, high = (numbers.dimension.isel(gain=place) for place in (0, -1))
    said_dimensions = "; ".join(
        f"{name}: {said(low.sel(network=name), 1)} at g = {float(numbers.gain[0]):g}, "
        f"{said(high.sel(network=name), 1)} at g = {float(numbers.gain[-1]):g}"
        for name in numbers.network.values
    )
    grows = [
        str(name)
        for name in numbers.network.values
        if is_below(low.sel(network=name), high.sel(network=name))
    ]
    held = [name for name, gap in gaps.items() if gap < 1e-4]
    others = {name: gap for name, gap in gaps.items() if name not in held}
    most = ratio.mean("seed")
    away = " and ".join(
        f"{float(own.max()):.2f} to {float(own.min()):.2f} of it ({name})"
        for name, own in ((name, most.sel(network=name)) for name in others)
    )
    growth = f"grows with the gain in: {', '.join(grows)}" if grows else "grows with the gain in no form"
    return f"""The closed form `H x PR(Z Z^T)` gives the effective dimension of K of the \
{" and the ".join(held) or "no"} form to rounding, at every gain and seed (largest relative difference \
{max([gaps[name] for name in held] or [np.nan]):.0e} in float32). For the other forms, whose gains phi' \
differ from unit to unit, it is not exact: the dimension is {away}, in the mean over seeds.

The dimension of K, of {float(numbers.states.max()):.0f} possible ones: {said_dimensions}. It {growth}. K \
is of low dimension at all gains: at most {100 * float((numbers.dimension / numbers.states).max()):.0f}% \
of the states'."""


LEFT_OUT = """
Random networks alone, no training, and one task. Dimensions are exact: from all products with K, in
float32, on 4 trials of 12 steps. What `P` does with the gain is the matter of another study. That the
closed form is exact for the current form and for no other is also tested, in float64, to rounding.
"""
