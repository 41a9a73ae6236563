"""Schedules of recording: every n, listed, log-spaced, and what stands for them."""

from __future__ import annotations

import numpy as np
import pytest

from kpframe.errors import ArgumentError
from kpframe.study._tracking.schedule import Schedule, every, log_spaced, log_steps, schedule_of


def steps_of(schedule: Schedule, count: int) -> list[int]:
    found = [schedule.after(-1)]
    while len(found) < count and found[-1] is not None:
        found.append(schedule.after(found[-1]))
    return found


def test_every_n() -> None:
    assert steps_of(every(10), 4) == [0, 10, 20, 30]
    assert steps_of(every(10, first=7), 4) == [7, 17, 27, 37]
    assert [every(10, first=7).after(step) for step in (0, 6, 7, 16, 17)] == [7, 7, 17, 17, 27]


def test_a_list_ends() -> None:
    assert steps_of(schedule_of([100, 0, 7, 7]), 9) == [0, 7, 100, None]
    assert steps_of(schedule_of(np.array([3, 1])), 9) == [1, 3, None]


def test_without_an_end_there_are_eight_steps_in_each_tenfold() -> None:
    found = steps_of(log_spaced(), 42)
    assert found[:11] == [0, 1, 2, 3, 4, 6, 7, 10, 13, 18, 24]
    for power in range(1, 5):
        assert sum(10**power <= step < 10 ** (power + 1) for step in found) == 8
    ratios = np.diff(np.log10(found[10:]))
    assert ratios == pytest.approx(1 / 8, abs=0.02)
    jumped = [log_spaced().after(step) for step in range(3000)]
    assert sorted(set(jumped)) == [step for step in found if 0 < step <= 3162]
    assert all(after > step for step, after in enumerate(jumped))


@pytest.mark.parametrize("last", [1, 2, 9, 100, 12345])
def test_log_steps_are_as_many_as_asked_for_and_end_where_asked(last: int) -> None:
    for count in {min(count, last + 1) for count in (2, 3, 7, 60, 300)}:
        steps = log_steps(count, last)
        assert steps == tuple(sorted(set(steps)))
        assert (len(steps), steps[0], steps[-1]) == (count, 0, last)


def test_log_steps_have_equal_ratios_where_there_is_room() -> None:
    assert log_steps(5, 1000) == (0, 1, 10, 100, 1000)
    assert log_steps(12, 10**10)[1:] == tuple(10**power for power in range(11))
    assert log_steps(6, 5) == (0, 1, 2, 3, 4, 5)
    assert steps_of(log_spaced(5, 1000), 9) == [0, 1, 10, 100, 1000, None]


def test_what_an_argument_stands_for() -> None:
    assert schedule_of(None) == log_spaced()
    assert schedule_of(25) == every(25)
    assert schedule_of(25) != every(26)
    assert schedule_of(every(3)) == every(3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: every(0), "distance: expected a whole number >= 1, got 0"),
        (lambda: every(5, first=-1), "first: expected a whole number >= 0, got -1"),
        (lambda: log_spaced(5), "log_spaced: expected count and last, or neither, got count alone"),
        (lambda: log_spaced(last=5), "log_spaced: expected count and last, or neither, got last alone"),
        (lambda: log_steps(1, 5), r"count: expected a whole number in \[2, 6\], got 1"),
        (lambda: log_steps(7, 5), r"count: expected a whole number in \[2, 6\], got 7"),
        (lambda: log_steps(2, 0), "last: expected a whole number >= 1, got 0"),
        (lambda: schedule_of([1, -2]), r"schedule\[1\]: expected a whole number >= 0, got -2"),
        (lambda: schedule_of([1.5]), r"schedule\[0\]: expected a whole number >= 0, got 1.5"),
        (lambda: schedule_of([]), r"schedule: expected steps, a number n .*, got \[\]"),
        (lambda: schedule_of("all"), "schedule: expected steps, a number n .*, got 'all'"),
        (lambda: schedule_of(0), "schedule: expected steps, a number n .*, got 0"),
    ],
)
def test_what_is_refused(make, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make()
