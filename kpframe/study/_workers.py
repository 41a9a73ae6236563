"""Several things done at once, in threads: while one is inside a product, Python is free for the others.

One thread inside each operation of torch, whatever was set before: sums have one order, and figures do not
depend on how many threads there are.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from typing import Generic, TypeVar

import torch

from kpframe.operators._count import broken_off

Result = TypeVar("Result")

#: Seconds after which the caller looks for a signal, which ends its wait at once but for a rare race.
WAKE = 1.0

_inside = threading.local()
_allowed = 0


def workers() -> int:
    """Return how many threads may work at once: as many as torch uses, or used before ``torch_threads``."""
    return max(_allowed, torch.get_num_threads())


@contextmanager
def torch_threads(count: int, at_once: int | None = None) -> Iterator[None]:
    """Let torch use so many threads inside an operation.

    Args:
        count: threads inside an operation.
        at_once: what ``workers`` says meanwhile; as many as before where that is more, when left out.
    """
    global _allowed
    before, allowed = torch.get_num_threads(), _allowed
    _allowed = max(workers(), count) if at_once is None else at_once
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        _allowed = allowed


def side_by_side(
    tasks: Sequence[Callable[[], Result]], workers: int, first: Sequence[int] | None = None
) -> list[Result]:
    """Return what the tasks give, done by so many threads, or in turn where there is one.

    They see what is switched on for gradients and in context variables here. What one raises comes out, that
    of the first of them where several do; at an interrupt the others end with the product that they are at.
    Inside of a task there is one worker: threads do not multiply.

    Args:
        tasks: do not depend on each other.
        workers: threads.
        first: places in the order in which they are begun, the longest first; as they come when left out.
    """
    with torch_threads(1):
        if min(workers, len(tasks)) <= 1 or getattr(_inside, "yes", False):
            return [task() for task in tasks]
        return _Pool(tasks, min(workers, len(tasks))).run(range(len(tasks)) if first is None else first)


class _Pool(Generic[Result]):
    """Tasks that threads take one after the other."""

    def __init__(self, tasks: Sequence[Callable[[], Result]], workers: int) -> None:
        self.tasks, self.workers = tasks, workers
        self.gradients = torch.is_grad_enabled()
        self.found: dict[int, Result] = {}
        self.failed: dict[int, BaseException] = {}
        self.ended, self.finished = threading.Event(), threading.Semaphore(0)

    def run(self, order: Sequence[int]) -> list[Result]:
        """Return what the tasks give."""
        left = deque(order)
        threads = [
            threading.Thread(target=copy_context().run, args=(self.work, left), name=f"kpframe {number}")
            for number in range(self.workers)
        ]
        try:
            for thread in threads:
                thread.start()
            for _ in threads:
                # a signal that comes just before the wait does not end it, but is seen after it
                while not self.finished.acquire(timeout=WAKE):
                    pass
        finally:
            self.ended.set()  # one that has not begun takes no task then
            for thread in threads:
                if thread.is_alive():
                    thread.join()
        if self.failed:
            error = self.failed.pop(min(self.failed))
            self.failed.clear()
            try:
                raise error
            finally:
                del error  # its frames hold it, and vectors with it
        return [self.found[place] for place in range(len(self.tasks))]

    def work(self, left: deque[int]) -> None:
        """Do one task after the other, but none whose turn would not have come after an error."""
        _inside.yes = True
        try:
            torch.set_num_threads(1)
            with torch.set_grad_enabled(self.gradients), broken_off(self.ended):
                while not self.ended.is_set():
                    try:
                        place = left.popleft()
                    except IndexError:
                        break
                    self.one(place)
        finally:
            self.finished.release()

    def one(self, place: int) -> None:
        """Do a task."""
        if self.failed and place > min(self.failed):
            return
        try:
            self.found[place] = self.tasks[place]()
        except BaseException as error:
            self.failed[place] = error
