"""What a study would do and what that would cost: counted, and measured on this machine by doing a little."""

from __future__ import annotations

import heapq
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

from attrs import evolve, field, frozen

from kpframe.study._cells import Cell, expand, point_of
from kpframe.study._running.build import task_of
from kpframe.study._settings import StudySettings
from kpframe.study._study_file.measured import LOSSES, Recorded, recorded, update_seconds
from kpframe.study._study_file.peak import forget_peak, peak_bytes
from kpframe.study._workers import torch_threads, workers
from kpframe.tasks._task import Task

#: Seconds after which no other network is measured: those that are left are taken to be like it.
PATIENCE = 20.0


@frozen
class Cost:
    """What the cells of one network cost at a point of the sweep, trained by one rule.

    Attributes:
        network: its label.
        point: the rule and the values of the sweep, in words; empty where there are none.
        cells: how many trainings.
        updates, records: in each of them.
        update_seconds, record_seconds: of one [s].
        products: operator products of one record.
        record_bytes, checkpoint_bytes: sizes of the files of one record.
        figure_bytes: what the figures of a record take among others.
        measured: whether it was measured, or is taken to be like another point.
        scaled: whether the time of a record follows from smaller budgets.
        same: how many more points of the sweep have the figures of these trainings.
        record: what a record takes, in detail.
    """

    network: str
    point: str
    cells: int
    updates: int
    records: tuple[int, ...]
    update_seconds: float
    record_seconds: float
    products: int
    record_bytes: int
    checkpoint_bytes: int
    figure_bytes: int
    measured: bool = True
    scaled: bool = False
    same: int = 0
    record: Recorded | None = None

    def seconds(self) -> Iterator[float]:
        """Yield how long each cell takes [s]."""
        for records in self.records:
            yield self.updates * self.update_seconds + records * self.record_seconds


@frozen
class Plan:
    """What a study would do.

    Attributes:
        costs: by network, rule and point of the sweep.
        memory_bytes: peak memory of each process; None where the system does not say.
        problems: what went wrong while it was measured, and costs figures in the run, too.
    """

    costs: tuple[Cost, ...]
    memory_bytes: int | None
    problems: tuple[str, ...] = field(default=())

    @property
    def cells(self) -> int:
        """The number of trainings."""
        return sum(cost.cells for cost in self.costs)

    @property
    def same(self) -> int:
        """The number of points that have the figures of a training at another one."""
        return sum(cost.same for cost in self.costs)

    @property
    def updates(self) -> int:
        """The number of updates in all."""
        return sum(cost.cells * cost.updates for cost in self.costs)

    @property
    def records(self) -> int:
        """The number of recorded steps in all."""
        return sum(sum(cost.records) for cost in self.costs)

    @property
    def products(self) -> int:
        """The number of operator products in all."""
        return sum(sum(cost.records) * cost.products for cost in self.costs)

    @property
    def disk_bytes(self) -> int:
        """The size of all files but the page: checkpoints, records, and these once more in ``results.nc``."""
        return sum(
            sum(cost.records) * (cost.record_bytes + cost.checkpoint_bytes + cost.figure_bytes)
            + cost.cells * (LOSSES + 16 * cost.updates)
            for cost in self.costs
        )

    def seconds(self, jobs: int = 1) -> float:
        """Return how long it takes with so many processes, one on each core [s]."""
        ends = [0.0] * max(1, min(jobs, os.cpu_count() or 1))
        for cost in self.costs:  # a process that is done takes the next
            for length in cost.seconds():
                heapq.heappush(ends, heapq.heappop(ends) + length)
        return max(ends)


def plan(
    study: StudySettings,
    *,
    jobs: int = 1,
    patience: float = PATIENCE,
    measure: Callable[[Cell, Task, dict[str, None]], Recorded] = recorded,
) -> Plan:
    """Return what a study would do and cost; a few updates and records are made for that, and none is kept.

    Args:
        study: what would be run, possible as ``check_study`` has it.
        jobs: trainings at the same time, which share the processors.
        patience: seconds after which what is left is taken to be like what was measured.
        measure: returns what a record of a cell takes; see ``recorded``.

    Raises:
        KpframeError: for a study that is impossible.
    """
    started = time.monotonic()
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in expand(study):
        training = evolve(cell.training, learning_rate=1.0)  # which does not change what an update takes
        groups.setdefault((point_of(cell), repr((cell.rule, training))), []).append(cell)
    costs: list[Cost] = []
    problems: dict[str, None] = {}
    found: dict[str, Recorded] = {}
    peaks: list[int | None] = []
    forget_peak()
    with torch_threads(study.threads, max(study.threads, workers() // max(1, jobs))):
        for (point, _), cells in groups.items():
            like = [cost for cost in costs if cost.network == cells[0].network.label and cost.measured]
            if time.monotonic() - started > patience and like:
                costs.append(_alike(cells, like))
                continue
            task = task_of(cells[0])
            update = update_seconds(cells[0], task, problems)
            peaks.append(peak_bytes())
            if point not in found:
                found[point] = measure(cells[0], task, problems)
                peaks.append(found[point].peak_bytes)
            costs.append(_cost(cells, update, found[point]))
    return Plan(
        tuple(costs), max((peak for peak in peaks if peak is not None), default=None), tuple(problems)
    )


def _cost(cells: Sequence[Cell], update: float, one: Recorded) -> Cost:
    trained = [cell for cell in cells if cell.same_as is None]
    return Cost(
        network=cells[0].network.label,
        point=_words(cells),
        cells=len(trained),
        same=len(cells) - len(trained),
        updates=cells[0].training.steps,
        records=tuple(len(cell.steps) for cell in trained),
        update_seconds=update,
        record_seconds=one.spent.seconds,
        products=one.spent.products,
        record_bytes=one.record_bytes,
        checkpoint_bytes=one.checkpoint_bytes,
        figure_bytes=one.figure_bytes,
        scaled=one.scaled,
        record=one,
    )


def _alike(cells: Sequence[Cell], like: Sequence[Cost]) -> Cost:
    """Return the cost of cells that were not measured: the mean of those of the same network."""
    trained = [cell for cell in cells if cell.same_as is None]
    return evolve(
        like[0],
        point=_words(cells),
        cells=len(trained),
        same=len(cells) - len(trained),
        updates=cells[0].training.steps,
        records=tuple(len(cell.steps) for cell in trained),
        measured=False,
        scaled=any(cost.scaled for cost in like),
        update_seconds=statistics.fmean(cost.update_seconds for cost in like),
        record_seconds=statistics.fmean(cost.record_seconds for cost in like),
        products=round(statistics.fmean(cost.products for cost in like)),
        record_bytes=round(statistics.fmean(cost.record_bytes for cost in like)),
        checkpoint_bytes=round(statistics.fmean(cost.checkpoint_bytes for cost in like)),
        figure_bytes=round(statistics.fmean(cost.figure_bytes for cost in like)),
    )


def _words(cells: Sequence[Cell]) -> str:
    """Return in words where cells are that differ in their seeds or in how far an update goes."""
    parts = [
        (name, value)
        for name, value in cells[0].coordinates.items()
        if name not in ("network", "seed") and all(cell.coordinates[name] == value for cell in cells)
    ]
    return ", ".join(str(value) if name == "trained_by" else f"{name} {value}" for name, value in parts)
