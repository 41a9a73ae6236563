"""Train one initial network by several learning rules: loss curves, and the geometry each one ends in.

Each rule and seed is a cell of a study, trained by the machinery of studies, so that a training that was
ended goes on. What is known of the networks before and after is measured from their checkpoints, each in a
file of its own beside the records of the steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import xarray as xr
from attrs import evolve

from kpframe.errors import ArgumentError, CheckpointError, KpframeError, OutputError, mismatch
from kpframe.flow._flow import Flow
from kpframe.models._linearize import linearize
from kpframe.models._model import Model
from kpframe.rules._rule import LearningRule
from kpframe.spectra import alignment, effective_rank
from kpframe.study._cells import Cell, checkpoint_file, state_file
from kpframe.study._disk.folder import RunFolder
from kpframe.study._disk.labels import check_labels
from kpframe.study._disk.results import read_dataset
from kpframe.study._networks.checkpoint import load_checkpoint
from kpframe.study._ranks.team import note
from kpframe.study._rules.experiment import Experiment, training_folder
from kpframe.study._rules.seeds import gathered
from kpframe.study._rules.training_data import Measured, TrainingResult, training_dataset
from kpframe.study._running.build import network_of, test_trials
from kpframe.study._running.interrupts import ended_by_signals
from kpframe.study._running.processes import Tell, train_cells
from kpframe.study._running.state_file import read_state
from kpframe.study._running.train_cell import last_update, read_training, train_cell
from kpframe.study._running.training import ProgressCallback
from kpframe.study._scores import SCORES, scores_of
from kpframe.tasks._error import output_error
from kpframe.tasks._readout import Readout
from kpframe.tasks._stratified import stratified
from kpframe.tasks._task import create_task


def train_rules(
    rules: Mapping[str, LearningRule],
    experiment: Experiment,
    output: Path | RunFolder | None = None,
    report: ProgressCallback | None = None,
    *,
    jobs: int = 1,
    tell: Tell | None = None,
) -> xr.Dataset:
    """Train copies of one initial network, each by its own rule, on the same trials.

    Each rule sets the model's gradient; the readout learns by its own exact one. A stochastic rule draws
    anew at each update. A rule that diverges, or raises an error, keeps its losses so far; the update where
    it happened and the reason are recorded, its other figures are NaN, and the other rules go on.

    Args:
        rules: label -> rule, linear in the error or not.
        experiment: what is trained, on what, and how.
        output: folder for ``training.nc`` and the files of a run, or such a folder that is held (see
            ``training_folder``), which goes on where the same training was ended; None for none.
            ``training.nc`` holds what there is after each rule, and when the training is interrupted.
        report: called after each update, with the label of a rule and the updates of all its seeds.
        jobs: trainings at the same time, each in a process of its own; the labels are the rules' texts then.
        tell: called with a line for each file that was found damaged and is made anew.

    Returns:
        A dataset with dims ``rule, rule_other, update, operator, parameter``; with several seeds as
        ``over_seeds``. Standard errors are those of the estimates in one seed, and over the seeds in
        several.

    Raises:
        ArgumentError: for no rules at all, or labels that cannot be shown.
        UnsupportedError: for a rule that needs a structure that the model does not have, before any training.
        OutputError: for a folder that cannot be written or holds another run, before any training.
        KpframeError: for trainings whose processes were killed; the run can be resumed.
    """
    if not rules:
        raise ArgumentError(mismatch("rules", "at least one learning rule", "none"))
    check_labels(rules, "rules")
    if output is None:
        with TemporaryDirectory() as place:
            return train_rules(rules, experiment, Path(place) / "run", report, jobs=jobs, tell=tell)
    if isinstance(output, Path):
        with training_folder(output, rules, experiment) as folder:
            return train_rules(rules, experiment, folder, report, jobs=jobs, tell=tell)
    note("rules: trained and measured on rank 0 alone")
    runs = [_Seed(rules, cells, output) for cells in experiment.cells(rules)]
    runs[0].check()
    with ended_by_signals():
        try:
            _train(runs, jobs, report, tell)
        except KeyboardInterrupt:
            with suppress(KpframeError):  # of what there is
                _write(runs, output, experiment.seed)
            raise
        return _write(runs, output, experiment.seed)


def _train(runs: Sequence[_Seed], jobs: int, report: ProgressCallback | None, tell: Tell | None) -> None:
    for run in runs:
        run.begin()
    cells = [cell for run in runs for cell in run.cells.values()]
    of = {cell.label: (label, cell.seed) for run in runs for label, cell in run.cells.items()}
    updates: dict[str, dict[int, int]] = {label: {} for label, _ in of.values()}

    def told(name: str, made: int, steps: int, loss: float, doing: str = "", /) -> None:
        if report is not None and made and not doing:  # of all seeds together
            label, seed = of[name]
            updates[label][seed] = made
            report(label, sum(updates[label].values()), len(runs) * steps, loss)

    if jobs > 1 and len(cells) > 1:
        failures = train_cells(cells, runs[0].folder.writer(), jobs, told, tell)
        if failures:
            listed = "; ".join(f"{name}: {reason}" for name, reason in failures.items())
            raise KpframeError(
                f"{len(failures)} of {len(cells)} trainings came to no end ({listed}); the same command goes "
                "on with them"
            )
    for at, run in enumerate(runs):
        for label, cell in run.cells.items():
            train_cell(cell, run.folder.writer(), told, tell, run.rules[label])
            run.finish(label)
            if cell is not cells[-1]:  # else all is written by the caller
                _write(runs[: at + 1], run.folder, runs[0].seed)
        run.flows.clear()


def _write(runs: Sequence[_Seed], folder: RunFolder, first: int) -> xr.Dataset:
    """Write what came of the rules so far, of the seeds up to the first that has nothing."""
    found = []
    for run in runs:
        if (data := run.dataset()) is None:
            break
        found.append(data)
    if not found:
        raise ArgumentError(mismatch("training", "one that has begun", "none"))
    data = gathered(found, first)
    data.attrs["probe_trials"] = "; ".join(dict.fromkeys(run.probe_text for run in runs[: len(found)]))
    folder.write_dataset("training.nc", data)
    return data


class _Seed:
    """The trainings from one seed: by each rule, of one network, on the same trials.

    Args:
        rules: label -> rule.
        cells: label -> cell.
        folder: of the run.
    """

    def __init__(
        self, rules: Mapping[str, LearningRule], cells: Mapping[str, Cell], folder: RunFolder
    ) -> None:
        self.rules, self.cells, self.folder = rules, cells, folder
        self.start = next(iter(cells.values()))  # any: they start from the same network
        self.seed, self.steps = self.start.seed, self.start.training.steps
        self.budget = self.start.measure.budget
        self.task = create_task(self.start.task, **self.start.task_settings)
        dtype = getattr(torch, self.start.dtype)
        drawn = stratified(
            self.task, self.start.measure.trials, generator=self.seed, split="test", dtype=dtype
        )
        self.probe, self.probe_text = drawn.trials, drawn.text
        self.test = test_trials(self.task, self.seed, dtype)
        self.flows: dict[str | None, Flow] = {}
        self.known: dict[str, Measured] = {}  # what files hold
        self.ended: dict[str, TrainingResult] = {}

    # -- before training -------------------------------------------------------------------------------------

    def check(self) -> None:
        """Apply every rule once, so that one which cannot be used is known before any is trained."""
        model, readout = network_of(self.start, self.task)
        flow = linearize(model, self.probe.inputs, mask=self.probe.mask)
        with torch.no_grad():
            output_err = output_error(readout(flow.trajectory.states), self.probe, self.task.loss)
        for rule in self.rules.values():
            try:
                rule.gradient(flow, readout=readout, output_err=output_err)
            except KpframeError:
                raise
            except Exception:  # of other kinds: it costs the rule's own curve, where it is recorded
                continue

    def begin(self) -> None:
        """Measure the network before training, unless that is there; raises ``ArgumentError`` if it fails."""
        path = self.file(None)
        if self.read(path) is not None:
            return
        model, readout = network_of(self.start, self.task)
        found = self.measured(None, model, readout)
        if found.problems:
            raise ArgumentError(
                mismatch("model", "figures of the network before training", "; ".join(found.problems))
            )
        self.keep(path, found, self.start, 0)

    # -- after training --------------------------------------------------------------------------------------

    def finish(self, label: str) -> None:
        """Measure the network that a rule has trained, unless that is there."""
        path, cell = self.file(label), self.cells[label]
        ended = read_training(self.folder.writer(), cell.name)
        if ended is None or ended.outcome != "trained" or self.read(path) is not None:
            return
        try:
            model, readout = self.network(label)
            found = self.measured(label, model, readout)
        except (CheckpointError, OutputError):
            raise
        except Exception as error:  # the network has diverged in its last update
            found = Measured.failed(error)
        else:
            first = next(iter(self.cells))
            own = self.flow(label, model)
            for name, other in (("first", first), ("initial", None)):
                if other is None or other == label or self.is_known(other):
                    found.estimate(
                        found.alignments,
                        name,
                        f"alignment with the {name}",
                        partial(alignment, own.Phi, self.flow(other).Phi, **self.options(len(found.ranks))),
                    )
        self.keep(path, found, cell, self.steps)
        if label != next(iter(self.cells)):
            self.flows.pop(label, None)

    def is_known(self, label: str) -> bool:
        """Return whether a rule's training came to its end, its network being finite."""
        found = self.read(self.file(label))
        return found is not None and found.error is None

    def options(self, place: int) -> dict[str, Any]:
        """Return what an estimate may spend, and a generator of its own."""
        generator = torch.Generator(self.probe.inputs.device).manual_seed(1000 * self.seed + place)
        return {"budget": self.budget, "generator": generator}

    def network(self, label: str | None) -> tuple[Model, Readout]:
        """Return the network before training, or the one that a rule has trained."""
        model, readout = network_of(self.start, self.task)
        if label is not None:
            path = self.folder.path / checkpoint_file(self.cells[label].name, self.steps)
            checkpoint = load_checkpoint(path)
            checkpoint.load_into(model)
            checkpoint.load_into(readout, "readout")
        return model, readout

    def flow(self, label: str | None, model: Model | None = None) -> Flow:
        """Return the operators of such a network on the probe trials."""
        if label not in self.flows:
            made = self.network(label)[0] if model is None else model
            self.flows[label] = linearize(made, self.probe.inputs, mask=self.probe.mask)
        return self.flows[label]

    def measured(self, label: str | None, model: Model, readout: Readout) -> Measured:
        """Measure a network on the probe and test trials; raises ``NonFiniteError`` where it has diverged.

        An estimate that cannot be made is NaN, and among the problems.
        """
        found = Measured(scores_of(model, readout, self.test, self.task.loss))
        flow = self.flow(label, model)
        for place, (name, operator) in enumerate({"Phi": flow.Phi, "P P*": flow.P @ flow.P.T}.items()):
            found.estimate(
                found.ranks,
                name,
                f"effective rank of {name}",
                partial(effective_rank, operator, **self.options(place)),
            )
        return found

    # -- files -----------------------------------------------------------------------------------------------

    def file(self, label: str | None) -> str:
        """Return where the figures of a network are: no record of a step has such a name."""
        cell = self.start if label is None else self.cells[label]
        return f"steps/{cell.name}-{'before' if label is None else 'after'}.nc"

    def read(self, file: str) -> Measured | None:
        """Return the figures in a file; None where there is none of this run that can be read."""
        with suppress(ArgumentError):
            if file not in self.known:
                data = read_dataset(self.folder.path / file)
                if data.attrs.get("run_id") == self.folder.id:
                    self.known[file] = Measured.from_dataset(data)
        return self.known.get(file)

    def keep(self, file: str, found: Measured, cell: Cell, step: int) -> None:
        """Write the figures of a network."""
        self.folder.write_dataset(file, found.to_dataset(), cell=cell.name, step=step)
        self.known[file] = found

    def dataset(self) -> xr.Dataset | None:
        """Return what came of the rules so far; None where there is nothing."""
        initial = self.read(self.file(None))
        results = {}
        for label in self.cells:
            if (result := self.result(label)) is not None:
                results[label] = result
        if initial is None or not results:
            return None
        initial = initial.of(self.network(None)[0])
        files = {label: checkpoint_file(cell.name, self.steps).stem for label, cell in self.cells.items()}
        return training_dataset(results, initial, files, self.steps, SCORES[self.task.loss])

    def result(self, label: str) -> TrainingResult | None:
        """Return what came of a rule; None where its training has not begun."""
        if label not in self.ended:
            found = self.result_in_files(label)
            if found is None or found.network is None:
                return found
            self.ended[label] = found
        return self.ended[label]

    def result_in_files(self, label: str) -> TrainingResult | None:
        """Return what the files say came of a rule."""
        name = self.cells[label].name
        ended = None
        with suppress(ArgumentError):
            ended = read_training(self.folder.writer(), name)
        if ended is None:
            with suppress(CheckpointError):
                path = self.folder.path / state_file(name)
                _, losses = read_state(path, run=self.folder.id, cell=name)
                return TrainingResult(losses, "under way")
            return None
        found = self.read(self.file(label))
        if ended.outcome != "trained" or found is None:
            return ended
        if found.error is not None:
            outcome, reason = found.error
            return evolve(ended, outcome=outcome, stopped_at=self.steps + 1.0, reason=reason)
        try:
            ended = evolve(ended, network=found.of(self.network(label)[0]))
        except CheckpointError:  # it is damaged, and will be made anew
            return ended
        if found.problems:
            stopped = last_update(ended) + 1.0
            return evolve(ended, outcome="failed", stopped_at=stopped, reason="; ".join(found.problems))
        return ended
