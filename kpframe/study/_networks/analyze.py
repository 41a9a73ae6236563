"""Record networks that were trained elsewhere, at the steps of which there are checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import xarray as xr

from kpframe.errors import ArgumentError, mismatch
from kpframe.study._cells import record_file
from kpframe.study._disk.folder import RunFolder, read_record
from kpframe.study._disk.results import read_attributes
from kpframe.study._moment import OPERATORS
from kpframe.study._networks.analysis import Analysis
from kpframe.study._networks.analyzed_cell import AnalyzedCell
from kpframe.study._networks.given_model import Factory, GivenModel
from kpframe.study._networks.sources import find_cells
from kpframe.study._ranks.measure import check_on_ranks
from kpframe.study._reading.merge import merged
from kpframe.study._record import record
from kpframe.study._workers import torch_threads

#: Called before a network is recorded: with what it is, how many were recorded, and how many there are.
Report = Callable[[str, int, int], None]
#: Bytes that the numbers of a network at a step take at least.
LEAST = 30_000


def analyze(
    source: str | Path,
    output: str | Path = "kpframe-analyze",
    *,
    model: Factory | None = None,
    settings: Mapping[str, Any] | None = None,
    renames: Mapping[str, str] | Sequence[tuple[str, str]] = (),
    ignore: Sequence[str] = (),
    readout: str | None = None,
    reads: str | None = None,
    dtype: str | None = None,
    task: str | None = None,
    task_settings: Mapping[str, Any] | None = None,
    inputs: str | Path | None = None,
    sets: Sequence[str] = ("test",),
    operators: Sequence[str] = OPERATORS,
    quantities: Sequence[str] | None = None,
    trials: int = 24,
    budget: int = 60,
    seed: int | None = None,
    overwrite: bool = False,
    report: Report | None = None,
) -> xr.Dataset:
    """Record the operators of a trained network, or of a training at the steps of its checkpoints.

    Writes ``steps/<name>-<step>.nc`` for each checkpoint and ``results.nc`` with all of them, along ``step``.
    Steps whose file is there are not recorded again, so that the same call goes on where one was ended.

    Args:
        source: a checkpoint (``.safetensors``, ``.pt``, ``.pth``, ``.ckpt``), a folder of them with step
            numbers in their names, or the folder of a run of kpframe. kpframe's own files say what model they
            are of.
        output: the folder to write into.
        model: for files of other programs: a registered name, ``"module:factory"``, or a function that
            returns a ``kpframe.Model`` or a module that ``kpframe.wrap`` takes as it is.
        settings: keywords of the model.
        renames: how names of weights begin in the files -> in the module; whole names, too.
        ignore: fronts of names in the files that are no part of the network.
        readout: front of the names of a linear readout in the files, ``"head"``; kpframe's own is known.
        reads: component of the state that it reads, where several have its width.
        dtype: ``"float32"`` or ``"float64"``; that of the weights, at least ``"float32"``, when left out.
        task: along whose trials operators are built; kpframe's own files name theirs.
        task_settings: keywords of the task.
        inputs: a file of inputs instead, ``.npy``, ``.npz`` or ``.safetensors``; targets may be in it, too.
        sets: trials of which sets of the task, ``"test"`` and ``"train"``.
        operators: products of P, K, Phi, J, G and their adjoints.
        quantities: what is recorded, ``"spectrum(k=10)"``; when left out what a study records, as far as
            files and inputs allow it. What is left out is told in the attribute ``left_out`` of the result.
        trials: of each set; of a file of inputs, all are taken.
        budget: operator products for each estimate.
        seed: of trials and probes; that of kpframe's own files, else 0, when left out.
        overwrite: replace the run that the folder holds.
        report: called before a network is recorded.

    Returns:
        The dataset of ``results.nc``; a quantity that could not be measured at a step is NaN there, and
        ``quantity_failure`` says why.

    Raises:
        CheckpointError: for a source without checkpoints, files that are damaged or of another architecture,
            and steps that are not clear.
        ArgumentError: (of which SettingsError, UnknownNameError's kin) for what does not go together, before
            anything is recorded.
        OutputError: for a folder that cannot be written or holds another run.
    """
    pairs = list(renames.items()) if isinstance(renames, Mapping) else list(renames)
    analysis = Analysis(
        Path(source),
        GivenModel(model, settings or {}, pairs, ignore, readout, reads, dtype),
        task,
        task_settings or {},
        None if inputs is None else Path(inputs),
        sets,
        operators,
        quantities,
        trials,
        budget,
        seed,
    )
    return run_analysis(analysis, Path(output), overwrite=overwrite, report=report)


def run_analysis(
    analysis: Analysis,
    output: Path,
    *,
    overwrite: bool = False,
    mend: bool = False,
    report: Report | None = None,
) -> xr.Dataset:
    """Record what an analysis is of; see ``analyze``.

    Args:
        analysis: what is recorded.
        output: the folder to write into.
        overwrite: replace the run that the folder holds.
        mend: keep this run though it is finished, to make files anew that are missing or damaged.
        report: called before a network is recorded.
    """
    with torch_threads(1):  # small networks lose more to waiting threads than they gain
        analysis.made_quantities()  # what is asked for is known before files are read
        cells = find_cells(analysis.source)
        found = [AnalyzedCell.of(cell, analysis) for cell in cells if cell.same_as is None]
        for one in found:
            check_on_ranks(one.quantities)
        names = ", ".join(str(cell.coordinates["network"]) for cell in cells[:3])
        folder = RunFolder(
            output,
            "analyze",
            analysis.to_settings(cells),
            title=f"{names}{', ...' if len(cells) > 3 else ''}, analyzed",
            seed=found[0].around.seed,
            overwrite=overwrite,
            mend=mend,
            needed=LEAST * sum(len(cell.files) for cell in cells),
            cells=[
                {
                    "name": cell.name,
                    "coordinates": dict(cell.coordinates),
                    "steps": [file.step for file in cell.files],
                    "initial_of": None,
                    "same_as": cell.same_as,
                }
                for cell in cells
            ],
        )
        with folder:
            _record_all(found, folder, report)
            quantities = {one.source.name: one.quantities for one in found}
            data = merged(output, quantities.__getitem__)
            left_out = "; ".join(dict.fromkeys(one.left_out for one in found if one.left_out))
            if left_out:
                data.attrs["quantities_left_out"] = left_out
            folder.write_results(data)
    return data


def resume_analysis(path: Path, report: Report | None = None) -> xr.Dataset:
    """Go on with the analysis that a folder holds; raises ``ArgumentError``, and as ``analyze``."""
    record = read_record(path)
    if record is None or record["command"] != "analyze":
        raise ArgumentError(mismatch("path", "the folder of an analysis", repr(str(path))))
    return run_analysis(Analysis.from_settings(record["settings"]), path, mend=True, report=report)


def _record_all(cells: Sequence[AnalyzedCell], folder: RunFolder, report: Report | None) -> None:
    every = [(cell, place) for cell in cells for place in range(len(cell.source.files))]
    for done, (cell, place) in enumerate(every):
        file = cell.source.files[place]
        path = record_file(cell.source.name, file.step)
        if _there(folder, cell.source.name, folder.path / path):
            continue
        if report is not None:
            report(f"recording {cell.source.coordinates['network']}, step {file.step}", done, len(every))
        cell.forget(place - 1)
        data = record(cell.moment(place), cell.quantities)
        folder.write_dataset(path, data, cell=cell.source.name, step=file.step)


def _there(folder: RunFolder, name: str, path: Path) -> bool:
    """Return whether a record is there, whole and of this run."""
    with suppress(ArgumentError):
        attributes = read_attributes(path)
        return (attributes.get("run_id"), attributes.get("cell")) == (folder.id, name)
    return False
