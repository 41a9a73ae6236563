"""How far P P* is aligned with Phi, against the initial gain and the step of training."""

from __future__ import annotations

from pathlib import Path

import xarray as xr
from common import COLOURS, change_of, draw_line, is_below, said, step_axis
from matplotlib.figure import Figure

LEFT_OUT = """
Other tasks, cells and widths, gains above 2, and trials of more than 15 steps, over which P grows further.
An alignment is of whole operators on states, none of averaged ones.
"""


def numbers(run: xr.DataTree, folder: Path) -> xr.Dataset:
    """Return the alignments of Phi with P P* and with K, and the score."""
    data = run.to_dataset().squeeze("network", drop=True)
    aligned = data.operator_alignment.sel(operator="Phi", operator_other=["P P*", "K"], drop=True)
    return xr.Dataset({"alignment": aligned, "test_r2": data.test_r2})


def figure(numbers: xr.Dataset) -> Figure:
    """Draw alignments against updates, by gain, and against the gain, before and after training."""
    drawn = Figure(figsize=(9, 3), layout="constrained")
    left, middle, right = drawn.subplots(1, 3, sharey=True)
    for axes, other in ((left, "P P*"), (middle, "K")):
        for colour, gain in zip(COLOURS, numbers.gain.values, strict=False):
            values = numbers.alignment.sel(operator_other=other, gain=gain).transpose("seed", "step")
            draw_line(axes, numbers.step.values, values, color=colour, label=f"g = {gain:g}")
        step_axis(axes, numbers.step.values)
        axes.set_title(f"Phi with {other}", fontsize=10)
    for colour, place in zip(COLOURS[4:], (0, -1), strict=False):
        values = numbers.alignment.isel(step=place).sel(operator_other="P P*").transpose("seed", "gain")
        label = "before training" if place == 0 else f"after {int(numbers.step[-1])} updates"
        draw_line(right, numbers.gain.values, values, color=colour, label=label)
    right.set_title("Phi with P P*", fontsize=10)
    right.set_xlabel("initial gain g")
    left.set_ylabel("alignment")
    left.set_ylim(0, 1)
    left.legend(frameon=False, fontsize=8)
    right.legend(frameon=False, fontsize=8)
    return drawn


def finding(numbers: xr.Dataset) -> str:
    """Say how the alignment depends on the gain and on training."""
    with_p = numbers.alignment.sel(operator_other="P P*")
    with_k = numbers.alignment.sel(operator_other="K")
    gains = [float(gain) for gain in numbers.gain.values]
    first, last = with_p.isel(step=0), with_p.isel(step=-1)
    grows = is_below(first.sel(gain=gains[0]), first.sel(gain=gains[-1]))
    closer = [g for g in gains if is_below(first.sel(gain=g), with_k.isel(step=0).sel(gain=g))]
    trained = [g for g in gains if is_below(last.sel(gain=g), with_k.isel(step=-1).sel(gain=g))]
    head = (
        f"Before training `P P*` is aligned with Phi to {said(first.sel(gain=gains[0]))} at g = "
        f"{gains[0]:g} and to "
        f"{said(first.sel(gain=gains[-1]))} at g = {gains[-1]:g}: the alignment "
        f"{'grows with the gain' if grows else 'does not grow with the gain'}."
    )
    changes = {g: change_of(with_p.sel(gain=g), "step") for g in gains}
    rows = [
        "| g | with `P P*`, before | after | change | with `K`, before | after | `R^2` |",
        "|---|---|---|---|---|---|---|",
    ]
    for g in gains:
        own, other = with_p.sel(gain=g), with_k.sel(gain=g)
        cells = [said(part.isel(step=place)) for part in (own, other) for place in (0, -1)]
        score = said(numbers.test_r2.isel(step=-1).sel(gain=g))
        rows.append(f"| {g:g} | {cells[0]} | {cells[1]} | {changes[g]} | {cells[2]} | {cells[3]} | {score} |")
    text = (
        f"Phi is nearer to K than to `P P*`, seed by seed with 95% confidence, {_at(closer)} before "
        f"training and "
        f"{_at(trained)} after {int(numbers.step[-1])} updates. That K alone shapes Phi, over and above P, "
        + (
            "holds at each gain here."
            if len(closer) == len(trained) == len(gains)
            else "does not hold at every gain."
        )
        + " A change is named where the 95% interval of the difference over seeds lies on one side of 0."
    )
    return "\n".join([head, "", *rows, "", text])


def _at(gains: list[float]) -> str:
    return f"at g = {', '.join(f'{g:g}' for g in gains)}" if gains else "at no gain"
