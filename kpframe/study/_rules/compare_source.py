"""Compare learning rules on a checkpoint, or on all checkpoints of a run: what is read, and what is kept.

Each checkpoint is a cell with one recorded step, whose record is the comparison on it: a file in ``steps/``,
from all of which ``comparison.nc`` is put together. A comparison that was killed goes on with the checkpoints
that have no record.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import numpy as np
import xarray as xr

from kpframe.errors import (
    CheckpointError,
    KpframeError,
    mismatch,
    told,
)
from kpframe.models._model import Model
from kpframe.rules._rule import LearningRule
from kpframe.study._cells import record_file
from kpframe.study._disk.folder import RunFolder, read_record
from kpframe.study._disk.labels import check_labels, file_names
from kpframe.study._disk.results import read_dataset
from kpframe.study._networks.checkpoint import Checkpoint, load_checkpoint
from kpframe.study._networks.sources import own_readout, shown_path, task_of
from kpframe.study._rules.compare import compare_rules
from kpframe.tasks._readout import Readout
from kpframe.tasks._stratified import stratified
from kpframe.tasks._task import Task

#: Attributes of a record that are the checkpoint's alone.
_OWN = ("cell", "step", "checkpoint", "model", "sha256", "probe_trials")


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
            after each checkpoint. Checkpoints whose record is there are not compared again.

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
    paths = checkpoint_paths(source)
    names = names_of(paths)
    records: list[xr.Dataset] = []
    waiting: list[xr.Dataset] = []  # of checkpoints without figures: written when there are any at all
    first: Exception | None = None
    data = None
    for path in paths:
        one = None if output is None else _recorded(output, names[path], path)
        if one is None:
            if report is not None:
                report(shown_path(path.stem))
            one, error = _compared(path, rules, task, trials, budget, seed)
            one.attrs["cell"] = names[path]
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


def _compared(
    path: Path, rules: Mapping[str, LearningRule], task: Task | None, trials: int, budget: int, seed: int
) -> tuple[xr.Dataset, Exception | None]:
    """Return the record of a checkpoint, and what the first rule raised where all did: it has no figures."""
    model, readout, checkpoint = load_network(path)
    own = task if task is not None else task_of(checkpoint, path)
    probe = stratified(own, trials, generator=seed, split="test", dtype=readout.weight.dtype)
    failures: dict[str, Exception] = {}
    error = None
    try:
        one = compare_rules(
            model, readout, probe.trials, own.loss, rules, budget=budget, seed=seed, failures=failures
        )
    except Exception as caught:
        if len(failures) < len(rules):
            raise  # it is not the rules'
        one, error = xr.Dataset(coords={"rule": list(rules)}), caught
    reasons = [told(failures[label]) if label in failures else "" for label in rules]
    one["failure"] = (
        "rule",
        np.array(reasons, dtype=object),
        {"long_name": "why a rule could not be compared on a checkpoint"},
    )
    one.attrs = {
        "step": checkpoint.step,
        "checkpoint": shown_path(path.stem),
        "model": str(checkpoint.model),
        "sha256": _digest(path),
        "probe_trials": probe.text,
    }
    return one, error


def _recorded(output: RunFolder, name: str, path: Path) -> xr.Dataset | None:
    """Return the record of a checkpoint; None where there is none of this very file that can be read."""
    with suppress(KpframeError):
        step = load_checkpoint(path).step
        found = read_dataset(output.path / record_file(name, step))
        if found.attrs.get("run_id") == output.id and found.attrs.get("sha256") == _digest(path):
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
    )
    data.attrs["probe_trials"] = "; ".join(
        dict.fromkeys(one.attrs["probe_trials"] for one in found if "probe_trials" in one.attrs)
    )
    left_out = [
        f"{one.attrs['checkpoint']}, {label}: {why}"
        for one in records
        if "update_cosine" not in one
        for label, why in zip(one.rule.values.tolist(), one.failure.values.tolist(), strict=True)
    ]
    if left_out:
        data.attrs["left_out"] = json.dumps(left_out)
    return data


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


def names_of(paths: list[Path]) -> dict[Path, str]:
    """Return the name of each checkpoint's cell."""
    labels = {path: shown_path(path.stem) for path in paths}
    names = file_names(labels.values())
    return {path: names[label] for path, label in labels.items()}


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
