"""What can be read as networks: a checkpoint, a folder of them with step numbers in their names, a run."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from attrs import field, frozen

from kpframe.errors import ArgumentError, CheckpointError, mismatch, shown
from kpframe.models._model import Model
from kpframe.study._disk.folder import FORMAT, RECORD, format_of, read_record
from kpframe.study._disk.labels import file_names
from kpframe.study._networks.checkpoint import Checkpoint, load_checkpoint, load_weights, read_header
from kpframe.study._networks.given_model import GivenModel
from kpframe.study._networks.weight_files import SAFETENSORS, SUFFIXES, kind_of, read_safetensors
from kpframe.tasks._readout import Readout

#: A whole number in a name: no part of a decimal (0.25), of a version (v2) or of a word (300k, 1e5, 3f2a).
_NUMBER = re.compile(r"(?<![\d.])(?<!\d[eE])(?<!\bv)(?<![_-]v)\d+(?!\d|\.\d|[A-Za-z])")
_STEP = re.compile(r"step[s]?[=_ .-]*(?=\d)", re.IGNORECASE)


@frozen
class NetworkFile:
    """A file that holds a network.

    Attributes:
        path: the file.
        step: updates made.
    """

    path: Path
    step: int


@frozen
class SourceCell:
    """The files of one training, by their steps.

    Attributes:
        name: of its files; letters, digits and ``_.=-``.
        coordinates: its place in the study that it is of; otherwise what it is called.
        files: ascending by step.
        same_as: name of the training that this one is at another point of a sweep, and that has its files.
    """

    name: str
    coordinates: Mapping[str, Any]
    files: tuple[NetworkFile, ...]
    same_as: str | None = None


@frozen(eq=False)
class ReadNetwork:
    """A network as a file holds it.

    Attributes:
        model, readout: the network; ``readout=None`` where the file has none that is known.
        checkpoint: what kpframe's own file says of it, None for a file of another program.
    """

    model: Model
    readout: Readout | None
    checkpoint: Checkpoint | None = field(default=None, repr=False)


def find_cells(source: Path) -> list[SourceCell]:
    """Return what a checkpoint, or a folder, holds: one training, or those of a run of kpframe.

    In a folder are files with the suffixes ``.safetensors``, ``.pt``, ``.pth`` and ``.ckpt``; those in
    ``checkpoints/`` where there is such a folder. The steps of kpframe's own files stand in them; those of
    others in their names: the number after ``step``, else the one number in which the names differ, else the
    last.

    Raises:
        CheckpointError: for a source without checkpoints, a name without a step, and several files of one
            step, naming them; for files of another run than the folder's.
    """
    paths = network_files(source)
    label = shown_path(_stem(paths[0].name) if source.is_file() else source.resolve().name or "folder")
    name = file_names([label])[label]
    headers = {path: header_of(path) for path in paths}
    record = None if source.is_file() else _record_of(source)
    if record is not None:
        _check_run(source, paths, headers, record["id"])
        if cells := _cells_of_run(paths, headers, record):
            return cells
    files = [NetworkFile(path, step) for path, step in _steps(paths, headers, source).items()]
    return [SourceCell(name, {"network": label}, tuple(sorted(files, key=lambda file: file.step)))]


def network_files(source: Path) -> list[Path]:
    """Return a file, or those of a folder that may hold networks; raises ``CheckpointError``."""
    if source.is_file():
        return [source]
    inner = source / "checkpoints"
    folder = inner if inner.is_dir() else source
    paths = []
    if folder.is_dir():
        try:
            paths = [path for path in folder.iterdir() if path.suffix in SUFFIXES and path.is_file()]
        except OSError as error:
            raise CheckpointError(f"source: {str(folder)!r} cannot be read ({error.strerror})") from error
    paths = sorted(path for path in paths if not path.name.startswith("."))
    if not paths:
        expected = "a checkpoint (*.safetensors, *.pt, *.pth, *.ckpt), or a folder with some"
        got = f"{str(source)!r}, which {'holds none' if source.exists() else 'does not exist'}"
        raise CheckpointError(mismatch("source", expected, got))
    return paths


def header_of(path: Path) -> dict[str, Any] | None:
    """Return kpframe's header of a file, None for one of another program; raises ``CheckpointError``."""
    if kind_of(path) != SAFETENSORS:
        return None
    _, metadata = read_safetensors(path, tensors=False)
    return read_header(path, metadata)


def _record_of(source: Path) -> dict[str, Any] | None:
    """Return the record of a run's folder, None for another folder; raises ``CheckpointError``."""
    record = read_record(source)
    if record is None and (source / RECORD).exists():
        newer = format_of(source)
        got = "one that is damaged" if newer is None or newer <= FORMAT else "one of a newer kpframe"
        expected = f"a {RECORD} that this kpframe knows in {str(source)!r}"
        remedy = "; without it the folder is one training's, by the names of its files"
        raise CheckpointError(mismatch("source", expected, got + remedy))
    return record


def _check_run(
    source: Path, paths: Sequence[Path], headers: Mapping[Path, dict[str, Any] | None], run: str
) -> None:
    for path in paths:
        header = headers[path]
        own = None if header is None else header["extra"].get("run")
        if own != run:
            whose = "no run" if own is None else f"run {own}"
            raise CheckpointError(
                f"source: expected checkpoints of run {run} in {str(source)!r}, got {path.name!r} of "
                f"{whose}; give it by itself"
            )


def _cells_of_run(
    paths: Sequence[Path], headers: Mapping[Path, dict[str, Any] | None], record: Mapping[str, Any]
) -> list[SourceCell]:
    """Return the cells of a run, in its order; none where its files say nothing of cells."""
    listed = record.get("cells")
    known = {cell["name"]: cell for cell in listed} if isinstance(listed, list) else {}
    found: dict[str, list[NetworkFile]] = {}
    for path in paths:
        header = headers[path] or {"extra": {}, "step": 0}
        cell = header["extra"].get("cell")
        if not isinstance(cell, str):
            return []
        found.setdefault(cell, []).append(NetworkFile(path, header["step"]))
    same = {name: cell["same_as"] for name, cell in known.items() if cell.get("same_as") in found}
    for name, cell in known.items():  # the network before training is where it was first recorded
        first = found.get(str(cell.get("initial_of")), [])
        if name in found:
            found[name] += [file for file in first if file.step == 0]
    return [
        SourceCell(
            name,
            dict(known[name]["coordinates"]) if name in known else {"network": name},
            tuple(sorted(found.get(name, ()), key=lambda file: file.step)),
            same.get(name),
        )
        for name in [*(n for n in known if n in found or n in same), *(n for n in found if n not in known)]
    ]


# -- steps ---------------------------------------------------------------------------------------------------


def _steps(
    paths: Sequence[Path], headers: Mapping[Path, dict[str, Any] | None], source: Path
) -> dict[Path, int]:
    own = {path: int(header["step"]) for path, header in headers.items() if header is not None}
    if len(paths) == 1 and not source.is_dir():  # a name may hold any number: of units, of a seed
        name = _stem(paths[0].name)
        number = own.get(paths[0]) or _after_step(name)
        return {paths[0]: number if number is not None else int(name) if name.isdecimal() else 0}
    if len(own) > 1 and not any(own.values()):
        own = {}  # written without saying the step
    named = step_numbers([path.name for path in paths if path not in own])
    steps = {path: own[path] if path in own else named[path.name] for path in paths}
    if lacking := [path.name for path in paths if steps[path] is None]:
        expected = "a number of updates in the name of each file, such as step=300"
        raise CheckpointError(mismatch("source", expected, f"{_listed(lacking)} in {str(source)!r}"))
    found = {path: step for path, step in steps.items() if step is not None}
    counts = Counter(found.values())
    if twice := [path.name for path, step in found.items() if counts[step] > 1]:
        step = next(found[path] for path in found if path.name == twice[0])
        raise CheckpointError(
            mismatch("source", "one file for each step", f"{_listed(twice)}, with step {step} more than once")
            + "; give each training a folder of its own, or step=NUMBER in the names"
        )
    return found


def step_numbers(names: Sequence[str]) -> dict[str, int | None]:
    """Return the step that each of some files' names says, None where it says none.

    The number after ``step`` is it; without one the only number in which the names differ, else the last.
    Decimals, versions (``v2``) and numbers with a unit (``300k``) are none.

    Raises:
        CheckpointError: for a name with two numbers after ``step``.
    """
    stems = {name: _stem(name) for name in names}
    found: dict[str, int | None] = {}
    numbers: dict[str, list[int]] = {}
    for name, stem in stems.items():
        found[name] = _after_step(stem)
        if found[name] is None and not _STEP.search(stem):
            numbers[name] = [int(text) for text in _NUMBER.findall(stem)]
    counts = {len(each) for each in numbers.values()}
    columns = list(zip(*numbers.values(), strict=True)) if len(counts) == 1 else []
    varying = [place for place, column in enumerate(columns) if len(set(column)) > 1]
    place = varying[0] if len(varying) == 1 else -1
    return found | {name: each[place] if each else None for name, each in numbers.items()}


def _after_step(stem: str) -> int | None:
    numbers = set()
    for match in _STEP.finditer(stem):
        number = _NUMBER.match(stem, match.end())
        if number is not None:
            numbers.add(int(number.group()))
    if len(numbers) > 1:
        got = f"{stem!r} with {' and '.join(map(str, sorted(numbers)))}"
        raise CheckpointError(mismatch("source", "one number after 'step' in a name", got))
    return numbers.pop() if numbers else None


def _stem(name: str) -> str:
    return next((name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix)), name)


def _listed(names: Sequence[str]) -> str:
    text = ", ".join(repr(name) for name in names[:6])
    return text + (f", ... ({len(names)} in all)" if len(names) > 6 else "")


# -- networks ------------------------------------------------------------------------------------------------


def read_network(path: Path, given: GivenModel, input_size: int | None = None) -> ReadNetwork:
    """Return the network of a file.

    Args:
        path: kpframe's own file, whose settings rebuild the model; or weights, for a model that is given.
        given: the model that is given; with one, own files are taken as weights, too.
        input_size: of a registered model that is given, unless its settings say it.

    Raises:
        CheckpointError: for a file that is missing, corrupt, or of another architecture.
        ArgumentError, SettingsError, UnknownNameError: for a model that is missing or cannot be made.
    """
    header = header_of(path)
    if given.model is None:
        if header is None or header["model"] is None:
            what = "of another program" if header is None else "with a model of no registered name"
            expected = f"--model, a registered name or module:factory, as {path.name!r} is a file {what}"
            raise ArgumentError(mismatch("model", expected, "none"))
        return _own_network(path, given)
    if header is None:
        return ReadNetwork(*given.read(load_weights(path), str(path), input_size))
    checkpoint = load_checkpoint(path)
    own = {
        name.removeprefix("model."): tensor
        for name, tensor in checkpoint.tensors.items()
        if not name.startswith("readout.")
    }
    model, readout = given.read(own, str(path), input_size)
    if readout is None:
        readout = own_readout(path, checkpoint, model)
    return ReadNetwork(model, _like(readout, model), checkpoint)


def _own_network(path: Path, given: GivenModel) -> ReadNetwork:
    checkpoint = load_checkpoint(path)
    model = checkpoint.build_model()
    if given.dtype is not None:
        model = model.to(getattr(torch, given.dtype))
    return ReadNetwork(model, _like(own_readout(path, checkpoint, model), model), checkpoint)


def _like(readout: Readout | None, model: Model) -> Readout | None:
    """Return a readout in the dtype of a model's weights."""
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
    return readout if readout is None or dtype is None else readout.to(dtype)


def own_readout(path: Path, checkpoint: Checkpoint, model: Model) -> Readout | None:
    """Return the readout in a checkpoint, None where it has none; raises ``CheckpointError``."""
    if (weight := checkpoint.tensors.get("readout.weight")) is None:
        return None
    if weight.ndim != 2:
        expected = f"a matrix as 'readout.weight' in {str(path)!r}"
        raise CheckpointError(mismatch("checkpoint", expected, f"shape {list(weight.shape)}"))
    reads = checkpoint.extra.get("reads", [0, model.width])
    places = isinstance(reads, list) and [place for place in reads if type(place) is int]
    if not places or len(reads) != 2 or places != reads or not 0 <= reads[0] < reads[1] <= model.width:
        expected = f"two places within the {model.width} of the state as 'reads'"
        raise CheckpointError(f"checkpoint: expected {expected} in {str(path)!r}, got {shown(reads)}")
    readout = Readout(model.width, weight.shape[0], hidden=slice(*reads), generator=0, dtype=weight.dtype)
    checkpoint.load_into(readout, "readout")
    return readout


def task_settings_of(checkpoint: Checkpoint | None, path: Path) -> tuple[str, dict[str, Any]]:
    """Return the name and settings of the task that a file names; raises ``ArgumentError``,
    ``CheckpointError``."""
    task = None if checkpoint is None else checkpoint.extra.get("task")
    if task is None:
        raise ArgumentError(mismatch("task", f"a task, as {str(path)!r} names none", "none"))
    kinds = {"name": str, "settings": dict}
    if not isinstance(task, dict) or not all(isinstance(task.get(n), kind) for n, kind in kinds.items()):
        raise CheckpointError(
            f"checkpoint: expected a name and settings as 'task' in {str(path)!r}, got {shown(task)}"
        )
    return task["name"], task["settings"]


def shown_path(path: str | Path) -> str:
    """Return a path as text that files can hold, whatever bytes are in it."""
    return os.fsencode(path).decode("utf-8", errors="replace")
