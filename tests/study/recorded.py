"""Folders of runs, written by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from kpframe.study._cells import record_file, training_file
from kpframe.study._disk.results import write_dataset

Measured = Callable[[Mapping[str, Any], int], xr.Dataset]
ATTRIBUTES = {"title": "By <hand>", "created": "2026-01-02T03:04:05+00:00", "kpframe_version": "0.1.7"}


def cell(name: str, steps: Iterable[int] = (0, 10), initial_of: str | None = None, **coordinates: Any):
    """Return a cell as ``run.json`` has it."""
    return {
        "name": name,
        "coordinates": coordinates or {"network": name},
        "steps": list(steps),
        "initial_of": initial_of,
    }


def figure(values: Any, dims: Any = (), text: str = "a figure", units: str = "1", quantity: str = "ranks"):
    """Return a variable with its attributes."""
    return dims, values, {"long_name": text, "units": units, "quantity": quantity}


def ended(losses: Any, outcome: str = "trained", reason: str = "") -> xr.Dataset:
    """Return what became of a training."""
    stopped = np.nan if outcome == "trained" else float(np.isfinite(losses).sum() + 1)
    return xr.Dataset(
        {
            "training_loss": ("update", losses, {"long_name": "training loss", "units": "nat"}),
            "outcome": ((), outcome, {"long_name": "what became of the training", "units": "1"}),
            "stopped_at": ((), stopped, {"long_name": "update at which it stopped", "units": "1"}),
            "reason": ((), reason, {"long_name": "why it stopped", "units": "1"}),
        },
        {"update": np.arange(1, len(losses) + 1)},
    )


def write_run(
    path: Path,
    cells: Iterable[Mapping[str, Any]],
    measured: Measured,
    losses: Callable[[Mapping[str, Any]], xr.Dataset | None] = lambda one: None,
    **record: Any,
) -> Path:
    """Write the folder of a run; ``record`` has what ``run.json`` says otherwise."""
    cells = list(cells)
    written = {
        "format": 2,
        "id": "0123456789abcdef",
        "command": "run",
        "state": "running",
        "process": 1,
        "created": ATTRIBUTES["created"],
        "changed": ATTRIBUTES["created"],
        "settings": {"title": "By hand"},
        "cells": cells,
    } | record
    path.mkdir(parents=True)
    (path / "run.json").write_text(json.dumps(written), encoding="utf-8")
    about = ATTRIBUTES | {
        "run_id": written["id"],
        "command": written["command"],
        "settings": json.dumps(written["settings"]),
    }
    for one in cells:
        for step in one["steps"]:
            file = path / record_file(one["name"], step)
            write_dataset(measured(one, step), file, about | {"cell": one["name"], "step": step})
        if (came := losses(one)) is not None:
            write_dataset(came, path / training_file(one["name"]), about | {"cell": one["name"]})
    return path
