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
        click.echo(f"{cell.label}: {', '.join(_figures(one)) or 'no figures'}")
        for failure in _failures(one, cell):
            failures[failure] = None
    for failure in failures:
        click.echo(f"Failed: {failure}", err=True)
    return not failures


def _figures(one: xr.Dataset) -> Iterator[str]:
    """Yield what is told of a training: its last scores and its last effective rank."""
    if "test_loss" in one:
        loss = _last(one.test_loss)
        yield f"test loss {loss:.3g} {one.test_loss.attrs['units']}".removesuffix(" 1")
    for score in SCORES.values():
        if score.variable in one and np.isfinite(value := _last(one[score.variable])):
            yield f"test {score.text.partition(' on ')[0]} {value:.3f}"
    if "effective_rank" in one:
        rank = one.effective_rank
        names = list(rank.operator.values)
        name = "Phi" if "Phi" in names else names[-1]
        chosen: dict[str, Any] = {"operator": name}
        if "inputs" in rank.dims:
            chosen["inputs"] = rank.inputs.values[0]
        value, error = (_last(part.sel(chosen)) for part in (rank, one.effective_rank_stderr))
        yield f"effective rank of {name} {value:.3g} +- {error:.1g}"


def _last(values: xr.DataArray) -> float:
    """Return the value at the last step where there is one."""
    there = values.values[np.isfinite(values.values)]
    return float(there[-1]) if there.size else float("nan")


def _failures(one: xr.Dataset, cell: Cell) -> Iterator[str]:
    """Yield what failed in a training, each quantity and rule at its first step."""
    if one.outcome.item() not in ("trained", ""):
        at = f" at update {one.stopped_at.item():.0f}" if np.isfinite(one.stopped_at.item()) else ""
        yield f"{cell.label} {one.outcome.item()}{at}: {one.reason.item()}"
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
