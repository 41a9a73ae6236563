"""Train the cells of a study, one after the other or in processes of their own."""

from __future__ import annotations

import os
import signal
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
from attrs import define

from kpframe.errors import MissingDependencyError, OutputError, say
from kpframe.plugin import PluginWarning
from kpframe.study._cells import Cell
from kpframe.study._disk.folder import RunWriter
from kpframe.study._running.interrupts import ended_by_signals
from kpframe.study._running.train_cell import train_cell
from kpframe.study._running.training import ProgressCallback
from kpframe.study._workers import workers

#: Seconds between two reports of a process.
EVERY = 0.2
#: Seconds that processes have to write what they go on from, when they are asked to end.
GRACE = 60.0

Tell = Callable[[str], None]


def train_cells(
    cells: Sequence[Cell],
    folder: RunWriter,
    jobs: int = 1,
    report: ProgressCallback | None = None,
    tell: Tell | None = None,
) -> dict[str, str]:
    """Train cells and write their files; a cell that cannot be trained leaves the others to go on.

    Args:
        cells: what is trained.
        folder: of the run.
        jobs: processes at the same time; 1 for none but this.
        report, tell: as of ``train_cell``.

    Returns:
        Label -> why, of the cells that came to no end: an error outside of the training itself, which is no
        outcome of it, and processes that were killed.

    Raises:
        OutputError: for a file that cannot be written; all processes have ended then.
        KeyboardInterrupt: at Ctrl-C, when all have written what they go on from.
    """
    if jobs > 1 and len(cells) > 1:
        return _Pool(cells, folder, min(jobs, len(cells)), report, tell).run()
    failures = {}
    for cell in cells:
        try:
            train_cell(cell, folder, report, tell)
        except OutputError:
            raise
        except Exception as error:
            failures[cell.label] = say(error)
    return failures


@define(eq=False)
class _Worker:
    """A process that trains one cell after the other."""

    process: Any
    connection: Connection
    cell: Cell | None = None


class _Pool:
    """Processes, and the cells that they have not taken yet."""

    def __init__(
        self,
        cells: Sequence[Cell],
        folder: RunWriter,
        jobs: int,
        report: ProgressCallback | None,
        tell: Tell | None,
    ) -> None:
        self.left, self.folder, self.jobs = list(cells), folder, jobs
        self.threads = max(1, workers() // jobs)
        self.report, self.tell = report, tell
        self.workers: list[_Worker] = []
        self.failures: dict[str, str] = {}

    def run(self) -> dict[str, str]:
        """Train all cells."""
        try:
            while self.left or self.workers:
                while self.left and len(self.workers) < self.jobs:
                    self.start()
                by_connection = {worker.connection: worker for worker in self.workers}
                for ready in wait(list(by_connection)):
                    self.hear(by_connection[ready])  # type: ignore[index]
        finally:
            self.end()
        return self.failures

    def start(self) -> None:
        """Start a process and give it a cell."""
        context = _context()
        here, there = context.Pipe()
        process = context.Process(
            target=_work, args=(there, self.folder, os.getpid(), self.threads), daemon=True
        )
        process.start()
        there.close()
        worker = _Worker(process, here)
        self.workers.append(worker)
        self.give(worker)

    def give(self, worker: _Worker) -> None:
        """Give a process the next cell; it ends where there is none."""
        worker.cell = self.left.pop(0) if self.left else None
        with suppress(OSError):  # it has died, which is heard next
            worker.connection.send(worker.cell)

    def hear(self, worker: _Worker) -> None:
        """Take what a process says."""
        try:
            kind, *content = worker.connection.recv()
        except (EOFError, OSError):
            self.bury(worker)
            return
        if kind == "report" and self.report is not None:
            self.report(*content)
        elif kind == "tell" and self.tell is not None:
            self.tell(*content)
        elif kind == "output":
            raise OutputError(*content)
        elif kind in ("done", "failed"):
            assert worker.cell is not None
            self.folder.spent += content[0]
            if kind == "failed":
                self.failures[worker.cell.label] = content[1]
            self.give(worker)

    def bury(self, worker: _Worker) -> None:
        """See that a process has ended; where it had a cell, that one came to no end."""
        worker.process.join()
        worker.connection.close()
        self.workers.remove(worker)
        if worker.cell is not None:
            self.failures[worker.cell.label] = _end_of(worker.process.exitcode)

    def end(self) -> None:
        """Ask all processes to end, and wait until they have."""
        for worker in self.workers:
            with suppress(OSError):
                os.kill(worker.process.pid, getattr(signal, "SIGTERM", signal.SIGINT))
        latest = time.monotonic() + GRACE
        try:
            for worker in self.workers:
                _drain(worker.connection, latest)
                worker.process.join(max(0.0, latest - time.monotonic()))
        finally:
            for worker in self.workers:
                if worker.process.exitcode is None:
                    worker.process.kill()
                worker.process.join()
                worker.connection.close()
            self.workers.clear()


def _drain(connection: Connection, latest: float) -> None:
    """Read what a process still says, so that it is not kept waiting, until it has closed its end."""
    with suppress(EOFError, OSError):
        while connection.poll(max(0.0, latest - time.monotonic())):
            connection.recv()


def _end_of(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        hint = "; there may be too little memory for so many jobs" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{hint}"
    return f"its process ended with exit code {code}"


def _context() -> Any:
    """Return what starts processes that do not run the main module once more.

    Raises:
        MissingDependencyError: without joblib.
    """
    try:
        from joblib.externals.loky.backend import get_context  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingDependencyError(
            "jobs: expected joblib, which starts processes, got none; pip install 'kpframe[study]'"
        ) from error
    return get_context("loky")


# -- in the process ------------------------------------------------------------------------------------------


def _work(connection: Connection, folder: RunWriter, parent: int, threads: int) -> None:
    """Train cells that come through a connection, until there is none or the parent is gone."""
    warnings.simplefilter("ignore", PluginWarning)  # the parent has said it
    torch.set_num_threads(threads)
    heard, counted = 0.0, 0.0

    def spent() -> float:
        """Return the processor time since it was last asked for [s]."""
        nonlocal counted
        before, counted = counted, time.process_time()
        return counted - before

    def report(label: str, made: int, total: int, loss: float, doing: str = "", /) -> None:
        nonlocal heard
        if os.getppid() != parent:  # another process may write the folder now
            os._exit(1)
        if doing or made == total or time.monotonic() > heard + EVERY:
            connection.send(("report", label, made, total, loss, doing))
            heard = time.monotonic()

    with suppress(KeyboardInterrupt, BrokenPipeError, EOFError), ended_by_signals(alone=False):
        while (cell := connection.recv()) is not None:
            try:
                train_cell(cell, folder, report, lambda text: connection.send(("tell", text)))
            except BrokenPipeError:
                raise
            except OutputError as error:
                connection.send(("output", str(error)))
                return
            except Exception as error:
                connection.send(("failed", spent(), say(error)))
            else:
                connection.send(("done", spent()))
