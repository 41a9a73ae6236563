"""At which epochs of a trial leading eigenfunctions over time are large, before and after training."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import xarray as xr
from common import COLOURS, change_of, draw_line, said
from matplotlib.figure import Figure

LEFT_OUT = """
Epochs of random lengths, other tasks and cells, and eigenfunctions over units: operators are averaged over
trials and traced over units here, so that a function is one of time alone. Its sign means nothing, and its
square is what is shown.
"""
_EPOCHS = ("fixation", "stimulus", "memory", "response")


def numbers(run: xr.DataTree, folder: Path) -> xr.Dataset:
    """Return squares of leading eigenfunctions over time, what they explain, and where epochs begin."""
    data = run.to_dataset().squeeze("network", drop=True)
    task = json.loads(data.attrs["settings"])["task"]
    begins = np.cumsum([0, *(task[name] for name in _EPOCHS)])
    leading = data.isel(mode=0, drop=True)
    kept = {
        "energy": leading.time_eigenfunction**2,
        "explained": leading.time_explained,
        "test_r2": data.test_r2,
        "begins": ("edge", begins),
    }
    return xr.Dataset(kept)


def figure(numbers: xr.Dataset) -> Figure:
    """Draw the squares over the steps of a trial, a panel for each operator."""
    drawn = Figure(figsize=(9.5, 3), layout="constrained")
    edges = numbers.begins.values - 0.5
    for axes, operator in zip(drawn.subplots(1, 3), numbers.operator.values, strict=True):
        for place, (one, other) in enumerate(pairwise(edges)):
            axes.axvspan(one, other, color="0.94" if place % 2 else "1.0", zorder=0)
            middle = (one + other) / 2
            axes.text(middle, 0.98, _EPOCHS[place], transform=axes.get_xaxis_transform(), **_CENTRE)
        for colour, step in zip(COLOURS, numbers.step.values, strict=False):
            values = numbers.energy.sel(operator=operator, step=step).transpose("seed", "time")
            draw_line(
                axes, range(values.sizes["time"]), values, color=colour, label=f"{step} updates", ms=2.5
            )
        axes.set_title(str(operator), fontsize=10)
        axes.set_xlabel("step of the trial")
        axes.set_ylim(0, 1.15 * float(axes.get_ylim()[1]))
        axes.set_xlim(edges[0], edges[-1])
    drawn.axes[0].set_ylabel("square of leading eigenfunction")
    drawn.axes[0].legend(frameon=False, fontsize=7, loc="center left")
    return drawn


_CENTRE = {"ha": "center", "va": "top", "fontsize": 6.5, "color": "0.35"}


def finding(numbers: xr.Dataset) -> str:
    """Say at which epoch each operator's leading eigenfunction is large, and whether training moves it."""
    shares, last = _shares(numbers), int(numbers.step[-1])
    lengths = xr.DataArray(np.diff(numbers.begins.values), {"epoch": list(_EPOCHS)})
    peaks = {
        name: [_peak(shares.sel(operator=name).isel(step=place)) for place in (0, -1)]
        for name in _names(numbers)
    }
    moved = [name for name, (before, after) in peaks.items() if before != after]
    epoch = peaks["Phi"][1]
    of_phi = (shares * lengths).sel(operator="Phi", epoch=epoch)
    change = change_of(of_phi, "step")
    words = {
        "rises": f"Training moves the leading eigenfunction of Phi over time towards the {epoch} epoch",
        "falls": f"Training moves the leading eigenfunction of Phi over time out of the {epoch} epoch",
        "not seen": "Training is not seen to move the leading eigenfunction of Phi over time to another "
        "epoch",
    }
    length = float(lengths.sel(epoch=epoch) / lengths.sum())
    head = (
        f"{words[change]}: there lies {said(of_phi.isel(step=0))} of its square before training and "
        f"{said(of_phi.isel(step=-1))} after {last} updates, of the steps {length:.2f}."
    )
    rows = [
        "| operator | epoch | share before | after | change | share of the trial |",
        "|---|---|---|---|---|---|",
    ]
    for name in _names(numbers):
        for epoch, length in zip(_EPOCHS, lengths.values, strict=True):
            one = shares.sel(operator=name, epoch=epoch) * length
            cells = [said(one.isel(step=0)), said(one.isel(step=-1)), change_of(one, "step")]
            rows.append(f"| `{name}` | {epoch} | {' | '.join(cells)} | {length / float(lengths.sum()):.2f} |")
    explained = ", ".join(
        f"{said(numbers.explained.sel(operator=name).isel(step=0))} and "
        f"{said(numbers.explained.sel(operator=name).isel(step=-1))} of the trace of `{name}`"
        for name in _names(numbers)
    )
    text = (
        "For each step of an epoch the square is largest in another epoch than before of "
        + (
            " and ".join(f"`{name}`, from {peaks[name][0]} to {peaks[name][1]}" for name in moved)
            or "no operator"
        )
        + f". The leading eigenfunctions explain, before and after, {explained}. A share is what of the "
        f"square of the "
        "leading eigenfunction lies in an epoch; it changes where the 95% interval of the difference over "
        "seeds lies on "
        f"one side of 0. The networks reach an `R^2` of {said(numbers.test_r2.isel(step=-1))}."
    )
    return "\n".join([head, "", *rows, "", text])


def _names(numbers: xr.Dataset) -> list[str]:
    return [str(name) for name in numbers.operator.values]


def _shares(numbers: xr.Dataset) -> xr.DataArray:
    """Return the mean square of each epoch's steps, of a function of norm 1, [..., epoch]."""
    parts = [
        numbers.energy.isel(time=slice(int(one), int(other))).mean("time")
        for one, other in pairwise(numbers.begins.values)
    ]
    total = numbers.energy.sum("time")
    return xr.concat([part / total for part in parts], dim=xr.Variable("epoch", list(_EPOCHS)))


def _peak(shares: xr.DataArray) -> str:
    return str(shares.epoch.values[int(shares.mean("seed").argmax("epoch"))])
