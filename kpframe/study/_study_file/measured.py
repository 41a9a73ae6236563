"""What an update and a record of a study take, measured by doing a few; nothing is kept.

On a group of ranks a record is what one of them does: its trials, and what it sends into collectives.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import xarray as xr
from attrs import evolve, field, frozen

from kpframe.errors import NonFiniteError, say
from kpframe.operators._count import counted_products
from kpframe.operators._shards import counted_traffic
from kpframe.rules._parse import parse_rule
from kpframe.study._cells import Cell
from kpframe.study._disk.netcdf import dataset_bytes
from kpframe.study._moment import Moment, Probe, Surroundings
from kpframe.study._quantity import Quantity
from kpframe.study._record import record
from kpframe.study._running.build import network_of, quantities_of, surroundings_of
from kpframe.study._running.training import Trainer
from kpframe.study._study_file.peak import forget_peak, peak_bytes
from kpframe.tasks._task import Task

#: Updates that are timed.
UPDATES = 5
#: Seconds that a record may take here; one that would take longer is measured with smaller budgets.
LONG = 8.0
#: Budgets of these smaller records.
SMALL = (8, 16)
#: Bytes of files beside their numbers: where a record comes from, names in a checkpoint, a file of losses.
ORIGIN, NAMES, LOSSES = 3_000, 1_000, 15_000


@frozen
class Spent:
    """What something takes on one rank.

    Attributes:
        seconds: time [s].
        products: operator products.
        collectives: calls of collectives; none without a group.
        sent_bytes: of their tensors.
    """

    seconds: float = 0.0
    products: int = 0
    collectives: int = 0
    sent_bytes: int = 0


@frozen
class Recorded:
    """What one record takes.

    Attributes:
        spent: in all.
        quantities: label -> what of it is this quantity's, on a rank; what several need is the first one's.
        record_bytes, checkpoint_bytes, figure_bytes: sizes of its files.
        peak_bytes: resident memory of this process at most; None where the system does not say.
        scaled: whether it follows from smaller budgets.
    """

    spent: Spent
    quantities: Mapping[str, Spent]
    record_bytes: int
    checkpoint_bytes: int
    figure_bytes: int
    peak_bytes: int | None
    scaled: bool


@frozen
class Share:
    """The first ``trials`` of each set of inputs, which the ranks of a group share."""

    group: Any = field(eq=id)
    trials: int


def update_seconds(cell: Cell, task: Task, problems: dict[str, None]) -> float:
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


def recorded(cell: Cell, task: Task, problems: dict[str, None], share: Share | None = None) -> Recorded:
    """Return what a record takes, with the whole budget where that does not take long.

    Args:
        cell: whose.
        task: its task.
        problems: takes what goes wrong, and would in the run, too.
        share: what ranks measure together, of which this is one; rank 0 measures the rest along all trials.
            No group when left out.
    """
    budget = cell.measure.budget
    budgets = sorted({min(budget, small) for small in SMALL})
    found = [_record(cell, task, small, problems, share) for small in budgets]
    if budget == budgets[-1]:
        return found[-1]
    at = (budgets, budget)
    if _line(*at, [one.spent.seconds for one in found]) <= LONG:
        return _record(cell, task, budget, problems, share)
    return evolve(
        found[-1],
        spent=_spent(*at, [one.spent for one in found]),
        quantities={
            label: _spent(*at, [one.quantities[label] for one in found]) for label in found[-1].quantities
        },
        scaled=True,
    )


def _spent(budgets: Sequence[int], budget: int, found: Sequence[Spent]) -> Spent:
    """Return what follows for a budget from two smaller ones."""
    return Spent(
        _line(budgets, budget, [one.seconds for one in found]),
        round(_line(budgets, budget, [one.products for one in found])),
        round(_line(budgets, budget, [one.collectives for one in found])),
        round(_line(budgets, budget, [one.sent_bytes for one in found])),
    )


def _line(budgets: Sequence[int], budget: int, values: Sequence[float]) -> float:
    slope = max(0.0, (values[-1] - values[0]) / (budgets[-1] - budgets[0])) if len(budgets) > 1 else 0.0
    return values[-1] + slope * (budget - budgets[-1])


def on_all_ranks(quantity: Quantity) -> bool:
    """Return whether ranks measure a quantity together, each along its own trials; else rank 0 does."""
    return not quantity.of_network and quantity.on_ranks == "all"


class _Watched(Quantity):
    """A quantity, and what its measurements take.

    Args:
        inner: the quantity.
        own: the moment that it is measured at in place of another one, along fewer trials; None for none.
    """

    def __init__(self, inner: Quantity, own: Moment | None) -> None:
        self.inner, self.own = inner, own
        self.of_network = inner.of_network  # type: ignore[misc]  # of the one that it watches
        self.spent = Spent()

    def measure(self, moment: Moment) -> xr.Dataset:
        at = moment if self.own is None else self.own.along(moment.inputs)
        with counted_products() as count, counted_traffic() as traffic:
            started = time.perf_counter()
            try:
                return self.inner.measure(at)
            finally:
                self.spent = Spent(
                    self.spent.seconds + time.perf_counter() - started,
                    self.spent.products + count.products,
                    self.spent.collectives + traffic.collectives,
                    self.spent.sent_bytes + traffic.bytes,
                )


def _moment(cell: Cell, task: Task, around: Surroundings, step: int, group: Any) -> Moment:
    """Return a moment of the untrained network, as if it were that of a step after others."""
    first = (lambda: _moment(cell, task, around, 0, group)) if step else None
    return Moment(
        *network_of(cell, task),
        around,
        step=step,
        first=first,
        previous=first,
        learning_rate=cell.training.learning_rate,
        optimizer=cell.optimizer,
        group=group,
    )


def _part(around: Surroundings, share: Share) -> Surroundings:
    """Return the surroundings with the trials that ranks share."""
    own = slice(share.trials)
    probes = {
        name: evolve(Probe.of(probe.trials.select(own)), text=probe.text)
        for name, probe in around.probes.items()
        if probe.trials is not None  # which a study's have
    }
    return evolve(around, probes=probes)


def _record(cell: Cell, task: Task, budget: int, problems: dict[str, None], share: Share | None) -> Recorded:
    """Return what a record takes with a budget, at a step after others."""
    around = evolve(surroundings_of(cell, task), budget=budget)
    step = max(1, *cell.measure.steps)
    quantities, watched = quantities_of(cell), {}
    if share is not None:  # in turn, as on a rank
        own = _moment(cell, task, _part(around, share), step, share.group)
        watched = {
            label: _Watched(quantity, own if on_all_ranks(quantity) else None)
            for label, quantity in quantities.items()
        }
    last = _moment(cell, task, around, step, None)
    forget_peak()
    with counted_products() as count, counted_traffic() as traffic:
        started = time.perf_counter()
        data = record(last, watched or quantities)
        seconds = time.perf_counter() - started
    peak = peak_bytes()
    if budget == cell.measure.budget:
        for label, failure in zip(quantities, data.quantity_failure.values, strict=True):
            if failure:
                problems[f"{cell.network.label}: {label}: {failure}"] = None
    assert last.readout is not None
    tensors = [*last.model.state_dict().values(), *last.readout.state_dict().values()]
    return Recorded(
        Spent(seconds, count.products, traffic.collectives, traffic.bytes),
        {label: quantity.spent for label, quantity in watched.items()},
        ORIGIN + len(dataset_bytes(data)),
        NAMES + sum(tensor.nbytes for tensor in tensors),
        data.nbytes,
        peak,
        scaled=False,
    )
