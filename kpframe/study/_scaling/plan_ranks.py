"""What each network of a study takes on several ranks, and where more of them no longer help."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from attrs import frozen

from kpframe.errors import ArgumentError, mismatch
from kpframe.study._bench.timing import matmul_rate
from kpframe.study._cells import expand
from kpframe.study._running.build import task_of
from kpframe.study._scaling.calibrate import ROWS
from kpframe.study._scaling.local_ranks import one_rank
from kpframe.study._scaling.machine import Machine
from kpframe.study._scaling.sharded import Sharded, sharded, trials_of
from kpframe.study._scaling.work import OnRanks, Work, table_of
from kpframe.study._settings import StudySettings
from kpframe.study._study_file.plan import PATIENCE, Cost, plan
from kpframe.study._workers import torch_threads, workers


@frozen
class NetworkOnRanks:
    """What the trainings of one network, at a point of the sweep and by one rule, take on several ranks.

    Rank 0 makes all updates, and sends the network to the others at each record, whose trials are shared.

    Attributes:
        cost: of one process, and how many trainings, updates and records there are.
        record: of one of its records, by one rank.
        machine: whose figures are used; ``speed`` is how many times as fast as here it computes.
        speed: likewise.
    """

    cost: Cost
    record: Sharded
    machine: Machine
    speed: float

    @property
    def work(self) -> Work:
        """A record, on any number of ranks."""
        return self.record.work.faster(self.speed)

    def operator(self, name: str) -> Work:
        """Return one product with an operator, on any number of ranks."""
        return self.record.operators[name].faster(self.speed)

    def records(self, ranks: int) -> OnRanks:
        """Return what one record takes on so many ranks."""
        return self.work.on(ranks, self.machine)

    def seconds(self, ranks: int) -> float:
        """Return how long all trainings of the network take, one after the other [s]."""
        each = self.records(ranks).seconds
        updates = self.cost.cells * self.cost.updates * self.cost.update_seconds / self.speed
        return updates + sum(self.cost.records) * each

    def stops_at(self) -> int | None:
        """Return from how many ranks on a record communicates as long as it computes; None for never."""
        return self.work.stops_at(self.machine)


@frozen
class RanksPlan:
    """What a study takes on several ranks.

    Attributes:
        networks: by network, rule and point of the sweep.
        ranks: 1, 2, 4 ... and as many as were asked for.
        machine: whose figures are used.
        problems: what went wrong while it was measured, and costs figures in the run, too.
    """

    networks: tuple[NetworkOnRanks, ...]
    ranks: tuple[int, ...]
    machine: Machine
    problems: tuple[str, ...]

    def seconds(self, ranks: int) -> float:
        """Return how long the study takes on so many ranks [s]."""
        return sum(network.seconds(ranks) for network in self.networks)

    def efficiency(self, ranks: int) -> float:
        """Return the time of one process over that of all ranks together."""
        return self.seconds(1) / (ranks * self.seconds(ranks))


def plan_ranks(
    study: StudySettings, ranks: int, machine: Machine, *, patience: float = PATIENCE
) -> RanksPlan:
    """Return what a study takes on up to so many ranks; a few updates and records are made for that.

    Times of computing are those of this machine, one thread; figures of another machine scale them by the
    rates of matrix products of both.

    Args:
        study: what would be run, possible as ``check_study`` has it.
        ranks: how many at most.
        machine: by whose figures the ranks communicate.
        patience: seconds after which what is left is taken to be like what was measured.

    Raises:
        ArgumentError: for more ranks than trials.
        RankError, UnsupportedError: as ``one_rank``.
    """
    check_ranks(study, ranks)
    with one_rank() as group:
        found = plan(study, jobs=workers(), patience=patience, measure=partial(sharded, group=group))
    speed = _speed(machine)
    return RanksPlan(tuple(_networks(found.costs, machine, speed)), table_of(ranks), machine, found.problems)


def check_ranks(study: StudySettings, ranks: int) -> None:
    """Raise ``ArgumentError`` for more ranks than there are trials at some point of the sweep."""
    seen: dict[str, int] = {}
    for cell in expand(study):
        key = repr((cell.task, cell.task_settings, cell.measure))
        if key in seen:
            continue
        seen[key] = trials_of(cell, task_of(cell))
        if ranks > seen[key]:
            expected = f"at most {seen[key]}, a trial for each (measure.trials)"
            raise ArgumentError(mismatch("ranks", expected, ranks) + "; ask for more trials or fewer ranks")


def _networks(costs: tuple[Cost, ...], machine: Machine, speed: float) -> Iterator[NetworkOnRanks]:
    for cost in costs:
        assert isinstance(cost.record, Sharded)  # as it was measured
        yield NetworkOnRanks(cost, cost.record, machine, speed)


def _speed(machine: Machine) -> float:
    """Return how many times as fast a machine computes as this one, which it is taken to be if unknown."""
    if not machine.measured or machine.of_this_host:
        return 1.0
    with torch_threads(1):
        return machine.product_rate / matmul_rate(torch.float32, torch.device("cpu"), ROWS)
