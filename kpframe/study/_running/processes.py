"""Train the cells of a study, one after the other or in processes of their own."""

from __future__ import annotations

import os
import signal
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
from attrs import define

from kpframe.errors import OutputError, say
from kpframe.plugin import PluginWarning
from kpframe.study._cells import Cell
from kpframe.study._disk.folder import RunWriter
from kpframe.study._helper import Helper, Helpers
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
    helpers: Helpers | None = None,
) -> dict[str, str]:
    """Train cells and write their files; a cell that cannot be trained leaves the others to go on.

    Args:
        cells: what is trained.
        folder: of the run.
        jobs: processes at the same time; 1 for none but this.
        report, tell: as of ``train_cell``.
        helpers: processes that wait for something to do; they train cells beside this one, and wait again.

    Returns:
        Label -> why, of the cells that came to no end: an error outside of the training itself, which is no
        outcome of it, and processes that were killed.

    Raises:
        OutputError: for a file that cannot be written; all processes have ended then.
        KeyboardInterrupt: at Ctrl-C, when all have written what they go on from.
    """
    if jobs > 1 and len(cells) > 1:
        return _Pool(cells, folder, min(jobs, len(cells)), report, tell).run()
    if helpers and len(cells) > 1:
        return _Pool(cells, folder, 0, report, tell, helpers).run()
    failures: dict[str, str] = {}
    for cell in cells:
        _train_one(cell, folder, report, tell, failures)
    return failures


def _train_one(
    cell: Cell,
    folder: RunWriter,
    report: ProgressCallback | None,
    tell: Tell | None,
    failures: dict[str, str],
) -> None:
    """Train a cell here; note it where it comes to no end."""
    try:
        train_cell(cell, folder, report, tell)
    except OutputError:
        raise
    except Exception as error:
        failures[cell.label] = say(error)


@define(eq=False)
class _Worker:
    """A process that trains one cell after the other."""

    helper: Helper
    given: bool
    cell: Cell | None = None


class _Pool:
    """Processes, and the cells that they have not taken yet.

    Args:
        jobs: processes that are made here.
        helpers: processes that are there already; with them this process trains cells, too.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        folder: RunWriter,
        jobs: int,
        report: ProgressCallback | None,
        tell: Tell | None,
        helpers: Helpers | None = None,
    ) -> None:
        self.left, self.folder, self.jobs, self.helpers = list(cells), folder, jobs, helpers or Helpers()
        self.threads = max(1, workers() // (jobs or 1))
        self.report, self.tell = report, tell
        self.workers: list[_Worker] = []
        self.failures: dict[str, str] = {}

    def run(self) -> dict[str, str]:
        """Train all cells."""
        try:
            for helper in self.helpers.every[: len(self.left) - 1]:
                self.employ(helper, given=True)
            if self.helpers:
                self.train_here()
            while self.left or self.workers:
                while self.left and len(self.workers) < self.jobs:
                    self.employ(Helper(), given=False)
                self.listen(0 if self.helpers.load() else None)
        finally:
            self.end()
        return self.failures

    def train_here(self) -> None:
        """Train cells in this process, and hear the others between two updates."""

        def report(*args: Any) -> None:
            if self.report is not None:
                self.report(*args)
            self.listen(0)

        while self.left:
            _train_one(self.left.pop(0), self.folder, report, self.tell, self.failures)

    def employ(self, helper: Helper, *, given: bool) -> None:
        """Give a process a cell."""
        helper.ask(partial(_work, self.folder, self.threads))
        self.workers.append(worker := _Worker(helper, given))
        self.give(worker)

    def give(self, worker: _Worker) -> None:
        """Give a process the next cell; it ends where there is none, unless it was there before."""
        worker.cell = self.left.pop(0) if self.left else None
        with suppress(OSError):  # it has died, which is heard next
            worker.helper.connection.send(worker.cell)
            if worker.cell is None and not worker.given:
                worker.helper.connection.send(None)
        if worker.cell is None and worker.given:
            self.workers.remove(worker)

    def listen(self, timeout: float | None) -> None:
        """Hear what processes say, for so many seconds at most; None until one says something."""
        by_connection = {worker.helper.connection: worker for worker in self.workers}
        for ready in wait(list(by_connection), timeout):
            self.hear(by_connection[ready])

    def hear(self, worker: _Worker) -> None:
        """Take what a process says."""
        try:
            kind, *content = worker.helper.connection.recv()
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
        worker.helper.process.join()
        worker.helper.end()
        self.workers.remove(worker)
        if worker.cell is not None:
            self.failures[worker.cell.label] = _end_of(worker.helper.process.exitcode)

    def end(self) -> None:
        """Ask all processes to end, and wait until they have."""
        every = [worker.helper for worker in self.workers]
        for helper in every:
            with suppress(OSError):
                os.kill(helper.process.pid, getattr(signal, "SIGTERM", signal.SIGINT))
        latest = time.monotonic() + GRACE
        try:
            for helper in every:
                _drain(helper.connection, latest)
                helper.process.join(max(0.0, latest - time.monotonic()))
        finally:
            for helper in every:
                helper.end()
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


# -- in the process ------------------------------------------------------------------------------------------


def _work(folder: RunWriter, threads: int, connection: Connection) -> None:
    """Train cells that come through a connection, until there is none."""
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
        if doing or made == total or time.monotonic() > heard + EVERY:
            connection.send(("report", label, made, total, loss, doing))
            heard = time.monotonic()

    with ended_by_signals(alone=False):
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
