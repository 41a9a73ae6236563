"""What a study would do and what that would cost: counted, and measured on this machine by doing a little."""

from __future__ import annotations

import heapq
import os
import statistics
import time
from collections.abc import Iterator, Sequence

from attrs import evolve, field, frozen

from kpframe.errors import NonFiniteError, say
from kpframe.operators._count import counted_products
from kpframe.rules._parse import parse_rule
from kpframe.study._cells import Cell, expand, point_of
from kpframe.study._moment import Moment
from kpframe.study._record import record
from kpframe.study._running.build import network_of, quantities_of, surroundings_of, task_of
from kpframe.study._running.training import Trainer
from kpframe.study._settings import StudySettings
from kpframe.study._study_file.peak import forget_peak, peak_bytes
from kpframe.study._workers import torch_threads, workers
from kpframe.tasks._task import Task

#: Updates that are timed.
UPDATES = 5
#: Seconds after which no other network is measured: those that are left are taken to be like it.
PATIENCE = 20.0
#: Seconds that a record may take here; one that would take longer is measured with smaller budgets.
LONG = 8.0
#: Budgets of these smaller records.
SMALL = (8, 16)
#: Bytes of files beside their numbers: where a record comes from, names in a checkpoint, a file of losses.
ORIGIN, NAMES, LOSSES = 3_000, 1_000, 15_000


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


def plan(study: StudySettings, *, jobs: int = 1, patience: float = PATIENCE) -> Plan:
    """Return what a study would do and cost; a few updates and records are made for that, and none is kept.

    Args:
        study: what would be run, possible as ``check_study`` has it.
        jobs: trainings at the same time, which share the processors.
        patience: seconds after which what is left is taken to be like what was measured.

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
    recorded: dict[str, _Record] = {}
    forget_peak()
    with torch_threads(study.threads, max(study.threads, workers() // max(1, jobs))):
        for (point, _), cells in groups.items():
            like = [cost for cost in costs if cost.network == cells[0].network.label and cost.measured]
            if time.monotonic() - started > patience and like:
                costs.append(_alike(cells, like))
                continue
            task = task_of(cells[0])
            update = _update_seconds(cells[0], task, problems)
            if point not in recorded:
                recorded[point] = _recorded(cells[0], task, problems)
            costs.append(_cost(cells, update, recorded[point]))
    return Plan(tuple(costs), peak_bytes(), tuple(problems))


@frozen
class _Record:
    """What one record takes."""

    seconds: float
    products: int
    record_bytes: int
    checkpoint_bytes: int
    figure_bytes: int
    scaled: bool


def _cost(cells: Sequence[Cell], update: float, one: _Record) -> Cost:
    trained = [cell for cell in cells if cell.same_as is None]
    return Cost(
        network=cells[0].network.label,
        point=_words(cells),
        cells=len(trained),
        same=len(cells) - len(trained),
        updates=cells[0].training.steps,
        records=tuple(len(cell.steps) for cell in trained),
        update_seconds=update,
        record_seconds=one.seconds,
        products=one.products,
        record_bytes=one.record_bytes,
        checkpoint_bytes=one.checkpoint_bytes,
        figure_bytes=one.figure_bytes,
        scaled=one.scaled,
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


def _update_seconds(cell: Cell, task: Task, problems: dict[str, None]) -> float:
    """Return the time of one update [s]; a first one, which takes longer, does not count."""
    rule = None if cell.rule is None else parse_rule(cell.rule)
    settings = evolve(cell.training, steps=min(cell.training.steps, 1 + UPDATES))
    draws = None if rule is None else cell.seed
    trainer = Trainer(*network_of(cell, task), task, settings, rule=rule, seed=cell.seed, draws=draws)
    times, last = [0.0], time.perf_counter()
    try:
        for _ in trainer.run():
            times.append(time.perf_counter() - last)
            if sum(times) > LONG:
                break
            last = time.perf_counter()
    except NonFiniteError as error:
        problems[f"{cell.label}: {say(error)}"] = None
    return statistics.median(times[2:] or times[-1:])


def _recorded(cell: Cell, task: Task, problems: dict[str, None]) -> _Record:
    """Return what a record takes, with the whole budget where that does not take long."""
    budget = cell.measure.budget
    budgets = sorted({min(budget, small) for small in SMALL})
    found = [_record(cell, task, small, problems) for small in budgets]
    slope = _slope(budgets, [one.seconds for one in found])
    if budget == budgets[-1]:
        return found[-1]
    if found[-1].seconds + slope * (budget - budgets[-1]) <= LONG:
        return _record(cell, task, budget, problems)
    products = _slope(budgets, [float(one.products) for one in found])
    return evolve(
        found[-1],
        seconds=found[-1].seconds + slope * (budget - budgets[-1]),
        products=round(found[-1].products + products * (budget - budgets[-1])),
        scaled=True,
    )


def _slope(budgets: Sequence[int], values: Sequence[float]) -> float:
    return max(0.0, (values[-1] - values[0]) / (budgets[-1] - budgets[0])) if len(budgets) > 1 else 0.0


def _record(cell: Cell, task: Task, budget: int, problems: dict[str, None]) -> _Record:
    """Return what a record takes with a budget, at a step after others."""
    around = evolve(surroundings_of(cell, task), budget=budget)

    def moment(step: int) -> Moment:
        first = (lambda: moment(0)) if step else None
        return Moment(
            *network_of(cell, task),
            around,
            step=step,
            first=first,
            previous=first,
            learning_rate=cell.training.learning_rate,
            optimizer=cell.optimizer,
        )

    quantities = quantities_of(cell)
    last = moment(max(1, *cell.measure.steps))
    with counted_products() as count:
        started = time.perf_counter()
        data = record(last, quantities)
        seconds = time.perf_counter() - started
    if budget == cell.measure.budget:
        for label, failure in zip(quantities, data.quantity_failure.values, strict=True):
            if failure:
                problems[f"{cell.network.label}: {label}: {failure}"] = None
    assert last.readout is not None
    tensors = [*last.model.state_dict().values(), *last.readout.state_dict().values()]
    return _Record(
        seconds,
        count.products,
        ORIGIN + len(data.drop_encoding().to_netcdf(engine="h5netcdf")),
        NAMES + sum(tensor.nbytes for tensor in tensors),
        data.nbytes,
        scaled=False,
    )
