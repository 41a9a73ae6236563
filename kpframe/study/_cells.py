"""``Cell``: one training of a study, and the names of its files.

A run's folder holds, for each cell:

- ``steps/<name>-<step>.nc``: what was recorded at a step;
- ``checkpoints/<name>-<step>.safetensors``: the network at that step;
- ``training/<name>.nc``: the losses and what became of the training, when it has come to an end;
- ``state/<name>.safetensors``: all that a training goes on from, while it is under way.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from pathlib import PurePath
from typing import Any

from attrs import evolve, frozen

from kpframe.errors import SettingsError, mismatch
from kpframe.study._disk.labels import marked_names
from kpframe.study._running.training import TrainingSettings
from kpframe.study._settings import (
    MeasureSettings,
    NetworkSettings,
    QuantitySettings,
    RuleSettings,
    StudySettings,
)
from kpframe.study._study_file.rule_text import text_of
from kpframe.study._study_file.sweep import with_values


@frozen(eq=False)
class Cell:
    """One training: a network, what it is trained on and by, and a seed.

    Attributes:
        name: of its files; letters, digits and ``_.=-``.
        coordinates: its place in the study, by dimension, in order: ``network``, ``trained_by`` where there
            are rules to train by, the axes of a sweep, ``seed``.
        rule: text of the rule that it is trained by; None for ``training.gradient``.
        initial_of: name of an earlier cell that starts from the same network: step 0 is recorded there alone.
            None where it is recorded here.
        same_as: name of an earlier cell that is this one in all but its place, as the sweep varies nothing of
            it: it is trained there alone, and has no files. None where it is trained.
    """

    name: str
    coordinates: Mapping[str, Any]
    network: NetworkSettings
    task: str
    task_settings: Mapping[str, Any]
    training: TrainingSettings
    rule: str | None
    rules: tuple[RuleSettings, ...]
    measure: MeasureSettings
    quantities: tuple[QuantitySettings, ...]
    seed: int
    dtype: str
    threads: int
    initial_of: str | None = None
    same_as: str | None = None

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps that are recorded in files of this cell, ascending."""
        if self.same_as is not None:
            return ()
        steps = sorted(set(self.measure.steps))
        return tuple(step for step in steps if step or self.initial_of is None)

    @property
    def optimizer(self) -> str:
        """What makes its updates: ``sgd`` where that is plain gradient descent, else what it is in words."""
        training = self.training
        momentum = f" with momentum {training.momentum:g}" if training.momentum else ""
        rule = f" by the rule {self.rule}" if self.rule not in (None, "bptt") else ""
        return f"{training.optimizer}{momentum if training.optimizer == 'sgd' else ''}{rule}"

    @property
    def label(self) -> str:
        """What a reader calls the cell."""
        return label_of(self.coordinates)


def expand(study: StudySettings) -> list[Cell]:
    """Return the trainings of a study: networks by rules by points of the sweep by seeds.

    The name of a cell follows from its coordinates; where two would differ in upper and lower case alone, or
    one holds what is not for files, it has a mark at its end.

    Cells that start from the same network and are measured in the same way, and differ in what trains them
    alone, share their step 0, which is recorded in files of the first of them. Cells that are one training at
    several points of a sweep, which varies settings of other networks there, share all.

    Raises:
        SettingsError: for a value of the sweep that a setting of the study itself cannot take, and for a step
            beyond the training.
    """
    cells = list(_cells(study))
    identities = {json.dumps(dict(cell.coordinates)): _text(cell) for cell in cells}
    names = dict(zip(identities, marked_names(identities).values(), strict=True))
    found: list[Cell] = []
    started: dict[str, str] = {}
    trained: dict[str, str] = {}
    for cell in cells:
        name = names[json.dumps(dict(cell.coordinates))]
        same = trained.setdefault(repr(evolve(cell, coordinates={})), name)
        first = started.setdefault(_start(cell), name)
        found.append(
            evolve(
                cell,
                name=name,
                initial_of=None if first == name else first,
                same_as=None if same == name else same,
            )
        )
    return found


def _cells(study: StudySettings) -> Iterator[Cell]:
    points = list(product(*(axis.values for axis in study.sweep)))
    for place, network in enumerate(study.networks):
        for trained_by in study.trained_by or (None,):
            for values in points:
                one = with_values(study, {a.path: v for a, v in zip(study.sweep, values, strict=True)})
                if max(one.measure.steps) > one.training.steps:
                    expected = f"steps of the training, which has {one.training.steps}"
                    raise SettingsError(mismatch("measure.steps", expected, max(one.measure.steps)))
                coordinates: dict[str, Any] = {"network": network.label}
                if trained_by is not None:
                    coordinates["trained_by"] = trained_by
                coordinates |= {axis.name: v for axis, v in zip(study.sweep, values, strict=True)}
                for seed in study.seeds:
                    own = coordinates | ({"seed": seed} if len(study.seeds) > 1 else {})
                    yield Cell(
                        name="",
                        coordinates=own,
                        network=one.networks[place],
                        task=one.task,
                        task_settings=one.task_settings,
                        training=one.training,
                        rule=None if trained_by is None else text_of(trained_by, one.rules),
                        rules=one.rules,
                        measure=one.measure,
                        quantities=one.quantities,
                        seed=seed,
                        dtype=one.dtype,
                        threads=one.threads,
                    )


def _text(cell: Cell) -> str:
    """Return the readable text of a cell that its name is made of."""
    return "-".join(
        str(value) if name in ("network", "trained_by") else f"{name}={value}"
        for name, value in cell.coordinates.items()
    )


def _start(cell: Cell) -> str:
    """Return all that step 0 follows from; the learning rate is in it, as moments know it."""
    parts = (
        *(cell.network, cell.task, cell.task_settings, cell.rules, cell.measure, cell.quantities),
        *(cell.seed, cell.dtype, cell.training.learning_rate),
    )
    return repr(parts) if 0 in cell.measure.steps else repr(cell.coordinates)


def described_cells(cells: Iterable[Cell]) -> list[dict[str, Any]]:
    """Return what ``run.json`` says of cells."""
    return [
        {
            "name": cell.name,
            "coordinates": dict(cell.coordinates),
            "steps": list(cell.steps),
            "initial_of": cell.initial_of,
            "same_as": cell.same_as,
        }
        for cell in cells
    ]


def point_of(cell: Cell) -> str:
    """Return what cells share that differ in their training and seeds alone."""
    return repr(
        (cell.network, cell.task, cell.task_settings, cell.rules, cell.measure, cell.quantities, cell.dtype)
    )


def label_of(coordinates: Mapping[str, Any]) -> str:
    """Return what a reader calls a cell with these coordinates."""
    return ", ".join(
        str(value) if name in ("network", "trained_by") else f"{name} {value}"
        for name, value in coordinates.items()
    )


def record_file(name: str, step: int) -> PurePath:
    """Return where a cell's record of a step is, below the folder of the run."""
    return PurePath("steps", f"{name}-{step:06d}.nc")


def checkpoint_file(name: str, step: int) -> PurePath:
    """Return where a cell's network at a step is."""
    return PurePath("checkpoints", f"{name}-{step:06d}.safetensors")


def training_file(name: str) -> PurePath:
    """Return where a cell's losses are."""
    return PurePath("training", f"{name}.nc")


def state_file(name: str) -> PurePath:
    """Return where a training that is under way goes on from."""
    return PurePath("state", f"{name}.safetensors")
