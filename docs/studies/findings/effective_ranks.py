"""Whether ranks of P, K and Phi fall over training, at each initial gain."""

from __future__ import annotations

from pathlib import Path

import xarray as xr
from common import COLOURS, change_of, draw_line, is_below, said, step_axis
from matplotlib.figure import Figure

LEFT_OUT = """
Other tasks, cells, widths and lengths of trial, and gains above 1.5. The published figures count the
components that hold 95% of the action on random input; here it is their participation ratio. Estimates have
errors of their own beside the spread over seeds, which they widen.
"""
_KINDS = {
    "action_dimension": "over units",
    "effective_rank": "over trials, steps and units",
}


def numbers(run: xr.DataTree, folder: Path) -> xr.Dataset:
    """Return both kinds of ranks by gain, seed, step and operator, and the score."""
    data = run.to_dataset().squeeze("network", drop=True)
    return data[["effective_rank", "action_dimension", "state_dimension", "test_r2"]]


def figure(numbers: xr.Dataset) -> Figure:
    """Draw ranks against updates, a panel for each operator, a row for each kind."""
    drawn = Figure(figsize=(9, 5.2), layout="constrained")
    rows = drawn.subplots(2, 3, sharex=True)
    for row, kind in zip(rows, _KINDS, strict=True):
        for axes, (operator, ranks) in zip(row, _by_operator(numbers[kind]).items(), strict=True):
            for colour, gain in zip(COLOURS, numbers.gain.values, strict=False):
                one = ranks.sel(gain=gain).transpose("seed", "step")
                draw_line(axes, numbers.step.values, one, color=colour, label=f"g = {gain:g}")
            axes.set_title(operator, fontsize=10)
            if operator == "P P*":  # the band of a mean reaches below 0, which no such axis shows
                axes.set_yscale("log")
                axes.set_ylim(float(ranks.min()) / 2, 2 * float(ranks.max()))
            else:
                axes.set_ylim(bottom=0)
        row[0].set_ylabel(f"rank {_KINDS[kind]}", fontsize=9)
    for axes in rows[1]:
        step_axis(axes, numbers.step.values)
    rows[0, 1].legend(frameon=False, fontsize=7, loc="lower left")
    return drawn


def _by_operator(ranks: xr.DataArray) -> dict[str, xr.DataArray]:
    dim = "action" if "action" in ranks.dims else "operator"
    return {str(name): ranks.sel({dim: name}) for name in ranks[dim].values}


def finding(numbers: xr.Dataset) -> str:
    """Say which ranks fall, at which gain."""
    over_units = _by_operator(numbers.action_dimension)
    gains = [float(gain) for gain in numbers.gain.values]
    changes = {
        (name, gain): change_of(ranks.sel(gain=gain), "step")
        for name, ranks in over_units.items()
        for gain in gains
    }
    falling = [key for key, change in changes.items() if change == "falls"]
    lower = all(
        is_below(over_units["K"].isel(step=0).sel(gain=g), over_units["P"].isel(step=0).sel(gain=g))
        for g in gains
    )
    head = f"Before training K is {'' if lower else 'not '}of lower rank over units than P at each gain"
    if len(falling) == len(changes):
        head += ", and all ranks fall at each gain, as published."
    else:
        head += (
            f"; over training {len(falling)} of {len(changes)} ranks over units fall"
            + (f" ({_listed(falling)})" if falling else "")
            + ", so that the claim that all fall at each gain does not hold here."
        )
    parts = [head]
    for kind, text in _KINDS.items():
        most = int(numbers.state_dimension.max()) if kind == "effective_rank" else None
        parts.append(f"\nRanks {text}{f', of at most {most}' if most else ''}:\n")
        parts += ["| operator | g | before training | after | change |", "|---|---|---|---|---|"]
        for name, ranks in _by_operator(numbers[kind]).items():
            for gain in gains:
                one = ranks.sel(gain=gain)
                first, last = said(one.isel(step=0), 1), said(one.isel(step=-1), 1)
                parts.append(f"| `{name}` | {gain:g} | {first} | {last} | {change_of(one, 'step')} |")
    scores = ", ".join(f"{said(numbers.test_r2.isel(step=-1).sel(gain=g))} at g = {g:g}" for g in gains)
    parts.append(
        f"\nA rank falls, or rises, where the 95% interval of its change over seeds lies on one side of 0. "
        f"The "
        f"networks reach an `R^2` of {scores}."
    )
    return "\n".join(parts)


def _listed(keys: list[tuple[str, float]]) -> str:
    gains: dict[str, list[str]] = {}
    for operator, gain in keys:
        gains.setdefault(operator, []).append(f"{gain:g}")
    return ", ".join(f"`{operator}` at g = {' and '.join(own)}" for operator, own in gains.items())
