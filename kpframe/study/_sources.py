"""What a comparison reads: the checkpoints of one run, or one file, with their readouts and tasks."""

from __future__ import annotations

import os
from pathlib import Path

from kpframe.errors import ArgumentError, CheckpointError, mismatch, shown
from kpframe.models._model import Model
from kpframe.study._checkpoint import Checkpoint, load_checkpoint
from kpframe.study._folder import read_record
from kpframe.tasks._readout import Readout
from kpframe.tasks._task import Task, create_task


def checkpoint_paths(source: Path) -> list[Path]:
    """Return a checkpoint, or those of a run's folder, all of which can be read and are of that run.

    Raises:
        CheckpointError: when there is none, one is corrupt, or they are of several runs.
    """
    paths = [source] if source.is_file() else sorted((source / "checkpoints").glob("*.safetensors"))
    if not paths:
        expected = "a checkpoint (*.safetensors), or the folder of a run with checkpoints/"
        got = f"{str(source)!r}, which {'holds none' if source.exists() else 'does not exist'}"
        raise CheckpointError(mismatch("source", expected, got))
    runs = {path: load_checkpoint(path).extra.get("run") for path in paths}
    record = read_record(source)
    expected_run = runs[paths[0]] if record is None else record["id"]
    for path, run in runs.items():
        if run != expected_run:
            raise CheckpointError(
                f"source: expected checkpoints of {_named(expected_run)} in {str(source)!r}, got "
                f"{path.name!r} of {_named(run)}; compare it by itself: kpframe compare {path}"
            )
    return paths


def _named(run: object) -> str:
    return "no run" if run is None else f"run {run}"


def shown_path(path: str | Path) -> str:
    """Return a path as text that files can hold, whatever bytes are in it."""
    return os.fsencode(path).decode("utf-8", errors="replace")


def load_network(path: Path) -> tuple[Model, Readout, Checkpoint]:
    """Return the model and the readout of a checkpoint.

    Raises:
        CheckpointError: for a file that is missing, corrupt, or without a readout.
    """
    checkpoint = load_checkpoint(path)
    model = checkpoint.build_model()
    weight = checkpoint.tensors.get("readout.weight")
    if weight is None or weight.ndim != 2:
        raise CheckpointError(f"{str(path)!r} holds no readout, through which the error comes")
    reads = checkpoint.extra.get("reads", [0, model.width])
    places = isinstance(reads, list) and [place for place in reads if type(place) is int]
    if not places or len(reads) != 2 or places != reads or not 0 <= reads[0] < reads[1] <= model.width:
        expected = f"two places within the {model.width} of the state as 'reads'"
        raise CheckpointError(f"checkpoint: expected {expected} in {str(path)!r}, got {shown(reads)}")
    readout = Readout(model.width, weight.shape[0], hidden=slice(*reads), dtype=weight.dtype)
    checkpoint.load_into(readout, "readout")
    return model, readout, checkpoint


def task_of(checkpoint: Checkpoint, path: Path) -> Task:
    """Return the task that a checkpoint names; raises ``ArgumentError``, ``CheckpointError``."""
    task = checkpoint.extra.get("task")
    if task is None:
        raise ArgumentError(mismatch("task", f"a task, as {str(path)!r} names none", "none"))
    kinds = {"name": str, "settings": dict}
    if not isinstance(task, dict) or not all(isinstance(task.get(n), kind) for n, kind in kinds.items()):
        raise CheckpointError(
            f"checkpoint: expected a name and settings as 'task' in {str(path)!r}, got {shown(task)}"
        )
    return create_task(task["name"], **task["settings"])
