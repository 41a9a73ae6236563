"""Train one cell of a study and record its steps, or go on where a process that was ended left off.

Files are written in this order, so that a kill costs at most the record under way: the state of the training,
the checkpoint of a step, its record; when the training has ended its losses, and then the state is removed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import xarray as xr
from attrs import evolve

from kpframe.errors import ArgumentError, CheckpointError, mismatch
from kpframe.models._model import Model
from kpframe.rules._parse import parse_rule
from kpframe.rules._rule import LearningRule
from kpframe.study._cells import Cell, checkpoint_file, record_file, state_file, training_file
from kpframe.study._disk.folder import RunWriter
from kpframe.study._disk.results import read_attributes, read_dataset
from kpframe.study._moment import Moment, Surroundings
from kpframe.study._networks.checkpoint import load_checkpoint
from kpframe.study._quantity import Quantity
from kpframe.study._record import write_step
from kpframe.study._rules.training_data import TrainingResult
from kpframe.study._running.build import model_settings, network_of, quantities_of, surroundings_of, task_of
from kpframe.study._running.interrupts import held_back
from kpframe.study._running.state_file import read_state, write_state
from kpframe.study._running.training import ProgressCallback, Trainer
from kpframe.study._scores import SCORES
from kpframe.study._workers import torch_threads
from kpframe.tasks._readout import Readout

Result = TypeVar("Result")

#: Seconds after which the state of a training is written again.
SAVE_EVERY = 30.0


def train_cell(
    cell: Cell,
    folder: RunWriter,
    report: ProgressCallback | None = None,
    tell: Callable[[str], None] | None = None,
    rule: LearningRule | None = None,
) -> None:
    """Train a cell and write its files, those that are not there yet.

    A training that diverges or fails keeps the steps recorded before; ``training/<cell>.nc`` says why. What
    was damaged is made anew: a record from its checkpoint, and where the checkpoint or the state of the
    training is, by training again from the start, with the same figures.

    Args:
        cell: what is trained.
        folder: of the run.
        report: called after each update, and before a step is recorded.
        tell: called with a line for each file that has to be made anew.
        rule: the rule that the cell's text names; made of the text when left out.

    Raises:
        OutputError: for a file that cannot be written; what is there is whole, and the cell can go on.
        KeyboardInterrupt: at Ctrl-C, when the state is written.
    """
    with torch_threads(cell.threads):
        _Training(cell, folder, report, tell, rule).run()


def last_update(result: TrainingResult) -> int:
    """Return how many updates a training that has ended made."""
    stopped = math.isfinite(result.stopped_at)
    return int(result.stopped_at) - 1 if stopped else len(result.losses)


def read_training(folder: RunWriter, cell: str) -> TrainingResult | None:
    """Return what came of a cell's training; None where it has not ended.

    Raises:
        ArgumentError: for a file that is damaged or of another run.
    """
    path = folder.path / training_file(cell)
    if not path.exists():
        return None
    data = read_dataset(path)
    _check_origin(data.attrs, folder, cell, path)
    return TrainingResult(
        data.training_loss.values, data.outcome.item(), data.stopped_at.item(), data.reason.item()
    )


class _Training:
    """A cell under way."""

    def __init__(
        self,
        cell: Cell,
        folder: RunWriter,
        report: ProgressCallback | None,
        tell: Callable[[str], None] | None,
        rule: LearningRule | None,
    ) -> None:
        self.cell, self.folder, self.rule = cell, folder, rule
        self.report, self.tell = report, tell
        self.task = task_of(cell)
        self.losses = np.full(cell.training.steps, np.nan)
        self.whole = False  # whether the trainer is between two updates
        self.saved_at, self.saved = 0, time.monotonic()

    def run(self) -> None:
        """Make all that is missing."""
        ended = self.read(lambda: read_training(self.folder, self.cell.name))
        recorded = [step for step in self.cell.steps if self.there(step)]
        kept = [step for step in self.cell.steps if self.has_checkpoint(step)]
        trainer = self.trainer()
        at = last_update(ended) if ended is not None else self.go_on(trainer)
        before = [step for step in self.cell.steps if step < at or (step == at and ended is not None)]
        if lost := [step for step in before if step not in kept]:
            names = ", ".join(str(checkpoint_file(self.cell.name, step)) for step in lost)
            self.say_line(f"training begins anew, for the networks that are lost: {names}")
            before, ended = [], None
            trainer, self.losses[:] = self.trainer(), np.nan
        for step in before:
            if step not in recorded:
                self.record_again(step)
        if ended is None:
            self.saved_at = trainer.made
            result = self.trained(trainer, {*self.cell.steps} - {*recorded} | {*self.cell.steps} - {*kept})
            self.write(result)
            if result.outcome != "trained":
                text = f"{result.outcome} at update {result.stopped_at:.0f} ({result.reason})"
                self.say(last_update(result), text)
        self.forget()

    # -- training --------------------------------------------------------------------------------------------

    def trainer(self) -> Trainer:
        """Return a trainer of the untrained network."""
        cell = self.cell
        rule = parse_rule(cell.rule) if self.rule is None and cell.rule is not None else self.rule
        settings = cell.training
        if rule is not None:
            settings = evolve(settings, gradient="operators")
        draws = None if rule is None else cell.seed
        network = network_of(cell, self.task)
        return Trainer(*network, self.task, settings, rule=rule, seed=cell.seed, draws=draws)

    def trained(self, trainer: Trainer, wanted: set[int]) -> TrainingResult:
        """Make the updates that are left and record those steps of them that are wanted."""
        updates = trainer.run()
        self.whole = True
        try:
            while True:
                if trainer.made in wanted:
                    self.record(trainer)
                with held_back():
                    self.whole = False
                    try:
                        update = next(updates, None)
                    except Exception as error:
                        return TrainingResult.stopped(self.losses, trainer.made + 1, error)
                    self.whole = True
                    if update is None:
                        return TrainingResult(self.losses, "trained")
                    self.losses[update.step - 1] = update.loss
                self.say(update.step)
                if time.monotonic() > self.saved + SAVE_EVERY:
                    self.save(trainer)
        except KeyboardInterrupt:
            if self.whole:
                self.save(trainer)
            raise

    def record(self, trainer: Trainer) -> None:
        """Record the step that a training has come to."""
        self.save(trainer)
        self.say(trainer.made, f"recording step {trainer.made}")
        self.write_step(trainer.model, trainer.readout, trainer.made)

    def write(self, result: TrainingResult) -> None:
        """Write what came of the training."""
        texts = {
            "outcome": "trained, diverged or failed",
            "stopped_at": "update at which it diverged or failed; NaN where it did not",
            "reason": "why it diverged or failed",
        }
        unit = SCORES[self.task.loss].loss_unit
        loss = {"long_name": "training loss, before each update", "units": unit}
        data = xr.Dataset(
            {
                "training_loss": ("update", result.losses, loss),
                "outcome": ((), np.array(result.outcome, dtype=object)),
                "stopped_at": ((), result.stopped_at),
                "reason": ((), np.array(result.reason, dtype=object)),
            },
            coords={"update": ("update", np.arange(1, len(result.losses) + 1), {"long_name": "update"})},
        )
        for name, text in texts.items():
            data[name].attrs = {"long_name": text, "units": "1"}
        data["update"].attrs["units"] = "1"
        self.folder.write_dataset(training_file(self.cell.name), data, cell=self.cell.name)

    # -- states ----------------------------------------------------------------------------------------------

    def save(self, trainer: Trainer) -> None:
        """Write the state of the training, if it is not there."""
        if trainer.made != self.saved_at:
            path = self.folder.path / state_file(self.cell.name)
            write_state(path, trainer.state(), self.losses, run=self.folder.id, cell=self.cell.name)
            self.saved_at = trainer.made
        self.saved = time.monotonic()

    def go_on(self, trainer: Trainer) -> int:
        """Let a trainer go on from the state that is there; return the updates it has made."""
        path = self.folder.path / state_file(self.cell.name)

        def restored() -> None:
            state, losses = read_state(path, run=self.folder.id, cell=self.cell.name)
            if losses.shape != self.losses.shape:
                raise CheckpointError(f"state: expected {len(self.losses)} losses, got {len(losses)}")
            trainer.restore(state)
            self.losses[:] = losses

        if path.exists():
            self.read(restored)
        return trainer.made

    def forget(self) -> None:
        """Remove the state of a training that has ended."""
        (self.folder.path / state_file(self.cell.name)).unlink(missing_ok=True)

    # -- steps -----------------------------------------------------------------------------------------------

    @cached_property
    def around(self) -> Surroundings:
        """What is the same at all steps."""
        return surroundings_of(self.cell, self.task)

    @cached_property
    def quantities(self) -> dict[str, Quantity]:
        """What is recorded."""
        return quantities_of(self.cell)

    @cached_property
    def first(self) -> Moment:
        """The untrained network."""
        return self.moment(*network_of(self.cell, self.task), 0)

    def moment(self, model: Model, readout: Readout, step: int) -> Moment:
        """Return a network at a step; the steps before it are built when they are asked for."""
        earlier = [other for other in sorted(set(self.cell.measure.steps)) if other < step]
        return Moment(
            model,
            readout,
            self.around,
            step=step,
            first=lambda: self.first,
            previous=partial(self.recorded, earlier[-1]) if earlier else None,
            learning_rate=self.cell.training.learning_rate,
            optimizer=self.cell.optimizer,
        )

    def recorded(self, step: int) -> Moment:
        """Return the network at a step that was recorded before."""
        if step == 0:
            return self.first
        return self.moment(*self.network(step), step)

    def network(self, step: int) -> tuple[Model, Readout]:
        """Return the network of a checkpoint of this cell; raises ``CheckpointError``."""
        path = self.folder.path / checkpoint_file(self.cell.name, step)
        checkpoint = load_checkpoint(path)
        extra = checkpoint.extra
        if (extra.get("run"), extra.get("cell"), checkpoint.step) != (
            self.folder.id,
            self.cell.name,
            step,
        ):
            raise CheckpointError(f"checkpoint: expected one of this run in {str(path)!r}, got another's")
        model, readout = network_of(self.cell, self.task)
        checkpoint.load_into(model)
        checkpoint.load_into(readout, "readout")
        return model, readout

    def write_step(self, model: Model, readout: Readout, step: int) -> None:
        """Write the checkpoint and the record of a step."""
        cell = self.cell
        write_step(
            self.folder,
            cell.name,
            self.moment(model, readout, step),
            self.quantities,
            name=cell.network.name,
            settings=model_settings(cell, self.task),
            extra={
                "task": {"name": cell.task, "settings": dict(cell.task_settings)},
                "reads": [readout.hidden.start, readout.hidden.stop],
                "rule": cell.rule,
                "seed": cell.seed,
            },
        )

    def record_again(self, step: int) -> None:
        """Record a step from its checkpoint."""
        self.say(step, f"recording step {step}")
        self.write_step(*self.network(step), step)

    def there(self, step: int) -> bool:
        """Return whether a step is recorded in a whole file of this run."""
        path = self.folder.path / record_file(self.cell.name, step)
        if not path.exists():
            return False

        def of_this_run() -> bool:
            _check_origin(read_attributes(path), self.folder, self.cell.name, path)
            return True

        return bool(self.read(of_this_run))

    def has_checkpoint(self, step: int) -> bool:
        """Return whether the network at a step can be read."""
        if not (self.folder.path / checkpoint_file(self.cell.name, step)).exists():
            return False
        return self.read(lambda: self.network(step)) is not None

    # -- words -----------------------------------------------------------------------------------------------

    def read(self, load: Callable[[], Result]) -> Result | None:
        """Return what is read from a file; None, and said so, where it is damaged or another run's."""
        try:
            return load()
        except (ArgumentError, CheckpointError) as error:
            self.say_line(f"{error}; it is made anew")
            return None

    def say_line(self, text: str) -> None:
        """Say what was found to be damaged."""
        if self.tell is not None:
            self.tell(f"{self.cell.label}: {text}")

    def say(self, made: int, doing: str = "") -> None:
        """Report how far the training is."""
        if self.report is not None:
            loss = float(self.losses[made - 1]) if made else math.nan
            self.report(self.cell.label, made, len(self.losses), loss, doing)


def _check_origin(attributes: Mapping[str, Any], folder: RunWriter, cell: str, path: Path) -> None:
    found = attributes.get("run_id"), attributes.get("cell")
    if found != (folder.id, cell):
        raise ArgumentError(
            mismatch(str(path), f"run {folder.id}, cell {cell}", "run {}, cell {}".format(*found))
        )
