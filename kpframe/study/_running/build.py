"""What a cell is made of: its untrained network, what it is measured along, and its quantities.

All of it is a function of the cell alone, so that a run that is resumed goes on with the very same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from attrs import evolve

from kpframe.models._model import Model, create_model
from kpframe.rules._rule import create_rule
from kpframe.study._cells import Cell
from kpframe.study._moment import Probe, Surroundings
from kpframe.study._quantity import Quantity, create_quantity
from kpframe.tasks._readout import Readout
from kpframe.tasks._stratified import Batch, stratified
from kpframe.tasks._task import Split, Task, Trials, create_task

#: Trials on which a network is scored where the task has no end of them.
TEST_TRIALS = 500


def task_of(cell: Cell) -> Task:
    """Return the task of a cell; raises like ``create_task``."""
    return create_task(cell.task, **cell.task_settings)


def model_settings(cell: Cell, task: Task) -> dict[str, Any]:
    """Return the settings of a cell's model, the task's number of inputs among them."""
    return {"input_size": task.input_size, **cell.network.settings}


def network_of(cell: Cell, task: Task) -> tuple[Model, Readout]:
    """Return the untrained network of a cell, a function of its seed; raises like ``create_model``."""
    dtype = getattr(torch, cell.dtype)
    with torch.random.fork_rng():  # initial weights follow the cell's seed, torch's own stream does not
        torch.manual_seed(cell.seed)
        model = create_model(cell.network.name, **model_settings(cell, task)).to(dtype)
    reads = cell.network.reads
    hidden = None if reads is None else model.component_slice(reads)
    return model, Readout(model.width, task.output_size, hidden=hidden, generator=cell.seed, dtype=dtype)


def surroundings_of(cell: Cell, task: Task) -> Surroundings:
    """Return what a cell's network is measured along, and with what; raises like ``create_rule``."""
    dtype = getattr(torch, cell.dtype)
    return Surroundings(
        {split: _probe(task, cell, split) for split in _splits(cell)},
        loss=task.loss,
        test=test_trials(task, cell.seed, dtype),
        rules={rule.label: create_rule(rule.name, **rule.settings) for rule in cell.rules},
        operators=cell.measure.operators,
        budget=cell.measure.budget,
        seed=cell.seed,
        same_probes=cell.measure.probes == "same",
        keep=cell.measure.keep,
    )


def quantities_of(cell: Cell) -> dict[str, Quantity]:
    """Return what is recorded of a cell, by label; raises like ``create_quantity``."""
    return {one.label: create_quantity(one.name, **one.settings) for one in cell.quantities}


def _probe(task: Task, cell: Cell, split: Split) -> Probe:
    found = probe_trials(task, cell, split)
    return evolve(Probe.of(found.trials), text=found.text)


def probe_trials(task: Task, cell: Cell, split: Split) -> Batch:
    """Return the fixed trials of a split along which operators are built, and what they hold.

    Each split has a stream of its own, which is neither that of training nor that of the test trials.
    """
    dtype = getattr(torch, cell.dtype)
    drawn = stratified(task, cell.measure.trials, generator=cell.seed, split=split, dtype=dtype)
    return evolve(drawn, trials=by_first_coordinate(drawn.trials))


def test_trials(task: Task, seed: int, dtype: torch.dtype) -> Trials:
    """Return the whole test set of a finite task, 500 fixed trials of another."""
    if task.num_trials("test") is not None:
        return task.dataset("test", dtype=dtype)
    return task.sample(TEST_TRIALS, generator=seed + 1, split="test", dtype=dtype)


def _splits(cell: Cell) -> list[Split]:
    """Return the sets of inputs in the order asked for."""
    known: dict[str, Split] = {"train": "train", "test": "test"}
    return [known[name] for name in cell.measure.inputs]


def by_first_coordinate(trials: Trials) -> Trials:
    """Return trials ordered by their first coordinate (a digit's label), so that kernels show blocks."""
    if not trials.trial:
        return trials
    return trials.select(np.argsort(next(iter(trials.trial.values())), kind="stable"))
