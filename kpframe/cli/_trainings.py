"""What came of the trainings of a run, a line each, as commands that train write it at the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import click
import numpy as np
import xarray as xr

from kpframe.study._cells import Cell
from kpframe.study._scores import SCORES


def show_trainings(data: xr.Dataset, cells: Sequence[Cell]) -> bool:
    """Write a line for each training, and what failed to stderr; return whether nothing did.

    Args:
        data: the results of a run.
        cells: its trainings.
    """
    failures: dict[str, None] = {}
    for cell in cells:
        one = data.sel({name: value for name, value in cell.coordinates.items() if name in data.dims})
        click.echo(f"{cell.label}: {_line(one, max(cell.measure.steps))}")
        for failure in _failures(one, cell):
            failures[failure] = None
    for failure in failures:
        click.echo(f"Failed: {failure}", err=True)
    return not failures


def _line(one: xr.Dataset, end: int) -> str:
    """Return what is told of a training: its figures at the last step that there is, and which one."""
    outcome = one.outcome.item()
    told = [] if outcome in ("trained", "") else [f"{outcome}{_at_update(one)}"]
    at = _last_step(one)
    if at is not None:
        figures = ", ".join(_figures(one.sel(step=at)))
        told.append(f"at step {at}: {figures}" if figures and at != end else figures)
    return "; ".join(part for part in told if part) or "no figures"


def _last_step(one: xr.Dataset) -> int | None:
    """Return the last step with figures that are told; None where there is none."""
    there = np.zeros(one.sizes["step"], bool)
    for name in ("test_loss", "effective_rank"):
        if name in one:
            values = np.isfinite(one[name].transpose("step", ...).values)
            there |= values.reshape(len(there), -1).any(axis=1)
    return int(one.step.values[there][-1]) if there.any() else None


def _figures(one: xr.Dataset) -> Iterator[str]:
    """Yield the scores and the effective rank of a training at a step."""
    if np.isfinite(loss := _number(one, "test_loss")):
        yield f"test loss {loss:.3g} {one.test_loss.attrs.get('units', '1')}".removesuffix(" 1")
    for score in SCORES.values():
        if np.isfinite(value := _number(one, score.variable)):
            yield f"test {score.text.partition(' on ')[0]} {value:.3f}"
    if "effective_rank" in one and "operator" in one.effective_rank.dims:
        names = list(one.operator.values)
        chosen: dict[str, Any] = {"operator": "Phi" if "Phi" in names else names[-1]}
        if "inputs" in one.effective_rank.dims:
            chosen["inputs"] = one.inputs.values[0]
        at = one.sel(chosen)
        value, error = _number(at, "effective_rank"), _number(at, "effective_rank_stderr")
        if np.isfinite(value):
            known = f" +- {error:.1g}" if np.isfinite(error) else ""
            yield f"effective rank of {chosen['operator']} {value:.3g}{known}"


def _number(one: xr.Dataset, name: str) -> float:
    """Return a variable that is one number; NaN for any other, a plugin's of that name."""
    return float(one[name].item()) if name in one and one[name].size == 1 else float("nan")


def _at_update(one: xr.Dataset) -> str:
    update = one.stopped_at.item()
    return f" at update {update:.0f}" if np.isfinite(update) else ""


def _failures(one: xr.Dataset, cell: Cell) -> Iterator[str]:
    """Yield what failed in a training, each quantity and rule at its first step."""
    if one.outcome.item() not in ("trained", ""):
        yield f"{cell.label} {one.outcome.item()}{_at_update(one)}: {one.reason.item()}"
    for name, dim in (("quantity_failure", "quantity"), ("failure", "rule")):
        if name not in one or dim not in one[name].dims:
            continue
        failed = one[name]
        for label in failed[dim].values:
            own = failed.sel({dim: label})
            if "inputs" in own.dims:
                own = own.isel(inputs=0)
            steps = [step for step in own.step.values if own.sel(step=step).item()]
            if steps:
                more = f" and {len(steps) - 1} more" if len(steps) > 1 else ""
                yield f"{cell.label}: {label} at step {steps[0]}{more}: {own.sel(step=steps[0]).item()}"
