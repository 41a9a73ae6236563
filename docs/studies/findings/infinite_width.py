"""What the study of wide networks found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr
from common import COLOURS, draw_line, is_below, mean_and_half, said, trend
from matplotlib.figure import Figure


def numbers(run: xr.DataTree, folder: Path) -> xr.Dataset:
    """Return the relative error of the limit by width."""
    data = run.to_dataset().squeeze("network", drop=True)
    return data[["limit_error"]].isel(step=0, drop=True).sel(operator=["P P*", "K", "Phi"])


def figure(numbers: xr.Dataset) -> Figure:
    """Draw the error against the width."""
    made = Figure(figsize=(5.4, 3.6), layout="constrained")
    axes = made.subplots()
    widths = numbers.hidden_size.values.astype(float)
    for place, name in enumerate(numbers.operator.values):
        draw_line(axes, widths, numbers.limit_error.sel(operator=name), color=COLOURS[place], label=str(name))
    start = float(numbers.limit_error.isel(hidden_size=0).mean())
    axes.plot(widths, start * (widths / widths[0]) ** -0.5, "k:", lw=1, label="n^-1/2")
    axes.set(xscale="log", yscale="log", xlabel="units n", ylabel="relative distance from the limit")
    axes.set_xticks(widths, [f"{one:g}" for one in widths])
    ticks = [one for one in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if one >= float(numbers.limit_error.min())]
    axes.set_yticks(ticks, [f"{100 * one:g}%" for one in ticks])
    axes.minorticks_off()
    axes.grid(True, color="0.93", lw=0.6)
    axes.legend(fontsize=8, frameon=False)
    return made


def finding(numbers: xr.Dataset) -> str:
    """Say what was found."""
    slopes = trend(np.log(numbers.limit_error), "hidden_size")
    names = numbers.operator.values
    fits = ", ".join(f"{said(slopes.sel(operator=name))} for {name}" for name in names)
    first, last = numbers.limit_error.isel(hidden_size=0), numbers.limit_error.isel(hidden_size=-1)
    sizes = "; ".join(
        f"{name} {said(100 * first.sel(operator=name), 1)}% to {said(100 * last.sel(operator=name), 1)}%"
        for name in names
    )
    near = [
        name for name in names if abs(mean_and_half(slopes.sel(operator=name))[0] + 0.5)
        <= mean_and_half(slopes.sel(operator=name))[1]
    ]  # fmt: skip
    half = xr.full_like(slopes.sel(operator="K"), -0.5)
    faster = [str(name) for name in names if is_below(slopes.sel(operator=name), half)]
    fall = [str(name) for name in names if is_below(last.sel(operator=name), first.sel(operator=name))]
    low, high = int(numbers.hidden_size[0]), int(numbers.hidden_size[-1])
    return f"""The distance from the limit of infinite width falls with the number of units n like n to \
the power {fits}. The published -1/2 lies within the interval over seeds for \
{" and ".join(map(str, near)) or "none of them"}; faster, beyond chance, falls \
{", ".join(faster) or "none"}.

From {low} to {high} units the relative distance of tr_hidden / n over all pairs of trials and steps \
falls: {sizes}; the fall is beyond chance for {", ".join(fall) or "none"}. The recursions of arXiv \
2006.10246 so describe K and Phi, and that of P P*, which is diagonal in time in the limit, describes what \
perturbations do: off the diagonal it has traces of products of random matrices, (1/n) tr W ~ 1/n, which \
fall faster than averages over units."""


LEFT_OUT = """
Random networks with tanh alone, at gain 1, with 3 trials of 7 steps, and no biases. The recursions for
erf and relu, whose expectations have a closed form, are tested against integration and draws; no
bundled model has erf. Training in the limit (whether the kernels stay as they are) is not looked at.
"""
