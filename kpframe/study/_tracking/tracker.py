"""``Tracker``: records anyone's training, in three lines of its loop."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any, Self

import torch
from attrs import frozen

from kpframe.errors import ArgumentError, TrackingWarning, mismatch, say, told, whole
from kpframe.models._model import Model
from kpframe.study._cells import training_file
from kpframe.study._disk.labels import check_labels, file_names
from kpframe.study._moment import OPERATORS, Moment
from kpframe.study._record import write_step
from kpframe.study._scores import SCORES, scores_of
from kpframe.study._study_file.quantity_texts import Quantities
from kpframe.study._tracking.folder import TrackerFolder
from kpframe.study._tracking.live_network import LiveNetwork, untouched
from kpframe.study._tracking.losses import Losses
from kpframe.study._tracking.schedule import Schedule, schedule_of
from kpframe.study._tracking.table import LiveDisplay, Table
from kpframe.study._tracking.tracked import (
    Inputs,
    Rules,
    check_rate,
    described,
    measurable,
    surroundings_of,
)
from kpframe.tasks._readout import Readout
from kpframe.tasks._task import Trials

#: The losses are written at each recorded step; where they are many, only if the last time took no more than
#: this share of the time since then.
_MANY, _SHARE = 10_000, 0.1
#: Seeds are below it: random probes have a thousand numbers of their own for each.
_MOST_SEEDS = 2**53


@frozen
class Overhead:
    """What recording has cost: seconds in it, of the seconds since the tracker was entered."""

    recording: float
    total: float

    @property
    def share(self) -> float:
        """The share of the whole, from 0 to 1."""
        return self.recording / self.total if self.total > 0 else 0.0

    def __str__(self) -> str:
        return f"{self.recording:.3g} s of {self.total:.3g} s ({100 * self.share:.3g}%)"


class Tracker:
    """Records a training that goes on as if nobody looked::

        with kpframe.study.Tracker(model, inputs, readout=readout, output="run") as track:
            track(0)  # the untrained network
            for step in range(1, 1001):
                ...
                optimizer.step()
                track(step, loss)

    At the steps of its schedule a copy of the network, in evaluation mode, is measured along fixed inputs.
    Neither parameters, gradients and buffers, nor modes, hooks and the optimizer, nor the global random
    generators (torch, NumPy, Python) notice: the training ends with the same weights, bit for bit. What goes
    wrong while a step is recorded is warned of once and told at the end; it never ends the training. The
    folder is that of a run with one training: ``kpframe status``, ``report`` and ``export`` read it.

    Args:
        model: the module that is trained: a cell ``(x, h) -> h``, ``torch.nn.RNN``, ``GRU`` or ``LSTM``, a
            ``kpframe.Model``, or what ``kpframe.wrap`` made of a cell. What ``torch.compile`` or data
            parallelism put around it is looked through.
        inputs: what the operators are built along: ``[B, T, I]`` of the model's dtype, on its device, or
            ``Trials``.
        readout: ``kpframe.Readout``, or ``torch.nn.Linear`` on the state or on its output ``h``. Without one,
            quantities that need it are left out.
        loss: ``"mse"`` or ``"cross_entropy"``; by the kind of the targets when left out.
        targets: ``[B, T, O]`` or classes ``[B, T]``, as ``Trials.from_tensors`` takes them.
        test: trials on which loss and accuracy are given.
        unseen: further inputs; all is recorded along both, with a dimension ``inputs``.
        output: the folder; made when it does not exist.
        schedule: steps to record at, ``n`` for every n-th, ``every(n)`` or ``log_spaced(count, last)``; about
            8 in each tenfold when left out. A step that the training does not come to is made up for at the
            next one that it comes to.
        quantities: names, texts such as ``"spectrum(k=10)"`` or ``"late:spectrum(k=10)"`` with a label of its
            own, ``Quantity`` objects, or any of these by label; those of a study that can be measured when
            left out.
        operators: products of P, K, Phi, J and G that are measured.
        budget: operator products for each estimate.
        seed: of the random probes.
        title: of the run.
        rules: learning rules to compare with the exact gradient: texts, or rules by label.
        learning_rate: eta of plain gradient descent, for what it is predicted to change and to reach.
        overwrite: replace what a run has left in the folder.
        resume: go on with what a tracker has left there. Steps up to the first that comes now are kept, later
            ones are of a course that the training has left, and are removed.
        quiet: say nothing on standard error at the end but what is missing.

    Raises:
        ArgumentError: (of which ShapeError, NonFiniteError) naming the argument; DtypeError, DeviceError,
            UnsupportedError, UnknownNameError, SettingsError: all before the training, here or on entering.
        OutputError: on entering, for a folder that cannot be written, is in use, or holds a run.

    Examples:
        >>> import kpframe.study, tempfile, torch
        >>> generator = torch.manual_seed(0)
        >>> cell, x = torch.nn.RNNCell(3, 4), torch.randn(2, 5, 3)
        >>> folder = tempfile.TemporaryDirectory()
        >>> with kpframe.study.Tracker(cell, x, output=folder.name, quantities=["trace"]) as track:
        ...     track(0)
        ...     track(1, 0.5)
        >>> with kpframe.open_run(folder.name) as run:
        ...     print(run["trace"].dims, run.step.values)
        ('network', 'seed', 'step', 'operator') [0 1]
        >>> folder.cleanup()
    """

    def __init__(
        self,
        model: torch.nn.Module,
        inputs: Inputs,
        *,
        readout: torch.nn.Module | None = None,
        loss: str | None = None,
        targets: torch.Tensor | None = None,
        test: Trials | None = None,
        unseen: Inputs | None = None,
        output: str | Path = "kpframe-track",
        schedule: Schedule | Iterable[int] | int | None = None,
        quantities: Quantities | None = None,
        operators: Iterable[str] = OPERATORS,
        budget: int = 60,
        seed: int = 0,
        title: str | None = None,
        rules: Rules | None = None,
        learning_rate: float | None = None,
        overwrite: bool = False,
        resume: bool = False,
        quiet: bool = False,
    ) -> None:
        self._schedule = schedule_of(schedule)
        self._around = surroundings_of(
            inputs,
            targets=targets,
            loss=loss,
            test=test,
            unseen=unseen,
            rules=rules,
            operators=operators,
            budget=whole(budget, "budget", 4),
            seed=whole(seed, "seed", 0, _MOST_SEEDS - 1),
        )
        if overwrite and resume:
            raise ArgumentError(mismatch("resume", "False beside overwrite=True", True))
        self._learning_rate = None if learning_rate is None else check_rate(learning_rate)
        self._network = LiveNetwork(model, readout)
        title = f"Training of {self._network.name}" if title is None else title
        check_labels([title], "title")
        with untouched(self._network.device):
            moment = self._moment(0)
            for name in self._around.probes:
                _ = moment.along(name).operators
                if moment.readout is not None and moment.probe.trials is not None:
                    _ = moment.along(name).output_err
            if moment.readout is not None and test is not None and self._around.loss is not None:
                scores_of(moment.model, moment.readout, test, self._around.loss)
            asked, self.left_out = measurable(moment, quantities)
            settings = described(moment, asked)
        self._quantities = {label: one.quantity for label, one in asked.items()}
        label = self._network.name
        self._cell = file_names([label])[label]
        self._folder = TrackerFolder(
            Path(output),
            settings,
            self._cell,
            {"network": label, "seed": self._around.seed},
            title=title,
            overwrite=overwrite,
            resume=resume,
        )
        self._table, self._display = Table(title, self._around), LiveDisplay(self)
        self._losses, self._quiet = Losses(), quiet
        self._open = False
        self._last, self._due = -1, -1.0  # nothing is due between them: each call is looked at
        self._known = False  # whether a step has come since it was entered
        self._missing: dict[str, str] = {}
        self._warned = False
        self._kept: dict[int, tuple[Model, Readout | None]] = {}  # the first and the latest recorded network
        self._ignored = 0
        self._began = self._written = self._writing = self._recording = self._total = 0.0

    @property
    def overhead(self) -> Overhead:
        """What recording has cost so far."""
        running = perf_counter() - self._began if self._open else 0.0
        return Overhead(self._recording, self._total + running)

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps that are recorded."""
        return tuple(self._folder.steps)

    @property
    def missing(self) -> dict[str, str]:
        """What should have been recorded and could not be, ``"step 400"``, and why."""
        return dict(self._missing)

    def __enter__(self) -> Self:
        if self._open:
            raise ArgumentError(mismatch("Tracker", "to be entered once", "twice"))
        self._folder.open()
        self._open, self._known = True, False
        self._began = self._written = perf_counter()
        self._writing = 0.0
        self._last, self._due = -1, -1.0
        self._display.open()
        return self

    def __call__(self, step: int, loss: object = None) -> None:
        """Tell where the training is; it is recorded where the schedule says so.

        Steps ascend. The same step again is the same network: nothing is recorded again, and a loss is taken
        where none was given yet. A step before the last one is warned of once, and left out.

        Args:
            step: updates made: the network is what it is after so many.
            loss: the training loss, a number or a tensor of one.

        Raises:
            ArgumentError: for a step that is no whole number >= 0, a loss that is no number, and outside
                ``with``.
        """
        if type(step) is int and self._last < step < self._due:
            if loss is not None:
                self._losses.add(step, loss)
            self._last = step
            return
        self._come_to(step, loss, always=False)

    def record(self, step: int, loss: object = None) -> None:
        """Record ``step`` whatever the schedule says; otherwise as a call with it and ``loss``."""
        self._come_to(step, loss, always=True)

    def _come_to(self, step: int, loss: object, *, always: bool) -> None:
        if not self._open:
            raise ArgumentError(
                mismatch("Tracker", "to be called inside `with Tracker(...) as track:`", "outside")
            )
        step = whole(step, "step", 0)
        if not self._known:
            self._begin(step)
        if step < self._last:
            self._go_back(step)
            return
        if loss is not None and step > self._losses.last_step:
            self._losses.add(step, loss)
        self._last = step
        if (always and step not in self._folder.steps) or step >= self._due:
            self._record(step)
            after = self._schedule.after(step)
            self._due = math.inf if after is None else after

    def _begin(self, step: int) -> None:
        """Take up what an earlier part of the training left, up to the first step that comes now."""
        self._known = True
        with self._never_ending("what was recorded before"):
            if (data := self._folder.keep_until(step)) is not None:
                self._losses.restore(data, step)
                self._recording += float(data["recording_seconds"])
                self._total += float(data["loop_seconds"])
        after = self._schedule.after(max(self._folder.steps, default=-1))
        self._due = math.inf if after is None else after

    def _go_back(self, step: int) -> None:
        self._ignored += 1
        if self._ignored == 1:
            self._warn(
                f"step: expected one after {self._last}, got {step}; steps that go back are not recorded: "
                "count the updates of all epochs"
            )

    def _record(self, step: int) -> None:
        began = perf_counter()
        with self._never_ending(f"step {step}"):
            with untouched(self._network.device):
                moment = self._moment(step)
                extra: dict[str, Any] = {"seed": self._around.seed}
                if moment.readout is not None:
                    extra["reads"] = [moment.readout.hidden.start, moment.readout.hidden.stop]
                checkpoint = {**self._network.registered, "extra": extra}
                data = write_step(self._folder.run, self._cell, moment, self._quantities, **checkpoint)
            self._folder.add(step)
            self._keep(step, moment)
            self._table.add(step, self._losses.at(step), data, perf_counter() - began)
        self._recording += perf_counter() - began
        began = perf_counter()
        if len(self._losses) < _MANY or self._writing <= _SHARE * (began - self._written):
            with self._never_ending("the losses"):
                self._write_losses("under way")
            self._written, self._writing = perf_counter(), perf_counter() - began
        self._display.update()
        self._recording += perf_counter() - began

    def _moment(self, step: int) -> Moment:
        """Return the network as it is now."""
        model, readout = self._network.copies()
        return Moment(
            model,
            readout,
            self._around,
            step=step,
            first=lambda: self._earlier(step, 0) or Moment(model, readout, self._around, step=step),
            previous=lambda: self._earlier(step, -1),
            learning_rate=self._learning_rate,
        )

    def _earlier(self, step: int, place: int) -> Moment | None:
        """Return one of the networks that were recorded before a step, None where there is none."""
        steps = [one for one in self._folder.steps if one < step]
        if not steps:
            return None
        found = steps[place]
        if found not in self._kept:  # an earlier part of the training recorded it
            network = self._network.copies()
            self._folder.load(found, *network)
            self._kept[found] = network
        return Moment(*self._kept[found], self._around, step=found, learning_rate=self._learning_rate)

    def _keep(self, step: int, moment: Moment) -> None:
        """Keep the network of a recorded step, and the first one, for the steps that come."""
        first = min(self._folder.steps)
        self._kept = {one: network for one, network in self._kept.items() if one == first}
        self._kept[step] = (moment.model, moment.readout)

    def _write_losses(self, outcome: str, reason: str = "") -> None:
        units = "1" if self._around.loss is None else SCORES[self._around.loss].loss_unit
        stopped = self._last + 1 if outcome == "interrupted" else math.nan  # the update under way
        data, spent = self._losses.dataset(outcome, stopped, reason, units), self.overhead
        for name, value, text in (
            ("recording_seconds", spent.recording, "time spent on recording"),
            ("loop_seconds", spent.total, "time of the training, recording included"),
        ):
            data[name] = ((), value, {"long_name": text, "units": "s"})
        self._folder.run.write_dataset(training_file(self._cell), data, cell=self._cell)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        began, finished = perf_counter(), False
        try:
            with self._never_ending("the losses"):
                if error is None:
                    self._write_losses("trained")
                else:
                    self._write_losses("interrupted", told(error))
            with self._never_ending("results.nc"):
                if error is None and self._folder.steps:
                    self._folder.gather(self._quantities)
            finished = error is None
        finally:
            with self._never_ending("run.json"):
                self._folder.close(finished=finished)
        self._recording += perf_counter() - began
        self._total, self._open = self.overhead.total, False
        self._last, self._due = -1, -1.0
        self._display.update()
        with suppress(Exception):  # there may be no standard error
            for line in self._notes() if not self._quiet else self._faults():
                print(f"kpframe: {line}", file=sys.stderr)

    @contextmanager
    def _never_ending(self, what: str) -> Iterator[None]:
        """Warn of what goes wrong inside, once, and let the training go on."""
        try:
            yield
            self._missing.pop(what, None)
        except Exception as error:
            self._missing[what] = say(error)
            if not self._warned:
                self._warned = True
                self._warn(f"{what} could not be kept; the training goes on ({say(error)})")

    def _warn(self, text: str) -> None:
        try:
            warnings.warn(text, TrackingWarning, stacklevel=4)
        except TrackingWarning:  # warnings are errors here, which must not end the training, either
            with suppress(Exception):
                print(f"kpframe: {text}", file=sys.stderr)

    def _notes(self) -> list[str]:
        count = len(self._folder.steps)
        said = f"{count} step{'' if count == 1 else 's'} recorded in {str(self._folder.path)!r}"
        notes = [f"{said}; recording took {self.overhead}"]
        if self.left_out:
            notes.append(f"left out: {'; '.join(f'{name} {why}' for name, why in self.left_out.items())}")
        return notes + self._faults()

    def _faults(self) -> list[str]:
        faults = []
        if self._missing:
            *_, why = self._missing.values()
            faults.append(f"missing: {', '.join(self._missing)} ({why})")
        if self._ignored:
            faults.append(f"{self._ignored} calls with steps that went back were left out")
        return faults

    def table(self) -> str:
        """Return the recorded steps as a table in plain text: the first and the last ones."""
        return self._table.text(self._notes())

    def _repr_html_(self) -> str:
        return self._table.html(self._notes())

    def __repr__(self) -> str:
        return f"Tracker({self._network.name}, {len(self._folder.steps)} steps in {str(self._folder.path)!r})"
