"""Progress of work that takes long: bars with the time left on a terminal, a line a minute elsewhere."""

from __future__ import annotations

import math
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from kpframe.cli._terminal import fitting
from kpframe.errors import printable

#: Seconds between two lines where there is no terminal.
EVERY = 60.0
#: Seconds after which there is an estimate of the time left.
SOON = 2.0
#: Bars that are shown at most; of more, those of what has ended are taken away.
BARS = 8


class Report(ABC):
    """Takes what a training reports (see ``ProgressCallback``), and lines about files in ``tell``.

    Args:
        labels: of all that is to be done, each a like share of the work; unknown ones are added.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self._made: dict[str, float] = dict.fromkeys(labels, 0.0)
        self._before: dict[str, float] = {}
        self._started = time.monotonic()

    def __call__(self, label: str, made: int, total: int, loss: float, doing: str = "", /) -> None:
        """Take how far a training is."""
        share = made / total if total else 1.0
        self._before.setdefault(label, share)  # what an earlier process had done
        self._made[label] = share
        self.show(label, made, total, loss, doing)

    @abstractmethod
    def show(self, label: str, made: int, total: int, loss: float, doing: str) -> None:
        """Show how far a training is."""

    @abstractmethod
    def tell(self, text: str) -> None:
        """Write a line."""

    def left(self) -> str:
        """Return about how long it all takes from now on, as text; empty where that is not known yet."""
        passed = time.monotonic() - self._started
        done = sum(self._made.values())
        new = done - sum(self._before.values())
        if passed < SOON or new <= 0 or done >= len(self._made):
            return ""
        return f"about {duration(passed * (len(self._made) - done) / new)} left"


class _Lines(Report):
    """A line a minute, one at the end of each training, and one for what stopped it."""

    def __init__(self, labels: Sequence[str]) -> None:
        super().__init__(labels)
        self._latest = time.monotonic()

    def show(self, label: str, made: int, total: int, loss: float, doing: str) -> None:
        ended = made == total and not doing
        notable = bool(doing) and not doing.startswith("recording")
        if ended or notable or time.monotonic() >= self._latest + EVERY:
            self._latest = time.monotonic()
            parts = (f"update {made} of {total}", _loss(loss), doing)
            line = f"{label}: " + ", ".join(part for part in parts if part)
            self.tell("; ".join(part for part in (line, self.left()) if part))

    def tell(self, text: str) -> None:
        _echo(text)


class _Bars(Report):
    """A bar for each training under way."""

    def __init__(self, labels: Sequence[str], progress: Progress) -> None:
        super().__init__(labels)
        self._progress, self._bars = progress, dict[str, TaskID]()
        for label in labels[:BARS]:
            self._bar(label)

    def show(self, label: str, made: int, total: int, loss: float, doing: str) -> None:
        bar = self._bar(label)
        ended = made == total and not doing.startswith("recording")
        self._progress.update(
            bar,
            completed=made,
            total=total,
            count=f"{made}/{total}",
            loss=_loss(loss),
            doing=doing,
            left=self.left(),
            visible=not ended or len(self._made) <= BARS,
        )

    def tell(self, text: str) -> None:
        self._progress.console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    def _bar(self, label: str) -> TaskID:
        if label not in self._bars:
            empty: dict[str, Any] = dict.fromkeys(("count", "loss", "doing", "left"), "")
            self._bars[label] = self._progress.add_task(printable(label), total=None, **empty)
        return self._bars[label]


class Steps(ABC):
    """Takes how far a work of several steps is, and shows it with about how long the rest takes."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._first: int | None = None  # steps that an earlier process had done

    def __call__(self, what: str, done: int, total: int, /) -> None:
        """Take what is done now, the steps before it, and how many there are."""
        if self._first is None:
            self._first = done
        self.show(what, done, total)

    @abstractmethod
    def show(self, what: str, done: int, total: int) -> None:
        """Show it."""

    def left(self, done: int, total: int) -> str:
        """Return about how long it all takes from now on, as text; empty where that is not known yet."""
        passed, new = time.monotonic() - self._started, done - (self._first or 0)
        if passed < SOON or new <= 0 or done >= total:
            return ""
        return f"about {duration(passed * (total - done) / new)} left"


class _StepLines(Steps):
    """A line at the beginning, or once it takes long, and one a minute."""

    def __init__(self, late: bool) -> None:
        super().__init__()
        self._latest = self._started + SOON - EVERY if late else -math.inf

    def show(self, what: str, done: int, total: int) -> None:
        if time.monotonic() >= self._latest + EVERY:
            self._latest = time.monotonic()
            line = f"{what} ({done + 1} of {total})"
            _echo("; ".join(part for part in (line, self.left(done, total)) if part))


class _StepBar(Steps):
    """A bar."""

    def __init__(self, progress: Progress, late: bool) -> None:
        super().__init__()
        self._progress, self._from = progress, self._started + SOON * late
        self._bar = progress.add_task("", total=None, count="", left="", visible=not late)

    def show(self, what: str, done: int, total: int) -> None:
        self._progress.update(
            self._bar,
            description=printable(what),
            completed=done,
            total=total,
            count=f"{done + 1}/{total}",
            left=self.left(done, total),
            visible=time.monotonic() >= self._from,
        )


@contextmanager
def step_progress(*, late: bool = False) -> Iterator[Steps]:
    """Yield what takes the progress of a work of several steps; its bar is gone when it is done.

    With ``late`` nothing is said of a work that is done within two seconds.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _StepLines(late)
        return
    fields = [TextColumn(f"{{task.fields[{name}]}}", markup=False) for name in ("count", "left")]
    first = TextColumn("{task.description}", markup=False)
    with Progress(first, BarColumn(), *fields, console=console, transient=True) as progress:
        yield _StepBar(progress, late)


@contextmanager
def training_progress(labels: Sequence[str]) -> Iterator[Report]:
    """Yield what takes the progress of trainings with these labels."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(labels)
        return
    fields = [
        TextColumn(f"{{task.fields[{name}]}}", markup=False) for name in ("count", "loss", "doing", "left")
    ]
    first = TextColumn("{task.description}", markup=False)  # "[x]" is part of a label
    with Progress(first, BarColumn(), *fields, console=console) as progress:
        yield _Bars(labels, progress)


def duration(seconds: float) -> str:
    """Return a time as text: 12 s, 4 min, 2.5 h."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def _loss(loss: float) -> str:
    return "" if math.isnan(loss) else f"loss {loss:.4f}"


def _echo(text: str) -> None:
    click.echo(fitting(printable(text), sys.stderr), err=True)
