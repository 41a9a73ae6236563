"""How far a run is: its trainings, what is recorded, and which files are damaged. Nothing is changed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attrs import field, frozen

from kpframe.errors import ArgumentError, CheckpointError
from kpframe.study._cells import checkpoint_file, label_of, record_file, state_file, training_file
from kpframe.study._disk.folder import again, is_held, seconds_between, worked_seconds
from kpframe.study._disk.results import read_attributes, read_dataset
from kpframe.study._networks.checkpoint import load_checkpoint
from kpframe.study._networks.weight_files import read_safetensors
from kpframe.study._reading.merge import record_of
from kpframe.study._running.job_files import JobStatus, job_statuses


@frozen
class CellStatus:
    """How far a training is.

    Attributes:
        name: of its files.
        label: what a reader calls it.
        state: ``"trained"``, ``"diverged"``, ``"failed"``, ``"under way"``, ``"queued"`` or ``"waiting"``.
        updates: made, as far as files say it; None where they do not.
        recorded: steps whose records are whole.
        steps: all steps that it records.
        reason: why it diverged or failed.
        job: what a cluster's job says that is to train it, or does; None where there is none.
    """

    name: str
    label: str
    state: str
    updates: int | None
    recorded: tuple[int, ...]
    steps: tuple[int, ...]
    reason: str = ""
    job: JobStatus | None = None


@frozen
class RunStatus:
    """How far a run is.

    Attributes:
        id, command, title, created: of the run.
        state: ``"running"``, ``"finished"``, ``"interrupted"``, ``"failed"`` or ``"killed"``.
        process: number of the process that works on it, or did last.
        seconds: how long processes have worked on it.
        cells: its trainings.
        damaged: files that cannot be read, or that a finished run has no more, and why.
        go_on: the command that goes on with it; empty where there is nothing to go on with.
    """

    id: str
    command: str
    title: str
    created: str
    state: str
    process: int | None
    seconds: float
    cells: tuple[CellStatus, ...]
    damaged: Mapping[str, str] = field(factory=dict)
    go_on: str = ""


def run_status(path: Path) -> RunStatus:
    """Return how far the run in a folder is.

    Raises:
        ArgumentError: for a folder of no run, or of one that is not made of trainings of a study.
    """
    record = record_of(path)
    damaged: dict[str, str] = {}
    jobs = job_statuses(path)
    own = [cell for cell in record["cells"] if cell.get("same_as") is None]
    cells = tuple(_cell(path, cell, damaged, jobs.get(cell["name"])) for cell in own)
    held = is_held(path)
    state, seconds = record["state"], worked_seconds(path, record)
    if held:
        now = datetime.now(UTC).isoformat()
        state, seconds = "running", record.get("seconds", 0.0) + seconds_between(record.get("began"), now)
    elif state in ("running", "beginning"):
        state = "killed"
    if state == "finished":  # all was there once
        damaged |= {
            str(record_file(cell.name, step)): "it is missing"
            for cell in cells
            if cell.state == "trained"
            for step in cell.steps
            if step not in cell.recorded and str(record_file(cell.name, step)) not in damaged
        }
    whole = state == "finished" and not damaged
    return RunStatus(
        id=record["id"],
        command=record["command"],
        title=str(record["settings"].get("title", "")),
        created=record["created"],
        state=state,
        process=record.get("process"),
        seconds=seconds,
        cells=cells,
        damaged=damaged,
        go_on="" if held or whole else again(record["command"], path),
    )


def _cell(path: Path, cell: Mapping[str, Any], damaged: dict[str, str], job: JobStatus | None) -> CellStatus:
    name = cell["name"]

    def whole(file: Path, read: Callable[[Path], object]) -> object:
        """Return what is read from a file that is there and whole."""
        if not file.exists():
            return None
        try:
            return read(file)
        except (ArgumentError, CheckpointError) as error:
            damaged[str(file.relative_to(path))] = str(error)
            return None

    steps = tuple(cell["steps"])
    recorded = tuple(s for s in steps if whole(path / record_file(name, s), read_attributes) is not None)
    for step in steps:
        whole(path / checkpoint_file(name, step), load_checkpoint)
    label = label_of(cell["coordinates"])
    ended = whole(path / training_file(name), read_dataset)
    if ended is not None:
        outcome, stopped = ended.outcome.item(), ended.stopped_at.item()  # type: ignore[attr-defined]
        made = ended.sizes["update"] if math.isnan(stopped) else int(stopped) - 1  # type: ignore[attr-defined]
        reason = ended.reason.item()  # type: ignore[attr-defined]
        return CellStatus(name, label, outcome, made, recorded, steps, reason)
    state = path / state_file(name)
    updates = whole(state, _updates)
    begun = bool(recorded) or state.exists()
    made = updates if isinstance(updates, int) else max(recorded) if recorded else None
    if job is not None:
        said = [number for number in (made, job.updates) if number is not None]
        begun, made = job.running, max(said, default=None)
    waiting = "waiting" if job is None else "queued"
    return CellStatus(name, label, "under way" if begun else waiting, made, recorded, steps, job=job)


def _updates(path: Path) -> int:
    _, metadata = read_safetensors(path)
    try:
        return int(json.loads(metadata["kpframe_state"])["made"])
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"state: expected kpframe's header in {str(path)!r}, got none") from error
