"""When a training that somebody else runs is recorded: at steps of a list, every n, or spaced by ratios.

A training is recorded at the first step it comes to that is a step of its schedule *or after one*: where the
count goes by tens, the step 13 of a schedule is made up for at 20, and what is written says 20.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterable

from attrs import frozen

from kpframe.errors import ArgumentError, mismatch, shown, whole

#: Steps in each tenfold of a schedule without an end.
PER_DECADE = 8


class Schedule(ABC):
    """Steps to record at, ascending."""

    @abstractmethod
    def after(self, step: int) -> int | None:
        """Return the first step of the schedule that comes after ``step``, None where there is none."""


@frozen
class Every(Schedule):
    """Every n-th step from ``first`` on."""

    distance: int
    first: int = 0

    def after(self, step: int) -> int:
        """Return the first step after ``step``."""
        if step < self.first:
            return self.first
        return step + self.distance - (step - self.first) % self.distance


@frozen
class Listed(Schedule):
    """The steps of a list."""

    steps: tuple[int, ...]

    def after(self, step: int) -> int | None:
        """Return the first step after ``step``."""
        place = bisect_right(self.steps, step)
        return self.steps[place] if place < len(self.steps) else None


@frozen
class LogSpaced(Schedule):
    """0 and steps of equal ratios from 1 on, without an end: 0, 1, 2, 3, 4, 6, 7, 10, 13, 18, ..."""

    per_decade: int = PER_DECADE

    def after(self, step: int) -> int:
        """Return the first step after ``step``."""
        if step < 0:
            return 0
        place = math.floor(self.per_decade * math.log10(step)) if step else 0
        while (found := math.floor(10 ** (place / self.per_decade) + 0.5)) <= step:
            place += 1
        return found


def every(distance: int, first: int = 0) -> Schedule:
    """Return the schedule ``first``, ``first + distance``, ``first + 2 distance``, ... without an end.

    Raises:
        ArgumentError: for a distance below 1 or a first step below 0.
    """
    return Every(whole(distance, "distance"), whole(first, "first", 0))


def log_spaced(count: int | None = None, last: int | None = None) -> Schedule:
    """Return a schedule of equal ratios between its steps, 0 among them.

    Args:
        count: number of steps; see ``log_steps``.
        last: the last of them. Without the two it has no end, and about 8 steps in each tenfold.

    Raises:
        ArgumentError: for one of the two alone, or as ``log_steps``.
    """
    if count is None and last is None:
        return LogSpaced()
    if count is None or last is None:
        given = "count" if last is None else "last"
        raise ArgumentError(mismatch("log_spaced", "count and last, or neither", f"{given} alone"))
    return Listed(log_steps(count, last))


def log_steps(count: int, last: int) -> tuple[int, ...]:
    """Return ``count`` steps, 0 and others of equal ratios from 1 to ``last``, ascending and all different.

    Where equal ratios would lie less than 1 apart, the next whole numbers stand for them.

    Raises:
        ArgumentError: for a last step below 1, or a count that is not from 2 to ``last + 1``.
    """
    last = whole(last, "last")
    count = whole(count, "count", 2, last + 1)
    found: list[float] = []
    for left in range(count - 2, -1, -1):  # how many come after this one
        if not left:
            found.append(last)
        elif not found:
            found.append(1)
        else:
            ratio = (last / found[-1]) ** (1 / (left + 1))
            found.append(max(found[-1] * ratio, found[-1] + 1))
    return (0, *(math.floor(step + 0.5) for step in found))


def schedule_of(form: object) -> Schedule:
    """Return the schedule that an argument ``schedule`` stands for.

    Args:
        form: a schedule; steps; ``n`` for every n-th step; None for ``log_spaced()``.

    Raises:
        ArgumentError: for anything else, no steps, and steps below 0.
    """
    if form is None:
        return LogSpaced()
    if isinstance(form, Schedule):
        return form
    expected = "steps, a number n for every n-th, every(n) or log_spaced()"
    if isinstance(form, str) or not isinstance(form, Iterable):
        distance = whole(form, "schedule", expected=expected)
        return Every(distance)
    steps = {whole(step, f"schedule[{place}]", 0) for place, step in enumerate(form)}
    if not steps:
        raise ArgumentError(mismatch("schedule", expected, shown(form)))
    return Listed(tuple(sorted(steps)))
