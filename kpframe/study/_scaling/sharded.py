"""What a record takes whose trials are shared among ranks, measured on one of them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from attrs import fields, frozen

from kpframe.models._linearize import linearize
from kpframe.operators._shards import Traffic, counted_traffic
from kpframe.study._bench.timing import Clock
from kpframe.study._cells import Cell
from kpframe.study._moment import operator_of
from kpframe.study._running.build import network_of, quantities_of, surroundings_of
from kpframe.study._scaling.work import Line, Work
from kpframe.study._study_file.measured import NAMES, Recorded, Share, on_all_ranks, recorded
from kpframe.tasks._task import Task

#: Calls of a product that are timed.
CALLS = 3


@frozen
class Sharded(Recorded):
    """A record whose trials are shared among ranks.

    Attributes:
        parameters: of the model.
        work: the record, on any number of ranks.
        operators: name -> one product with an operator, on any number of ranks.
        together: labels of the quantities that all ranks measure; rank 0 measures the others by itself.
    """

    parameters: int
    work: Work
    operators: Mapping[str, Work]
    together: frozenset[str]


def sharded(cell: Cell, task: Task, problems: dict[str, None], group: Any) -> Sharded:
    """Return what a record takes, from one with all trials and one with half of them.

    Args:
        cell: whose.
        task: its task.
        problems: takes what goes wrong, and would in the run, too.
        group: of this process alone.
    """
    trials = trials_of(cell, task)
    half = -(-trials // 2)
    quantities = quantities_of(cell)
    together = frozenset(label for label, one in quantities.items() if on_all_ranks(one))
    few = recorded(cell, task, {}, Share(group, half))  # first: a process seldom gives memory back
    many = recorded(cell, task, problems, Share(group, trials))
    mixed = any(not one.of_network and label not in together for label, one in quantities.items())
    alone = recorded(cell, task, {}) if mixed else many  # what is of all trials is made once there
    lines = [
        Line.through((half, few.quantities[label].seconds), (trials, spent.seconds))
        if label in together
        else Line(spent.seconds, 0.0)
        for label, spent in many.quantities.items()
    ]
    rest = max(0.0, many.spent.seconds - sum(one.seconds for one in many.quantities.values()))
    memory = None
    if few.peak_bytes is not None and many.peak_bytes is not None:
        memory = Line.through((half, few.peak_bytes), (trials, many.peak_bytes))
    work = Work(
        trials,
        alone.spent.seconds,
        alone.peak_bytes,
        Line(rest + sum(line.fixed for line in lines), sum(line.each for line in lines)),
        memory,
        many.spent.collectives,
        many.spent.sent_bytes,
        many.checkpoint_bytes - NAMES if together else 0,
    )
    model, _ = network_of(cell, task)
    return Sharded(
        **{one.name: getattr(many, one.name) for one in fields(Recorded)},
        parameters=sum(parameter.numel() for parameter in model.trainable().values()),
        work=work,
        operators=_operators(cell, task, group, half, trials),
        together=together,
    )


def trials_of(cell: Cell, task: Task) -> int:
    """Return along how many trials the operators of a cell are built: the fewest of its sets of inputs."""
    return min(len(probe.inputs) for probe in surroundings_of(cell, task).probes.values())


def _operators(cell: Cell, task: Task, group: Any, half: int, trials: int) -> dict[str, Work]:
    """Return one product with each operator along the first set of inputs."""
    probe = next(iter(surroundings_of(cell, task).probes.values()))
    model, _ = network_of(cell, task)
    points: dict[str, list[tuple[int, float]]] = {}
    sent: dict[str, Traffic] = {}
    for number in (half, trials):
        mask = None if probe.mask is None else probe.mask[:number]
        flow = linearize(model, probe.inputs[:number], mask=mask, group=group, keep=cell.measure.keep)
        q = torch.randn(flow.P.domain.shape, dtype=flow.P.dtype, generator=torch.Generator().manual_seed(0))
        for name in cell.measure.operators:
            operator = operator_of(flow, name)
            with counted_traffic() as sent[name]:
                operator(q)
            clock = Clock(q.device)
            times = [clock.seconds(partial(operator, q)) for _ in range(CALLS)]
            points.setdefault(name, []).append((number, statistics.median(times)))
    return {
        name: Work(
            trials,
            many[1],
            None,
            Line.through(few, many),
            None,
            sent[name].collectives,
            sent[name].bytes,
        )
        for name, (few, many) in points.items()
    }
