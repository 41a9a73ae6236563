"""Run a study: train its cells, merge their records; go on with a run that was ended."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import xarray as xr

from kpframe.errors import ArgumentError, KpframeError, mismatch, whole
from kpframe.study._cells import Cell, described_cells, expand
from kpframe.study._disk.files import write_text
from kpframe.study._disk.folder import STUDIES, STUDY, RunFolder, again, resume_command
from kpframe.study._helper import Helpers
from kpframe.study._ranks.measure import check_on_ranks
from kpframe.study._reading.merge import merged, record_of
from kpframe.study._running.build import network_of, quantities_of, task_of
from kpframe.study._running.executor import Executor
from kpframe.study._running.interrupts import ended_by_signals
from kpframe.study._running.jobs import train_as_jobs
from kpframe.study._running.processes import Tell, train_cells
from kpframe.study._running.training import ProgressCallback
from kpframe.study._settings import StudySettings
from kpframe.study._study_file.check import check_study
from kpframe.study._study_file.reading import parse_study, to_table

#: Bytes that the record of a step takes at least, beside the network.
LEAST = 30_000


def run_study(
    study: StudySettings,
    output: Path | RunFolder,
    *,
    jobs: int = 1,
    executor: Executor | None = None,
    overwrite: bool = False,
    report: ProgressCallback | None = None,
    tell: Tell | None = None,
    helpers: Helpers | None = None,
) -> xr.Dataset:
    """Run a study and write its files below ``output``; an unfinished run of the same study goes on.

    A training that diverges or fails is recorded as such, and the others go on; a quantity that cannot be
    measured costs its own figures, which are NaN.

    Args:
        study: what is trained and recorded.
        output: folder to write into, made when it does not exist; or one that is held (see ``study_folder``).
        jobs: trainings at the same time, each in a process of its own.
        executor: makes a job of each training instead, on a cluster or here, and says how many at a time.
        overwrite: replace the run that the folder holds.
        report: called after each update, and before a step is recorded.
        tell: called with a line for each file that was found damaged and is made anew; by default
            ``report.tell`` where there is one, and else a warning.
        helpers: processes that wait for something to do, which train beside this one where ``jobs`` is 1.

    Returns:
        The dataset of ``results.nc``: see ``merged``.

    Raises:
        SettingsError: for what is impossible, before any training.
        OutputError: for a folder that cannot be written or holds another run.
        KpframeError: for trainings that came to no end, as their processes were killed; all that there is is
            written, and the run can be resumed.
        KeyboardInterrupt: at Ctrl-C, when all is written that the run goes on from.
    """
    jobs = whole(jobs, "jobs")
    if isinstance(output, Path):
        with study_folder(study, output, overwrite=overwrite) as folder:
            return run_study(
                study, folder, jobs=jobs, executor=executor, report=report, tell=tell, helpers=helpers
            )
    cells = [cell for cell in expand(study) if cell.same_as is None]
    for cell in {repr(cell.quantities): cell for cell in cells}.values():
        check_on_ranks(quantities_of(cell))
    tell = tell or getattr(report, "tell", _warn)
    with ended_by_signals():
        if executor is None:
            failures = train_cells(cells, output.writer(), jobs, report, tell, helpers)
        else:
            failures = train_as_jobs(cells, output.writer(), executor, report, tell)
        if len(failures) < len(cells):
            data = merged(output.path)
            output.write_results(data)
    if failures:
        listed = "; ".join(f"{label}: {reason}" for label, reason in failures.items())
        raise KpframeError(
            f"{len(failures)} of {len(cells)} trainings came to no end ({listed}); "
            f"{resume_command(output.path)} goes on with them"
        )
    data.attrs = output.attributes_of(data)
    return data


def study_folder(
    study: StudySettings,
    output: Path,
    *,
    command: str = "run",
    overwrite: bool = False,
    mend: bool = False,
) -> RunFolder:
    """Return the folder of a study, to be entered with ``with``.

    All that is impossible in the study is known before.

    Args:
        study: what is trained and recorded.
        output: the folder.
        command: what runs, one of ``STUDIES``.
        overwrite: replace the run that the folder holds.
        mend: keep this run though it is finished, to make files anew that are missing or damaged.

    Raises:
        SettingsError: for what is impossible.
        OutputError: on entering, as ``RunFolder``.
    """
    check_study(study)
    cells = expand(study)
    return RunFolder(
        output,
        command,
        to_table(study),
        title=study.title,
        seed=study.seeds[0],
        overwrite=overwrite,
        needed=_needed(cells),
        cells=described_cells(cells),
        mend=mend,
    )


def resume_run(
    path: Path,
    *,
    jobs: int = 1,
    executor: Executor | None = None,
    report: ProgressCallback | None = None,
    tell: Tell | None = None,
) -> xr.Dataset:
    """Go on with the run in a folder, and make files anew that are damaged or missing; as ``run_study``.

    Raises:
        ArgumentError: for a folder that holds no run that can be gone on with.
    """
    study, folder = resumed_folder(path)
    with folder:
        return run_study(study, folder, jobs=jobs, executor=executor, report=report, tell=tell)


def resumed_folder(path: Path) -> tuple[StudySettings, RunFolder]:
    """Return the study of the run in a folder, and the folder, to be entered with ``with``.

    Raises:
        ArgumentError: for a folder that holds no run that can be gone on with; says what is to be done.
    """
    record = record_of(path)
    if record["command"] not in STUDIES:
        raise ArgumentError(
            mismatch(
                "run",
                f"one of kpframe {' or '.join(STUDIES)}",
                f"{str(path)!r}, of kpframe {record['command']}, which "
                f"{again(record['command'], path)} goes on with",
            )
        )
    study = parse_study(record["settings"], str(path))
    return study, study_folder(study, path, command=record["command"], mend=True)


def keep_study(folder: RunFolder, text: str) -> None:
    """Write the file of a study, as it was given, into the folder of its run."""
    if not folder.resumed:
        write_text(folder.path / STUDY, text)


def _needed(cells: Sequence[Cell]) -> int:
    """Return how many bytes the files of cells take at least."""
    sizes: dict[str, int] = {}
    total = 0
    for cell in cells:
        key = repr((cell.network, cell.task, cell.task_settings, cell.dtype))
        if key not in sizes:
            parts = network_of(cell, task_of(cell))
            sizes[key] = sum(t.nbytes for part in parts for t in part.state_dict().values())
        total += (sizes[key] + LEAST) * len(cell.steps)
    return total


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=2)
