"""Train the cells of a study as jobs of their own, by submitit: on a cluster, or on this machine.

A job says how far it is, and how it ended, in a small JSON file of its own. submitit keeps what it pickles,
and the logs, in a folder beside that of the run (``RUN.jobs``); nothing there is unpickled by this process,
and what has done its work is removed.
"""

from __future__ import annotations

import json
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from types import FrameType
from typing import Any

import torch
from attrs import define

from kpframe.errors import MissingDependencyError, OutputError, say
from kpframe.plugin import PluginWarning
from kpframe.study._cells import Cell
from kpframe.study._disk.files import write_text
from kpframe.study._disk.folder import RunWriter
from kpframe.study._running.executor import LOCAL, Executor
from kpframe.study._running.interrupts import ended_by_signals
from kpframe.study._running.job_files import JOBS, jobs_folder, read_said
from kpframe.study._running.processes import GRACE, Tell
from kpframe.study._running.train_cell import train_cell
from kpframe.study._running.training import ProgressCallback
from kpframe.study._workers import workers

#: Seconds between two looks at the files of jobs, and between two reports of a job.
LOOK, EVERY = 0.5, 2.0
#: Seconds that the last report of a job may take to arrive over a file system of a network.
ARRIVAL = 10.0
#: Name of the file that says which process follows the jobs: those of another end themselves.
SESSION = "session"


def train_as_jobs(
    cells: Sequence[Cell],
    folder: RunWriter,
    executor: Executor,
    report: ProgressCallback | None = None,
    tell: Tell | None = None,
) -> dict[str, str]:
    """Train cells as jobs; one that ends without a result leaves the others to go on.

    Args:
        cells: what is trained.
        folder: of the run.
        executor: what makes the jobs.
        report, tell: as of ``train_cells``.

    Returns:
        Label -> why, with the log, of the cells that came to no end.

    Raises:
        MissingDependencyError: without submitit.
        OutputError: for a file that cannot be written; all jobs are cancelled then.
        KeyboardInterrupt: at Ctrl-C, when all jobs are cancelled and have written what they go on from.
    """
    return _Jobs(folder, executor, report, tell).run(cells)


@define(eq=False)
class _Job:
    """A job that is queued or runs."""

    cell: Cell
    handle: Any  # of submitit
    said: str = ""  # what it reported last
    told: int = 0  # lines that it told and were passed on
    gone: float | None = None  # when it was first seen to have ended without saying so


class _Jobs:
    """The jobs of a run."""

    def __init__(
        self,
        folder: RunWriter,
        executor: Executor,
        report: ProgressCallback | None,
        tell: Tell | None,
    ) -> None:
        self.folder, self.place = folder, jobs_folder(folder.path)
        self.local, jobs = executor.kind == LOCAL, executor.jobs or 1
        self.limit = jobs if self.local else None
        self.threads = max(1, workers() // jobs) if self.local else executor.settings.cpus
        self.report, self.tell = report, tell
        self.session = token_hex(8)
        self.executor = _submitit(executor, self.place)
        self.under_way: list[_Job] = []
        self.failures: dict[str, str] = {}

    def run(self, cells: Sequence[Cell]) -> dict[str, str]:
        """Train all cells."""
        self.place.mkdir(parents=True, exist_ok=True)
        write_text(self.place / SESSION, self.session)  # jobs of a session before end themselves
        left = list(cells)
        try:
            while left or self.under_way:
                free = len(left) if self.limit is None else self.limit - len(self.under_way)
                self.submit(left[: max(0, free)])
                del left[: max(0, free)]
                for job in [*self.under_way]:
                    self.look(job)
                if self.under_way:
                    time.sleep(LOOK)
        finally:
            self.cancel()
        return self.failures

    def submit(self, cells: Sequence[Cell]) -> None:
        """Submit cells, in one array of jobs where the cluster has them."""
        if not cells:
            return
        handles = []
        for cell in cells:
            write_text(self.place / f"{cell.name}.json", json.dumps({"state": "queued"}))
        with self.executor.batch(), _ignored_by_children():
            for cell in cells:
                file = self.place / f"{cell.name}.json"
                handles.append(
                    self.executor.submit(work, cell, self.folder, file, self.session, self.threads)
                )
        self.under_way += [_Job(cell, handle) for cell, handle in zip(cells, handles, strict=True)]
        self.list_jobs()

    def list_jobs(self) -> None:
        """Write which jobs there are, for whoever asks how far the run is."""
        numbers = {job.cell.name: str(job.handle.job_id) for job in self.under_way}
        write_text(self.place / JOBS, json.dumps(numbers))

    def look(self, job: _Job) -> None:
        """Take what a job says, or that it has ended."""
        ended = bool(job.handle.done())  # before its file is read, which it writes last
        said = read_said(self.place / f"{job.cell.name}.json")
        lines = said.get("lines", [])
        for line in lines[job.told :]:
            if self.tell is not None:
                self.tell(line)
        job.told = max(job.told, len(lines))
        progress = said.get("progress")
        if progress and json.dumps(progress) != job.said:
            job.said = json.dumps(progress)
            if self.report is not None:
                self.report(job.cell.label, *progress)
        state = said.get("state")
        if state == "output":
            raise OutputError(f"{said.get('reason')}; the log of the job is {self.log(job)}")
        over = state in ("done", "failed")
        if not (over or ended):
            return
        job.gone = job.gone or time.monotonic()
        patience = ARRIVAL if not self.local else GRACE if over else 2 * LOOK
        waited = time.monotonic() > job.gone + patience
        if over and (ended or waited):
            self.end(job, None if state == "done" else str(said.get("reason")))
        elif not over and waited:
            self.end(job, f"its job {job.handle.job_id} ended without a result ({self.state(job)})")

    def end(self, job: _Job, reason: str | None = None) -> None:
        """See a job off; its log stays where it failed, and what was pickled goes."""
        self.under_way.remove(job)
        paths = job.handle.paths
        if reason is not None:
            self.failures[job.cell.label] = f"{reason}; its log is {self.log(job)}"
        if not self.local or job.handle.done():
            _remove(paths.submitted_pickle, paths.result_pickle, paths.submission_file)
            if reason is None:
                _remove(paths.stdout, paths.stderr)
        _remove(self.place / f"{job.cell.name}.json")
        self.list_jobs()

    def cancel(self) -> None:
        """Cancel all jobs and wait until those that run have written what they go on from."""
        _remove(self.place / SESSION)  # those that run end themselves with their next report
        for job in self.under_way:
            with suppress(Exception):  # the cluster may be out of reach; a job sees to itself
                if self.local:
                    job.handle._process.terminate()
                else:
                    job.handle.cancel(check=False)
        latest = time.monotonic() + GRACE
        for job in [*self.under_way]:
            while self.local and not job.handle.done() and time.monotonic() < latest:
                time.sleep(LOOK / 5)
            self.end(job)
        _remove(self.place / JOBS)
        with suppress(OSError):
            self.place.rmdir()  # where nothing is left to read

    def log(self, job: _Job) -> Path:
        """Return where a job logs."""
        path: Path = job.handle.paths.stderr
        return path

    def state(self, job: _Job) -> str:
        """Return what submitit says of a job that is gone."""
        try:
            state = str(job.handle.state)
        except Exception as error:  # the cluster is out of reach
            return say(error)
        code = getattr(getattr(job.handle, "_process", None), "returncode", None)
        return f"{state}, exit code {code}" if code else state


def _submitit(executor: Executor, place: Path) -> Any:
    """Return what submits jobs.

    Raises:
        MissingDependencyError: without submitit; with it but without Slurm.
    """
    try:
        import submitit
    except ImportError as error:
        raise MissingDependencyError(
            f"executor {executor.kind!r}: expected submitit, which submits jobs, got none; "
            "pip install 'kpframe[cluster]'"
        ) from error
    settings = executor.settings
    if executor.kind == LOCAL:
        local = submitit.LocalExecutor(folder=place)
        local.update_parameters(timeout_min=settings.minutes, signal_delay_s=30, setup=[*settings.setup])
        return local
    if submitit.SlurmExecutor.affinity() < 0:
        raise MissingDependencyError(
            "executor 'slurm': expected a machine from which Slurm takes jobs, got one without srun; run "
            "this where jobs are submitted, or take executor 'processes'"
        )
    made = submitit.SlurmExecutor(folder=place)
    made.update_parameters(job_name="kpframe", signal_delay_s=90, **settings.slurm(executor.jobs))
    return made


@contextmanager
def _ignored_by_children() -> Iterator[None]:
    """Let processes that are started inside leave Ctrl-C to this one, which passes it on."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _remove(*paths: Path) -> None:
    for path in paths:
        with suppress(OSError):
            path.unlink(missing_ok=True)


# -- in the job ----------------------------------------------------------------------------------------------


def work(cell: Cell, folder: RunWriter, file: Path, session: str, threads: int) -> None:
    """Train a cell in a job, and say in a file how far it is and how it ended."""
    warnings.simplefilter("ignore", PluginWarning)  # what submitted the job has said it
    torch.set_num_threads(threads)
    said: dict[str, Any] = {"state": "running", "lines": []}
    heard = time.monotonic() - EVERY

    def say_it(**more: Any) -> None:
        said.update(more)
        if of_this_session():
            write_text(file, json.dumps(said))

    def of_this_session() -> bool:
        """Whether the run is still that of what submitted the job; another process may write it now."""
        try:
            return (file.parent / SESSION).read_text(encoding="utf-8") == session
        except OSError:
            return False

    def report(label: str, made: int, total: int, loss: float, doing: str = "", /) -> None:
        nonlocal heard
        if doing or made == total or time.monotonic() > heard + EVERY:
            heard = time.monotonic()
            if not of_this_session():
                raise KeyboardInterrupt
            say_it(progress=[made, total, loss, doing])

    def tell(text: str) -> None:
        say_it(lines=[*said["lines"], text])

    def end(number: int, frame: FrameType | None) -> None:
        ended_by.append(signal.Signals(number).name)
        raise KeyboardInterrupt

    ended_by: list[str] = []
    if not of_this_session():
        return
    say_it()
    try:
        with ended_by_signals(alone=False):
            for name in ("SIGUSR2", "SIGTERM"):  # the time is up, or another job comes first
                if hasattr(signal, name):
                    signal.signal(getattr(signal, name), end)
            train_cell(cell, folder, report, tell)
    except OutputError as error:
        say_it(state="output", reason=str(error))
    except KeyboardInterrupt:
        how = f" by {ended_by[0]}" if ended_by else ""
        why = f"its job was ended{how}: cancelled, preempted, or its time was up"
        say_it(state="failed", reason=f"{why}; it goes on from there")
    except Exception as error:
        say_it(state="failed", reason=say(error))
        raise
    else:
        say_it(state="done")
