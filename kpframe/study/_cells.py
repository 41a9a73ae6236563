"""``Cell``: one training of a study, and the names of its files.

A run's folder holds, for each cell:

- ``steps/<name>-<step>.nc``: what was recorded at a step;
- ``checkpoints/<name>-<step>.safetensors``: the network at that step;
- ``training/<name>.nc``: the losses and what became of the training, when it has come to an end;
- ``state/<name>.safetensors``: all that a training goes on from, while it is under way.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from attrs import frozen

from kpframe.study._settings import (
    MeasureSettings,
    NetworkSettings,
    QuantitySettings,
    RuleSettings,
)
from kpframe.study._training import TrainingSettings


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

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps that are recorded in files of this cell, ascending."""
        steps = sorted(set(self.measure.steps))
        return tuple(step for step in steps if step or self.initial_of is None)

    @property
    def label(self) -> str:
        """What a reader calls the cell."""
        return ", ".join(
            str(value) if name in ("network", "trained_by") else f"{name} {value}"
            for name, value in self.coordinates.items()
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
