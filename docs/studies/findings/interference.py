"""What memory sub-tasks do to each other: cross blocks of Phi, and steps for one against the loss of "
"another."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import xarray as xr
from common import COLOURS, change_of, draw_line, mean_and_half, said, step_axis
from matplotlib.figure import Figure

LEFT_OUT = """
Networks trained on one sub-task after another, in which what was learned can be lost; other cells and
widths. Whether the local projection near a bifurcation predicts the sign was not tested. The readout is
held: figures are of what the network's own parameters do.
"""
_LABELS = {"group_overlap": "overlap of Phi", "group_gradient_cosine": "cosine of gradients"}


def numbers(run: xr.DataTree, folder: Path) -> xr.Dataset:
    """Return overlaps and cosines of pairs of sub-tasks, and the loss of each."""
    data = run.to_dataset().squeeze("network", drop=True)
    return data[[*_LABELS, "group_loss", "test_r2"]]


def figure(numbers: xr.Dataset) -> Figure:
    """Draw both figures of each pair against updates, and the signs after training as a map."""
    drawn = Figure(figsize=(10.5, 3.4), layout="constrained")
    left, middle, right = drawn.subplots(1, 3)
    for axes, (name, label) in zip((left, middle), _LABELS.items(), strict=True):
        for colour, (one, other) in zip(COLOURS, _pairs(numbers), strict=False):
            values = _pair(numbers[name], one, other).transpose("seed", "step")
            draw_line(
                axes, numbers.step.values, values, color=colour, label=f"{_short(one)}, {_short(other)}"
            )
        step_axis(axes, numbers.step.values)
        axes.set_ylabel(label)
    left.set_ylim(0, 1)
    middle.axhline(0, color="0.5", lw=0.8)
    left.legend(frameon=False, fontsize=6.5, loc="lower left")
    cosines = numbers.group_gradient_cosine.isel(step=-1).mean("seed")
    cosines = cosines.transpose("group", "group_other").values
    shown = right.imshow(cosines, cmap="RdBu_r", vmin=-1, vmax=1)
    for (row, column), value in np.ndenumerate(cosines):
        colour = "white" if abs(value) > 0.6 else "black"
        right.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=colour)
    names = [_short(str(name)) for name in numbers.group.values]
    right.set_xticks(range(len(names)), names, fontsize=7, rotation=30)
    right.set_yticks(range(len(names)), names, fontsize=7)
    right.set_title(f"cosine of gradients after {int(numbers.step[-1])} updates", fontsize=9)
    drawn.colorbar(shown, ax=right, shrink=0.7)
    return drawn


def finding(numbers: xr.Dataset) -> str:
    """Say which pairs share parameters, which help and which hinder each other."""
    pairs = _pairs(numbers)
    overlap, cosine = (numbers[name] for name in _LABELS)
    together = [_alike(pairs, overlap, same=True), _alike(pairs, cosine, same=True)]
    apart = [_alike(pairs, overlap, same=False), _alike(pairs, cosine, same=False)]
    changes = change_of(apart[0], "step"), change_of(together[0], "step")
    if changes == ("falls", "rises"):
        head = "Training pulls pro and anti apart, and sub-tasks with the same response together"
    else:
        words = {"falls": "falls", "rises": "rises", "not seen": "is not seen to change"}
        head = (
            f"The overlap between pro and anti {words[changes[0]]} over training, and that between "
            f"sub-tasks with the "
            f"same response {words[changes[1]]}"
        )
    hinder = {
        int(step): [pair for pair in pairs if _hinders(_pair(cosine, *pair).sel(step=step))]
        for step in numbers.step.values
    }
    found = {step: own for step, own in hinder.items() if own}
    head += (
        f": the overlap of cross blocks of Phi goes from {_way(apart[0])} between pro and anti, and from "
        f"{_way(together[0])} with and without the stimulus through the delay."
    )
    listed = "; ".join(
        f"{', '.join(f'`{one}` and `{other}`' for one, other in own)} after {step} updates"
        for step, own in found.items()
    )
    text = (
        f"Cosines of gradients go from {_way(apart[1])} between pro and anti, and from {_way(together[1])} "
        f"with the same "
        "response. "
        + (
            f"A step for one raises the loss of the other for {listed}"
            if found
            else "No pair is seen to hinder each other"
        )
        + ": that is where the 95% interval of the cosine over seeds lies below 0. A change is named "
        "likewise. The networks "
        f"reach an `R^2` of {said(numbers.test_r2.isel(step=-1))} over all sub-tasks."
    )
    rows = [
        "| pair | overlap of Phi, before | after | change | cosine of gradients, before | after | change |",
        "|---|---|---|---|---|---|---|",
    ]
    for one, other in pairs:
        cells = [f"`{one}`, `{other}`"]
        for values in (overlap, cosine):
            own = _pair(values, one, other)
            cells += [said(own.isel(step=0)), said(own.isel(step=-1)), change_of(own, "step")]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join([head, "", text, "", *rows])


def _pairs(numbers: xr.Dataset) -> list[tuple[str, str]]:
    return list(combinations(map(str, numbers.group.values), 2))


def _pair(values: xr.DataArray, one: str, other: str) -> xr.DataArray:
    return values.sel(group=one, group_other=other)


def _short(name: str) -> str:
    return name.replace("delay_", "d. ").replace("memory_", "m. ")


def _alike(pairs: list[tuple[str, str]], values: xr.DataArray, *, same: bool) -> xr.DataArray:
    """Return the mean over the pairs of the same response, or of different ones, [seed, step]."""
    chosen = [pair for pair in pairs if (len({name.removeprefix("delay_") for name in pair}) == 1) == same]
    parts = [_pair(values, *pair).drop_vars(["group", "group_other"]) for pair in chosen]
    return xr.concat(parts, dim="pair").mean("pair")


def _way(values: xr.DataArray) -> str:
    return f"{said(values.isel(step=0))} to {said(values.isel(step=-1))}"


def _hinders(values: xr.DataArray) -> bool:
    mean, half = mean_and_half(values)
    return mean + half < 0
