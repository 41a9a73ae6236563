"""Compare learning rules on a checkpoint, or on all checkpoints of a run: what is read, and what is kept."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import xarray as xr

from kpframe.errors import ArgumentError, CheckpointError, OutputError, mismatch, shown, told
from kpframe.models._model import Model
from kpframe.rules._rule import LearningRule
from kpframe.study._checkpoint import Checkpoint, load_checkpoint
from kpframe.study._compare import compare_rules
from kpframe.study._folder import RunFolder, read_record, run_files
from kpframe.study._labels import check_labels
from kpframe.tasks._readout import Readout
from kpframe.tasks._task import Task, create_task

#: Bytes that the numbers and the page of a comparison take at least.
LEAST = 150_000


def compare_source(
    source: Path,
    rules: Mapping[str, LearningRule],
    *,
    task: Task | None = None,
    trials: int = 24,
    budget: int = 60,
    seed: int = 0,
    report: Callable[[str], None] | None = None,
    output: RunFolder | None = None,
) -> xr.Dataset:
    """Return the comparison on a checkpoint, or on every checkpoint of a run's folder.

    A rule that raises an error on a checkpoint costs its own figures there, which are NaN; the reason is
    recorded, and the others go on. A checkpoint on which all rules raise is left out.

    Args:
        source: a ``*.safetensors`` file, or a folder with ``checkpoints/``.
        rules: label -> rule.
        task: the source of trials; that of the checkpoint when left out.
        trials, budget, seed: size of the probe batch, products for each estimate, seed of both.
        report: called with the name of each checkpoint before it is compared.
        output: a folder that is held (see ``comparison_folder``); ``comparison.nc`` in it holds what there is
            after each checkpoint.

    Returns:
        As ``compare_rules``, with a dimension ``checkpoint``, its coordinates ``model`` and ``step``, and
        ``failure``, the reason why a rule has no figures on a checkpoint; what was left out is told in the
        attribute ``left_out``, a list in JSON.

    Raises:
        ArgumentError: when no task is known.
        CheckpointError: when there is no checkpoint, or they are of several runs; as ``load_network``.
        KpframeError: that of the first rule, where no rule can be compared on any checkpoint.
    """
    check_labels(rules, "rules")
    names: list[str] = []
    found: list[xr.Dataset] = []
    steps: list[int] = []
    models: list[str] = []
    left_out: list[str] = []
    first: Exception | None = None
    data = None
    for path in checkpoint_paths(source):
        name = shown_path(path.stem)
        if report is not None:
            report(name)
        model, readout, checkpoint = load_network(path)
        own = task if task is not None else task_of(checkpoint, path)
        probe = own.sample(trials, generator=seed, split="test", dtype=readout.weight.dtype)
        failures: dict[str, Exception] = {}
        try:
            one = compare_rules(
                model, readout, probe, own.loss, rules, budget=budget, seed=seed, failures=failures
            )
        except Exception as error:
            first = first or error
            left_out += [f"{name}, {label}: {told(why)}" for label, why in failures.items()]
            if len(failures) < len(rules):
                raise  # it is not the rules'
            continue
        one["failure"] = ("rule", [told(failures[label]) if label in failures else "" for label in rules])
        names.append(name)
        found.append(one)
        steps.append(checkpoint.step)
        models.append(str(checkpoint.model))
        data = xr.concat(found, dim=xr.Variable("checkpoint", names), join="outer", coords="all")
        data = data.assign_coords(step=("checkpoint", steps), model=("checkpoint", models))
        data["failure"].attrs["long_name"] = "why a rule could not be compared on a checkpoint"
        if output is not None:
            output.write_dataset("comparison.nc", data)
    if data is None:
        assert first is not None
        raise first
    if left_out:
        data.attrs["left_out"] = json.dumps(left_out)
        if output is not None:
            output.write_dataset("comparison.nc", data)
    return data


def comparison_folder(
    output: Path,
    source: Path,
    rules: Mapping[str, LearningRule],
    *,
    overwrite: bool = False,
    **settings: object,
) -> RunFolder:
    """Return the folder of a comparison, to be entered with ``with``.

    Args:
        output: the folder.
        source, rules, settings: as of ``compare_source``, a task by its name.
        overwrite: replace the run that the folder holds.

    Raises:
        CheckpointError: as ``compare_source``.
        OutputError: for the folder of what is compared; on entering as ``RunFolder``.
    """
    paths = checkpoint_paths(source)
    if {path.resolve() for path in paths} & {path.resolve() for path in run_files(output)}:
        raise OutputError(
            f"folder {str(output)!r} holds the checkpoints that are compared; give another --output"
        )
    record = read_record(source) or {}
    return RunFolder(
        output,
        "compare",
        {
            "source": shown_path(source),
            "run": record.get("id"),
            "checkpoints": [shown_path(path.stem) for path in paths],
            "rules": [[label, repr(rule)] for label, rule in rules.items()],
            **settings,
        },
        title=f"Learning rules compared on {shown_path(source.resolve().name)}",
        seed=int(str(settings.get("seed", 0))),
        overwrite=overwrite,
        needed=LEAST,
    )


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
