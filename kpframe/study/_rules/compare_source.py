"""Compare learning rules on checkpoints, or those of runs: what is read, and what is kept.

Each checkpoint is a cell with one recorded step, whose record is the comparison on it: a file in ``steps/``,
from all of which ``comparison.nc`` is put together. A comparison that was killed goes on with the checkpoints
that have no record.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
import xarray as xr
from attrs import frozen

from kpframe.errors import ArgumentError, CheckpointError, KpframeError, mismatch, told
from kpframe.models._model import Model
from kpframe.rules._rule import LearningRule
from kpframe.study._cells import record_file
from kpframe.study._disk.folder import RunFolder, read_record
from kpframe.study._disk.labels import check_labels, file_names
from kpframe.study._disk.results import read_dataset
from kpframe.study._networks.checkpoint import Checkpoint, load_checkpoint
from kpframe.study._networks.sources import own_readout, shown_path, task_settings_of
from kpframe.study._rules.compare import COORDINATES, compare_rules
from kpframe.tasks._readout import Readout
from kpframe.tasks._stratified import stratified
from kpframe.tasks._task import Task, create_task

#: Attributes of a record that are the checkpoint's alone.
_OWN = ("cell", "step", "checkpoint", "model", "source", "sha256", "probe_trials")


@frozen
class Compared:
    """A checkpoint that is compared.

    Attributes:
        path: of its file.
        label: what a reader calls it.
        name: of its cell.
        source: the argument that it was found by, as text.
        step: updates made.
    """

    path: Path
    label: str
    name: str
    source: str
    step: int


def compare_source(
    source: Path | Sequence[Path],
    rules: Mapping[str, LearningRule],
    *,
    last: bool = False,
    task: Task | None = None,
    trials: int = 24,
    budget: int = 60,
    seed: int = 0,
    report: Callable[[str, int, int], None] | None = None,
    output: RunFolder | None = None,
) -> xr.Dataset:
    """Return the comparison on checkpoints, and on every checkpoint of runs' folders.

    A rule that raises an error on a checkpoint, or does not apply to its model, costs its own figures there,
    which are NaN; the reason is recorded, and the others go on. A checkpoint on which all rules raise is left
    out.

    Args:
        source: a ``*.safetensors`` file, a folder with ``checkpoints/``, or several of them.
        rules: label -> rule.
        last: take of each training of a folder the network that was recorded last alone.
        task: the source of trials; that of the checkpoint when left out.
        trials, budget, seed: size of the probe batch, products for each estimate, seed of both.
        report: called before a rule is compared on a checkpoint, with what is done, how many such
            comparisons are done, and how many there are.
        output: a folder that is held (see ``comparison_folder``); ``comparison.nc`` in it holds what there is
            after each checkpoint. Checkpoints whose record is there are not compared again.

    Returns:
        As ``compare_rules``, with a dimension ``checkpoint``, its coordinates ``model``, ``source`` and
        ``step``, and ``failure``, the reason why a rule has no figures on a checkpoint: that of one that does
        not apply to the model begins with ``UnsupportedError``. What was left out is told in the attribute
        ``left_out``, a list in JSON: checkpoint, model, rule, reason.

    Raises:
        ArgumentError: when no task is known, or tasks have losses of different kinds, in different units.
        CheckpointError: when there is no checkpoint, or they are of several runs; as ``load_network``.
        KpframeError: that of the first rule, where no rule can be compared on any checkpoint.
    """
    check_labels(rules, "rules")
    every = compared_checkpoints([source] if isinstance(source, Path) else source, last=last)
    tasks = _tasks(every, task)
    records: list[xr.Dataset] = []
    waiting: list[xr.Dataset] = []  # of checkpoints without figures: written when there are any at all
    first: Exception | None = None
    data = None
    for place, found in enumerate(every):
        one = None if output is None else _recorded(output, found)
        if one is None:
            tell = None if report is None else partial(_tell, report, found, place, len(every), len(rules))
            one, error = _compared(found, rules, tasks.get(found.path), trials, budget, seed, tell)
            first = first or error
            waiting.append(one)
        records.append(one)
        if all("update_cosine" not in record for record in records):
            continue
        data = _together(records)
        if output is not None:
            for record in waiting:
                output.write_dataset(record_file(record.attrs["cell"], record.attrs["step"]), record)
            output.write_dataset("comparison.nc", data)
        waiting.clear()
    if data is None:
        assert first is not None
        raise first
    return data


def _tell(
    report: Callable[[str, int, int], None],
    of: Compared,
    place: int,
    count: int,
    rules: int,
    label: str,
    at: int,
) -> None:
    report(f"comparing on {of.label}: {label}", place * rules + at, count * rules)


def _tasks(every: Sequence[Compared], given: Task | None) -> dict[Path, Task]:
    """Return the task of each checkpoint, but of those that name none that there is.

    Raises:
        ArgumentError: where losses are of different kinds: rates in nat and in squared units of outputs
            would stand in one variable.
    """
    found: dict[Path, Task] = {}
    made: dict[str, Task] = {}
    for one in every:
        if given is not None:
            found[one.path] = given
            continue
        with suppress(KpframeError):  # which is told when its turn comes
            name, settings = task_settings_of(load_checkpoint(one.path), one.path)
            key = json.dumps([name, settings], sort_keys=True)
            if key not in made:
                made[key] = create_task(name, **settings)
            found[one.path] = made[key]
    losses = {found[one.path].loss: one.label for one in every if one.path in found}
    if len(losses) > 1:
        said = ", ".join(f"{loss} of {label!r}" for loss, label in losses.items())
        raise ArgumentError(
            mismatch("source", "networks whose tasks have one kind of loss", said)
            + "; compare them one after another, or along one --task"
        )
    return found


def _compared(
    of: Compared,
    rules: Mapping[str, LearningRule],
    own: Task | None,
    trials: int,
    budget: int,
    seed: int,
    tell: Callable[[str, int], None] | None,
) -> tuple[xr.Dataset, Exception | None]:
    """Return the record of a checkpoint, and what the first rule raised where all did: it has no figures."""
    model, readout, checkpoint = load_network(of.path)
    if own is None:
        name, settings = task_settings_of(checkpoint, of.path)
        own = create_task(name, **settings)
    probe = stratified(own, trials, generator=seed, split="test", dtype=readout.weight.dtype)
    failures: dict[str, Exception] = {}
    error = None
    try:
        one = compare_rules(
            model,
            readout,
            probe.trials,
            own.loss,
            rules,
            budget=budget,
            seed=seed,
            failures=failures,
            report=tell,
        )
    except Exception as caught:
        if len(failures) < len(rules):
            raise  # it is not the rules'
        one, error = xr.Dataset(coords={"rule": list(rules)}), caught
    reasons = [told(failures[label]) if label in failures else "" for label in rules]
    one["failure"] = (
        "rule",
        np.array(reasons, dtype=object),
        {"long_name": "why a rule could not be compared on a checkpoint", "units": "1"},
    )
    one.attrs = {
        "cell": of.name,
        "step": checkpoint.step,
        "checkpoint": of.label,
        "model": str(checkpoint.model),
        "source": of.source,
        "sha256": _digest(of.path),
        "probe_trials": probe.text,
    }
    return one, error


def _recorded(output: RunFolder, of: Compared) -> xr.Dataset | None:
    """Return the record of a checkpoint; None where there is none of this very file that can be read."""
    with suppress(KpframeError):
        found = read_dataset(output.path / record_file(of.name, of.step))
        if found.attrs.get("run_id") == output.id and found.attrs.get("sha256") == _digest(of.path):
            found.attrs = {key: found.attrs[key] for key in _OWN if key in found.attrs}
            return found
    return None


def _digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def _together(records: list[xr.Dataset]) -> xr.Dataset:
    """Return the records that have figures along ``checkpoint``; what has none is told."""
    found = [one for one in records if "update_cosine" in one]
    names = [one.attrs["checkpoint"] for one in found]
    plain = [one.drop_attrs(deep=False) for one in found]
    data = xr.concat(plain, dim=xr.Variable("checkpoint", names), join="outer", coords="all")
    data = data.assign_coords(
        step=("checkpoint", [int(one.attrs["step"]) for one in found]),
        model=("checkpoint", [one.attrs["model"] for one in found]),
        source=("checkpoint", [one.attrs["source"] for one in found]),
    )
    for name, text in COORDINATES.items():
        if name in data.coords:
            data[name].attrs = {"long_name": text, "units": "1"}
    data.attrs["probe_trials"] = "; ".join(
        dict.fromkeys(one.attrs["probe_trials"] for one in found if "probe_trials" in one.attrs)
    )
    left_out = [
        [one.attrs["checkpoint"], one.attrs["model"], label, why]
        for one in records
        if "update_cosine" not in one
        for label, why in zip(one.rule.values.tolist(), one.failure.values.tolist(), strict=True)
    ]
    if left_out:
        data.attrs["left_out"] = json.dumps(left_out)
    return data


def compared_checkpoints(sources: Sequence[Path], *, last: bool = False) -> list[Compared]:
    """Return the checkpoints of sources; one that several sources hold is compared once.

    With several sources those of a folder have its name before their own.

    Raises:
        ArgumentError: for no source.
        CheckpointError: as ``checkpoint_paths``.
    """
    if not sources:
        raise ArgumentError(mismatch("source", "at least one checkpoint, or folder of a run", "none"))
    of: dict[Path, Path] = {}
    for source in sources:
        for path in checkpoint_paths(source, last=last):
            if path.resolve() not in {other.resolve() for other in of}:
                of[path] = source
    labels = {path: shown_path(path.stem) for path in of}
    if len(sources) > 1:
        for path, source in of.items():
            if source.is_dir():
                labels[path] = f"{shown_path(source.resolve().name)}/{labels[path]}"
    twice = {label for label, count in Counter(labels.values()).items() if count > 1}
    labels = {path: shown_path(path) if label in twice else label for path, label in labels.items()}
    names = file_names(labels.values())
    return [
        Compared(path, labels[path], names[labels[path]], shown_path(source), load_checkpoint(path).step)
        for path, source in of.items()
    ]


def checkpoint_paths(source: Path, *, last: bool = False) -> list[Path]:
    """Return a checkpoint, or those of a run's folder, all of which can be read and are of that run.

    With ``last`` that is of each training the one of the most updates.

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
    return _last(paths) if last and not source.is_file() else paths


def _last(paths: Sequence[Path]) -> list[Path]:
    """Return of the checkpoints of each training that of the most updates."""
    found: dict[str, tuple[int, Path]] = {}
    for path in paths:
        checkpoint = load_checkpoint(path)
        cell = checkpoint.extra.get("cell")
        # files of no run are named as its are: RNN-000300
        name = cell if isinstance(cell, str) else re.sub(r"[-_=.]?\d+$", "", shown_path(path.stem))
        if name not in found or checkpoint.step > found[name][0]:
            found[name] = checkpoint.step, path
    return [path for _, path in found.values()]


def _named(run: object) -> str:
    return "no run" if run is None else f"run {run}"


def load_network(path: Path) -> tuple[Model, Readout, Checkpoint]:
    """Return the model and the readout of a checkpoint.

    Raises:
        CheckpointError: for a file that is missing, corrupt, or without a readout.
    """
    checkpoint = load_checkpoint(path)
    model = checkpoint.build_model()
    readout = own_readout(path, checkpoint, model)
    if readout is None:
        raise CheckpointError(f"{str(path)!r} holds no readout, through which the error comes")
    return model, readout, checkpoint
