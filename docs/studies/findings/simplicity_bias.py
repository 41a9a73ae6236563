"""What the study of dimensions found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr
from common import is_below, said
from matplotlib.figure import Figure

SIGNALS = ("states", "state change", "Phi Err")


def numbers(run: xr.DataTree, folder: Path) -> xr.Dataset:
    """Return dimensions of signals at both steps, the effective rank of Phi, and the loss."""
    data = run.to_dataset().squeeze("network", drop=True)
    rank = data.effective_rank.sel(operator=["Phi"])
    return xr.Dataset({"dimension": data.dimension, "rank": rank, "loss": data.test_loss})


def powers(values: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """Return the exponents a and b of the fit ``dimension ~ p^a q^b``, ``[...]``."""
    logs = np.log(values)
    p, q = np.log(values.input_dimension), np.log(values.target_dimension)
    p, q = p - p.mean(), q - q.mean()  # orthogonal to each other on the grid
    num_p, num_q = values.sizes["input_dimension"], values.sizes["target_dimension"]
    both = ["input_dimension", "target_dimension"]
    return (logs * p).sum(both) / ((p**2).sum() * num_q), (logs * q).sum(both) / ((q**2).sum() * num_p)


def figure(numbers: xr.Dataset) -> Figure:
    """Draw maps of dimensions over those of inputs and targets, after training."""
    made = Figure(figsize=(8.2, 2.9), layout="constrained")
    panels = made.subplots(1, len(SIGNALS))
    last = numbers.isel(step=-1).mean("seed")
    for axes, signal in zip(panels, SIGNALS, strict=True):
        values = last.dimension.sel(signal=signal).transpose("target_dimension", "input_dimension").values
        image = axes.imshow(values, origin="lower", cmap="viridis", vmin=1)
        for (row, column), value in np.ndenumerate(values):
            dark = value < 0.6 * values.max()
            axes.text(
                column, row, f"{value:.1f}", ha="center", va="center", fontsize=8, color="w" if dark else "k"
            )
        axes.set_xticks(range(values.shape[1]), [str(one) for one in numbers.input_dimension.values])
        axes.set_yticks(range(values.shape[0]), [str(one) for one in numbers.target_dimension.values])
        axes.set(xlabel="input dimension p", title=f"dimension of {signal}")
        axes.title.set_fontsize(9)
        made.colorbar(image, ax=axes, shrink=0.8)
    panels[0].set_ylabel("target dimension q")
    return made


def finding(numbers: xr.Dataset) -> str:
    """Say what was found."""
    fits = {}
    for signal in SIGNALS:
        for step in (0, -1):
            at = numbers.dimension.sel(signal=signal).isel(step=step)
            if bool(at.notnull().all()):
                fits[signal, step] = powers(at)
    before = f"`p^({said(fits['states', 0][0])})` `q^({said(fits['states', 0][1])})`"
    by_targets = [s for s in SIGNALS if is_below(fits[s, -1][0], fits[s, -1][1])]
    by_inputs = [s for s in SIGNALS if is_below(fits[s, -1][1], fits[s, -1][0])]
    last, first = numbers.dimension.isel(step=-1), numbers.dimension.isel(step=0)
    corner, other, full = (
        last.sel(input_dimension=p, target_dimension=q) for p, q in ((8, 1), (1, 8), (8, 8))
    )
    start = first.sel(input_dimension=8, target_dimension=1)
    shrinks = is_below(corner.sel(signal="states"), start.sel(signal="states"))
    depends = [s for s in SIGNALS if is_below(0 * fits[s, -1][1], fits[s, -1][1])]
    rank_p, rank_q = powers(numbers["rank"].sel(operator="Phi").isel(step=-1))
    loss = numbers.loss.isel(step=-1).mean("seed")
    return f"""After training the dimension of the states goes like `p^({said(fits["states", -1][0])})` \
`q^({said(fits["states", -1][1])})`, with p dimensions of the inputs and q of the targets, that of their \
change like `p^({said(fits["state change", -1][0])})` `q^({said(fits["state change", -1][1])})`, that of the \
flow of learning, Phi Err, like `p^({said(fits["Phi Err", -1][0])})` `q^({said(fits["Phi Err", -1][1])})`; \
that of the states before training like {before}. Targets count for more than inputs in \
{", ".join(by_targets) or "none of them"}, inputs for more in {", ".join(by_inputs) or "none of them"}.

With inputs of dimension 8 and one target the states fill {said(corner.sel(signal="states"), 1)} \
dimensions, {said(start.sel(signal="states"), 1)} before training: they \
{"shrink" if shrinks else "are not shown to shrink"}. Their change fills \
{said(corner.sel(signal="state change"), 1)}, the flow {said(corner.sel(signal="Phi Err"), 1)}; with one \
input and 8 targets {said(other.sel(signal="state change"), 1)} and \
{said(other.sel(signal="Phi Err"), 1)}; with 8 of both {said(full.sel(signal="state change"), 1)} and \
{said(full.sel(signal="Phi Err"), 1)}, of 24 units. So learning moves the states in few dimensions, as \
published, but it is not the network's structure alone: the dimension grows with that of the targets for \
{", ".join(depends) or "no signal"}.

The effective rank of Phi goes like `p^({said(rank_p)})` `q^({said(rank_q)})`. Losses are between \
{float(loss.min()):.3f} and {float(loss.max()):.3f}, of 1 for targets that are not learned: polynomials of \
high degree (small p, large q) are hard."""


LEFT_OUT = """
Dimensions are participation ratios of second moments, in states of 24 units after 250 updates; trials
are 5 steps long. Targets of more dimensions than inputs are polynomials of them, and harder to learn
than linear ones: size and difficulty of the task are not apart there.
"""
