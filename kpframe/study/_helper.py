"""``Helper``: a process that is started before there is anything to do, and imports meanwhile what it needs.

This module imports no torch: a command starts its helpers before it imports what takes seconds itself.
"""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from kpframe.errors import MissingDependencyError

Result = TypeVar("Result")

#: What a helper does: it is called there with its end of the connection.
Task = Callable[[Connection], None]


class Helper:
    """A process that does one task after the other, until its connection is closed or ``None`` comes.

    Args:
        *modules: imported one after the other while there is nothing to do.

    Attributes:
        process, connection: its own.

    Raises:
        MissingDependencyError: without joblib, which starts it.
    """

    def __init__(self, *modules: str) -> None:
        context = _context()
        self.connection, there = context.Pipe()
        self._life, ours = context.Pipe()
        self.process = context.Process(target=_serve, args=(there, ours, modules), daemon=True)
        with _interrupts_later():  # none ends it while Python starts
            self.process.start()
        there.close()
        ours.close()

    def ask(self, task: Task) -> None:
        """Give it a task; where it has died, that is seen by who listens next."""
        with suppress(OSError):
            self.connection.send(task)

    @property
    def ended(self) -> bool:
        """Whether it is known to have ended."""
        return bool(self.connection.closed)

    def end(self) -> None:
        """End it, whatever it does; once more does nothing."""
        if not self.ended:
            self.connection.close()
            self._life.close()
            if self.process.exitcode is None:
                os.kill(self.process.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
            self.process.join()


class Helpers:
    """Helpers beside this process, which imports the same while it waits for them.

    Args:
        every: of them, none by default.
        modules: imported by ``load``, one after the other.
    """

    def __init__(self, every: Sequence[Helper] = (), modules: Sequence[str] = ()) -> None:
        self.every, self._later = tuple(every), deque(modules)

    def __len__(self) -> int:
        return len(self.every)

    def load(self) -> bool:
        """Import the next of the modules; return whether there was one."""
        return _load_next(self._later)

    def share(self, tasks: Sequence[Callable[[], Result]]) -> list[Result]:
        """Return what tasks give, done by the helpers and here; here alone where there are none.

        What a helper cannot do, or has died of, is done here once more: an error is raised as it would be
        here, and ends the helpers that are still at a task.

        Args:
            tasks: can be pickled, as what they give.
        """
        left, found, given = deque(range(len(tasks))), dict[int, Result](), dict[Helper, int]()

        def hand_out(helper: Helper) -> None:
            if left:
                given[helper] = left.pop()
                helper.ask(partial(_answer, tasks[given[helper]]))

        try:
            for helper in self.every:
                if not helper.ended:
                    hand_out(helper)
            while left or given:
                for helper in list(given):
                    if left and not helper.connection.poll():
                        continue
                    place = given.pop(helper)
                    try:
                        done, answer = helper.connection.recv()
                    except (EOFError, OSError):
                        found[place] = tasks[place]()
                        continue
                    found[place] = answer if done else tasks[place]()
                    hand_out(helper)
                if left:
                    place = left.popleft()
                    found[place] = tasks[place]()
        finally:
            for helper in given:  # after an error: what it has yet to say would be the next task's answer
                helper.end()
        return [found[place] for place in range(len(tasks))]


@contextmanager
def helpers(*modules: str) -> Iterator[Helpers]:
    """Yield helpers for the other processors, which import modules meanwhile, and end them afterwards.

    It is one where there are several, as studies of few networks have no work for more. There is none where
    this process is to have one thread (``OMP_NUM_THREADS=1``) or is one of several ranks, nor where none can
    be started.
    """
    every = []
    if os.environ.get("WORLD_SIZE", "1") == "1":
        with suppress(ImportError, OSError, MissingDependencyError):
            every = [Helper(*modules)] if _processors() > 1 else []
    try:
        yield Helpers(every, modules)
    finally:
        for helper in every:
            helper.end()


def _load_next(modules: deque[str]) -> bool:
    """Import the next module; return whether there was one."""
    if not modules:
        return False
    with suppress(ImportError):  # who needs it will say so
        import_module(modules.popleft())
    return True


def _processors() -> int:
    """Return how many threads this process may have, without asking torch."""
    from joblib.externals.loky.backend.context import cpu_count  # type: ignore[import-untyped]

    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(int(cpu_count()), int(asked)) if asked.isdecimal() else int(cpu_count())


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


@contextmanager
def _interrupts_later() -> Iterator[None]:
    """Hold Ctrl-C back, here and in a process that is started inside, which lets it through itself."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# -- in the process ------------------------------------------------------------------------------------------


def _serve(connection: Connection, life: Connection, modules: Sequence[str]) -> None:
    """Do the tasks that come through a connection; Ctrl-C is the other end's to see to."""
    threading.Thread(target=_end_with, args=(life,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    later = deque(modules)
    with suppress(KeyboardInterrupt, EOFError, OSError):
        while True:
            gc.disable()  # what modules make stays
            while not connection.poll() and _load_next(later):
                pass
            gc.freeze()
            gc.enable()
            if (task := connection.recv()) is None:
                return
            task(connection)


def _end_with(life: Connection) -> None:
    """End this process at once when the other one is gone: what it wrote to may be another's by then."""
    with suppress(EOFError, OSError):
        life.recv_bytes()
    os._exit(1)


def _answer(task: Callable[[], object], connection: Connection) -> None:
    try:
        answer = (True, task())
    except Exception:  # it is done once more at the other end
        answer = (False, None)
    connection.send(answer)
