"""Train one initial network by several learning rules: loss curves, and the geometry each one ends in."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from attrs import asdict, evolve, field, frozen

from kpframe.errors import ArgumentError, KpframeError, SettingsError, mismatch, whole
from kpframe.flow._flow import Flow
from kpframe.models._linearize import linearize
from kpframe.models._model import Model, create_model
from kpframe.operators._base import Operator
from kpframe.rules._rule import LearningRule
from kpframe.spectra import alignment, effective_rank
from kpframe.study._build import test_trials
from kpframe.study._checkpoint import save_checkpoint
from kpframe.study._files import make_folder
from kpframe.study._folder import RunFolder
from kpframe.study._labels import check_labels, file_names
from kpframe.study._scores import SCORES, scores_of
from kpframe.study._seeds import gathered
from kpframe.study._training import Progress, ProgressCallback, Trainer, TrainingSettings
from kpframe.study._training_data import Measured, TrainingResult, training_dataset
from kpframe.tasks._error import output_error
from kpframe.tasks._readout import Readout
from kpframe.tasks._task import Task, Trials, create_task

#: Bytes that the numbers and the page take at least, beside the checkpoints.
LEAST = 90_000
#: Seconds after which the losses of a rule that is being trained are written again.
SAVE_EVERY = 30.0


@frozen
class Experiment:
    """What is trained, on what, and how.

    Attributes:
        model, model_settings: a registered model; ``input_size`` is the task's unless given.
        task, task_settings: a registered task.
        training: its ``gradient`` is always ``"operators"`` here.
        reads: component of the state that is read out; all of it by default.
        dtype: ``"float32"`` or ``"float64"``.
        trials: size of the probe batch on which operators are built.
        budget: operator products for each estimate.
        seed: of initial weights, training trials, probes and the draws of stochastic rules.
        seeds: how many seeds, ``seed`` and those after it, each a training of its own.

    Raises:
        SettingsError: for no seed, and for weights with a seed of their own where there are several.
    """

    model: str
    task: str
    training: TrainingSettings
    model_settings: Mapping[str, Any] = field(factory=dict)
    task_settings: Mapping[str, Any] = field(factory=dict)
    reads: str | None = None
    dtype: str = "float32"
    trials: int = 24
    budget: int = 60
    seed: int = 0
    seeds: int = 1

    def __attrs_post_init__(self) -> None:
        whole(self.seeds, "seeds", error=SettingsError)
        if self.seeds > 1 and self.model_settings.get("seed") is not None:
            expected = "no 'seed' with several seeds, each of which draws initial weights of its own"
            raise SettingsError(mismatch("model_settings", expected, self.model_settings["seed"]))

    def network(self, task: Task) -> tuple[Model, Readout]:
        """Return the initial network, a function of the seed."""
        with torch.random.fork_rng():  # as in a study: torch's own stream is left alone
            torch.manual_seed(self.seed)
            model = create_model(self.model, **self.settings(task)).to(getattr(torch, self.dtype))
        hidden = None if self.reads is None else model.component_slice(self.reads)
        dtype = getattr(torch, self.dtype)
        return model, Readout(model.width, task.output_size, hidden=hidden, generator=self.seed, dtype=dtype)

    def settings(self, task: Task) -> dict[str, Any]:
        """Return the model's settings, the task's number of inputs among them."""
        return {"input_size": task.input_size, **self.model_settings}


def train_rules(
    rules: Mapping[str, LearningRule],
    experiment: Experiment,
    output: Path | RunFolder | None = None,
    report: ProgressCallback | None = None,
) -> xr.Dataset:
    """Train copies of one initial network, each by its own rule, on the same trials.

    Each rule sets the model's gradient; the readout learns by its own exact one. A stochastic rule draws
    anew at each update. A rule that diverges, or raises an error, keeps its losses so far; the update where
    it happened and the reason are recorded, its other figures are NaN, and the other rules go on.

    Args:
        rules: label -> rule, linear in the error or not.
        experiment: what is trained, on what, and how.
        output: folder for ``training.nc``, ``checkpoints/initial.safetensors`` and one for each rule, or such
            a folder that is held (see ``training_folder``); None for none. ``training.nc`` holds what there
            is after each rule, every 30 s, and when the training is interrupted.
        report: called after each update.

    Returns:
        A dataset with dims ``rule, rule_other, update, operator, parameter``; with several seeds as
        ``kpframe.study._seeds.over_seeds``. Standard errors are those of the estimates in one seed, and over
        the seeds in several.

    Raises:
        ArgumentError: for no rules at all, or labels that cannot be shown.
        UnsupportedError: for a rule that needs a structure that the model does not have, before any training.
        OutputError: for a folder that cannot be written or holds another run, before any training.
    """
    if isinstance(output, Path):
        with training_folder(output, rules, experiment) as folder:
            return train_rules(rules, experiment, folder, report)
    if not rules:
        raise ArgumentError(mismatch("rules", "at least one learning rule", "none"))
    check_labels(rules, "rules")
    done: list[xr.Dataset] = []
    for place in range(experiment.seeds):
        one = evolve(experiment, seed=experiment.seed + place)

        done.append(_from_one_seed(rules, one, output, _of_seed(place, experiment.seeds, report), done))
    return gathered(done, experiment.seed)


def _of_seed(place: int, seeds: int, report: ProgressCallback | None) -> ProgressCallback:
    """Return what reports the progress of one seed as a part of all of them."""

    def told(label: str, made: int, steps: int, loss: float, doing: str = "", /) -> None:
        if report is not None:
            report(label, place * steps + made, seeds * steps, loss, doing)

    return told


def _from_one_seed(
    rules: Mapping[str, LearningRule],
    experiment: Experiment,
    folder: RunFolder | None,
    report: ProgressCallback,
    before: Sequence[xr.Dataset],
) -> xr.Dataset:
    """Train the network of one seed; what there is is written with the trainings ``before``."""
    task = create_task(experiment.task, **experiment.task_settings)
    model, readout = experiment.network(task)
    dtype = readout.weight.dtype
    probe = task.sample(experiment.trials, generator=experiment.seed, split="test", dtype=dtype)
    _check(rules, model, readout, task, probe)
    test = test_trials(task, experiment.seed, dtype)
    names = file_names(rules, taken=["initial"])
    run = _Run(experiment, task, probe, test, folder, names, before)
    initial = run.measured(model, readout)
    if initial.problems:
        raise ArgumentError(
            mismatch("model", "figures of the network before training", "; ".join(initial.problems))
        )
    run.save(None, model, readout, 0)
    results: dict[str, TrainingResult] = {}
    for label, rule in rules.items():
        results[label] = run.trained(label, rule, (model, readout), results, initial, report)
        run.keep(results, initial)
    return run.dataset(results, initial)


def training_folder(
    output: Path, rules: Mapping[str, LearningRule], experiment: Experiment, *, overwrite: bool = False
) -> RunFolder:
    """Return the folder of a training, to be entered with ``with``; raises as ``RunFolder``."""
    count = f"{len(rules)} learning rule{'s' if len(rules) > 1 else ''}"
    if experiment.seeds > 1:
        count += f", from {experiment.seeds} seeds"
    task = create_task(experiment.task, **experiment.task_settings)
    network = experiment.network(task)
    size = sum(t.nbytes for part in network for t in part.state_dict().values())
    return RunFolder(
        output,
        "train",
        asdict(experiment) | {"rules": [[label, repr(rule)] for label, rule in rules.items()]},
        title=f"{experiment.model} trained on {experiment.task} by {count}",
        seed=experiment.seed,
        overwrite=overwrite,
        needed=LEAST + size * (1 + len(rules)) * experiment.seeds,
    )


def _check(
    rules: Mapping[str, LearningRule], model: Model, readout: Readout, task: Task, probe: Trials
) -> None:
    """Apply every rule once, so that one which cannot be used is known before any is trained."""
    flow = linearize(model, probe.inputs, mask=probe.mask)
    with torch.no_grad():
        output_err = output_error(readout(flow.trajectory.states), probe, task.loss)
    for rule in rules.values():
        try:
            rule.gradient(flow, readout=readout, output_err=output_err)
        except KpframeError:
            raise
        except Exception:  # of other kinds: it costs the rule's own curve, where it is recorded
            continue


@frozen(eq=False)
class _Run:
    """One experiment under way."""

    experiment: Experiment
    task: Task
    probe: Trials
    test: Trials
    folder: RunFolder | None
    names: dict[str, str]
    before: Sequence[xr.Dataset]

    def options(self, place: int) -> dict[str, Any]:
        """Return what an estimate may spend, and a generator of its own."""
        seed = 1000 * self.experiment.seed + place
        generator = torch.Generator(self.probe.inputs.device).manual_seed(seed)
        return {"budget": self.experiment.budget, "generator": generator}

    def trained(
        self,
        label: str,
        rule: LearningRule,
        network: tuple[Model, Readout],
        results: Mapping[str, TrainingResult],
        initial: Measured,
        report: ProgressCallback,
    ) -> TrainingResult:
        """Train copies of the network by a rule, and write now and then, and on Ctrl-C, what there is of it.

        ``results`` are those of the rules before, the first of which the others are compared with.
        """
        losses = np.full(self.experiment.training.steps, np.nan)

        def keep() -> None:
            self.keep({**results, label: TrainingResult(losses, "under way")}, initial)

        try:
            result = self.result(label, rule, network, losses, report, keep)
            if result.network is not None:
                first = next(iter(results.values())).network if results else result.network
                result = self.aligned(result, result.network, {"first": first, "initial": initial})
            return result
        except KeyboardInterrupt:
            keep()
            raise

    def result(
        self,
        label: str,
        rule: LearningRule,
        network: tuple[Model, Readout],
        losses: np.ndarray,
        report: ProgressCallback,
        keep: Callable[[], None],
    ) -> TrainingResult:
        """Train copies of the network, filling ``losses``; return what came of it."""
        model, readout = deepcopy(network)
        updates, made, saved = self.updates(rule, model, readout), 0, time.monotonic()
        while True:
            try:
                update = next(updates, None)
                measured = None if update is not None else self.measured(model, readout)
            except Exception as error:
                return TrainingResult.stopped(losses, made + 1, error)
            if update is None:
                self.save(label, model, readout, made)
                return TrainingResult(losses, "trained", network=measured)
            made = update.step
            losses[made - 1] = update.loss
            report(label, made, len(losses), update.loss)
            if time.monotonic() > saved + SAVE_EVERY:
                keep()
                saved = time.monotonic()

    def aligned(
        self, result: TrainingResult, network: Measured, others: Mapping[str, Measured | None]
    ) -> TrainingResult:
        """Return the result of a rule with alignments; what could not be estimated is its failure."""
        for name, other in others.items():
            if other is not None:
                network.estimate(
                    network.alignments,
                    name,
                    f"alignment with the {name}",
                    partial(alignment, network.flow.Phi, other.flow.Phi, **self.options(len(network.ranks))),
                )
        if not network.problems:
            return result
        after = len(result.losses) + 1.0
        return evolve(result, outcome="failed", stopped_at=after, reason="; ".join(network.problems))

    def updates(self, rule: LearningRule, model: Model, readout: Readout) -> Iterator[Progress]:
        """Make the updates, a stochastic rule drawing anew for each."""
        seed = self.experiment.seed
        settings = evolve(self.experiment.training, gradient="operators")
        return Trainer(model, readout, self.task, settings, rule=rule, seed=seed, draws=seed).run()

    def measured(self, model: Model, readout: Readout) -> Measured:
        """Measure a network on the probe and test trials; raises ``NonFiniteError`` where it has diverged.

        An estimate that cannot be made is NaN, and among the problems.
        """
        scores = scores_of(model, readout, self.test, self.task.loss)
        flow = linearize(model, self.probe.inputs, mask=self.probe.mask)
        parameters = {name: value.detach().clone() for name, value in model.trainable().items()}
        found = Measured(flow, scores, parameters)
        for place, (name, operator) in enumerate(_operators(flow).items()):
            found.estimate(
                found.ranks,
                name,
                f"effective rank of {name}",
                partial(effective_rank, operator, **self.options(place)),
            )
        return found

    def keep(self, results: Mapping[str, TrainingResult], initial: Measured) -> None:
        """Write what came of the rules so far."""
        if self.folder is not None and results:
            data = gathered(
                [*self.before, self.dataset(results, initial)], self.experiment.seed - len(self.before)
            )
            self.folder.write_dataset("training.nc", data)

    def file(self, label: str | None) -> str:
        """Return the name of a rule's checkpoint, of the initial network's for None."""
        stem = "initial" if label is None else self.names[label]
        return stem if self.experiment.seeds == 1 else f"{stem}-seed={self.experiment.seed}"

    def save(self, label: str | None, model: Model, readout: Readout, step: int) -> None:
        if self.folder is None:
            return
        experiment = self.experiment
        save_checkpoint(
            make_folder(self.folder.path / "checkpoints") / f"{self.file(label)}.safetensors",
            model,
            readout,
            name=experiment.model,
            settings=experiment.settings(self.task),
            step=step,
            extra={
                "task": {"name": experiment.task, "settings": dict(experiment.task_settings)},
                "reads": [readout.hidden.start, readout.hidden.stop],
                "rule": label,
                "seed": experiment.seed,
                "run": self.folder.id,
            },
        )

    def dataset(self, results: Mapping[str, TrainingResult], initial: Measured) -> xr.Dataset:
        """Return what came of the rules so far."""
        steps = self.experiment.training.steps
        files = {label: self.file(label) for label in results}
        return training_dataset(results, initial, files, steps, SCORES[self.task.loss])


def _operators(flow: Flow) -> dict[str, Operator]:
    return {"Phi": flow.Phi, "P P*": flow.P @ flow.P.T}
