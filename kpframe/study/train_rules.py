"""Train one initial network by several learning rules: loss curves, and the geometry each one ends in."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from attrs import evolve, field, frozen

from kpframe.checkpoint import save_checkpoint
from kpframe.errors import ArgumentError, NonFiniteError, mismatch
from kpframe.flow import Flow, linearize
from kpframe.model import Model
from kpframe.operators.base import Operator
from kpframe.readout import Readout, output_error
from kpframe.registry import create_model, create_task
from kpframe.rules import ComposedRule, LearningRule, StochasticRule, gradient_of
from kpframe.scale import cosine, norm
from kpframe.spectra import alignment, effective_rank
from kpframe.study.run import test_trials
from kpframe.study.scores import SCORES, scores_of
from kpframe.tasks import Task, Trials
from kpframe.training import Trainer, TrainingSettings

#: Called with a rule's label, the updates made, the updates in all and the latest loss.
Report = Callable[[str, int, int, float], None]

_LONG_NAMES = {
    "training_loss": "training loss, before each update",
    "diverged_at": "update at which loss or states were no longer finite; NaN where they stayed so",
    "test_loss_before": "test loss before training",
    "test_loss": "test loss after training",
    "effective_rank_before": "effective rank tr(G)^2 / tr(G^2) before training",
    "effective_rank_before_stderr": "standard error of the effective rank before training",
    "effective_rank": "effective rank tr(G)^2 / tr(G^2) after training",
    "effective_rank_stderr": "standard error of the effective rank",
    "alignment_with_first": "alignment of Phi after training with that of the first rule",
    "alignment_with_first_stderr": "standard error of the alignment with the first rule",
    "alignment_with_initial": "alignment of Phi after training with that before",
    "alignment_with_initial_stderr": "standard error of the alignment with the initial network",
    "parameter_norm_before": "norm of a parameter before training",
    "parameter_norm": "norm of a parameter after training",
    "parameter_change": "norm of the change of a parameter",
    "change_cosine": "cosine between the changes of all the model's parameters under two rules",
}


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

    def network(self, task: Task) -> tuple[Model, Readout]:
        """Return the initial network, a function of the seed."""
        with torch.random.fork_rng():  # as in a study: torch's own stream is left alone
            torch.manual_seed(self.seed)
            model = create_model(self.model, **self.settings(task)).to(getattr(torch, self.dtype))
        hidden = None if self.reads is None else model.stretch(self.reads)
        dtype = getattr(torch, self.dtype)
        return model, Readout(model.width, task.output_size, hidden=hidden, generator=self.seed, dtype=dtype)

    def settings(self, task: Task) -> dict[str, Any]:
        """Return the model's settings, the task's number of inputs among them."""
        return {"input_size": task.input_size, **self.model_settings}


def train_rules(
    rules: Mapping[str, LearningRule],
    experiment: Experiment,
    output: Path | None = None,
    report: Report | None = None,
) -> xr.Dataset:
    """Train copies of one initial network, each by its own rule, on the same trials.

    Each rule sets the model's gradient; the readout learns by its own exact one. A stochastic rule draws
    anew at each update. A rule that diverges keeps its losses so far and the update where it happened, and
    its other figures are NaN.

    Args:
        rules: label -> rule, linear in the error or not.
        experiment: what is trained, on what, and how.
        output: folder for ``checkpoints/initial.safetensors`` and one for each rule; None for none.
        report: called after each update.

    Returns:
        A dataset with dims ``rule, rule_other, update, operator, parameter``.

    Raises:
        ArgumentError: for no rules at all.
        UnsupportedError: for a rule that needs a structure that the model does not have, before any training.
    """
    if not rules:
        raise ArgumentError(mismatch("rules", "at least one learning rule", "none"))
    task = create_task(experiment.task, **experiment.task_settings)
    model, readout = experiment.network(task)
    dtype = readout.weight.dtype
    probe = task.sample(experiment.trials, generator=experiment.seed, split="test", dtype=dtype)
    _check(rules, model, readout, task, probe)
    test = test_trials(task, experiment.seed, dtype)
    run = _Run(experiment, task, probe, test, output, checkpoint_names(list(rules)))
    initial = run.measured(model, readout)
    run.save("initial", model, readout, 0)
    ends = {label: run.trained(label, rule, model, readout, report) for label, rule in rules.items()}
    return run.dataset(ends, initial)


def checkpoint_names(labels: list[str]) -> dict[str, str]:
    """Return a file's name for each rule, without characters that a shell or a file system reads."""
    names: dict[str, str] = {}
    for label in labels:
        stem = re.sub(r"[^A-Za-z0-9_.=-]+", "-", label).strip("-.") or "rule"
        taken = {"initial", *names.values()}
        name, count = stem, 2
        while name in taken:
            name, count = f"{stem}-{count}", count + 1
        names[label] = name
    return names


def _check(
    rules: Mapping[str, LearningRule], model: Model, readout: Readout, task: Task, probe: Trials
) -> None:
    """Apply every rule once, so that one which cannot be used is known before any is trained."""
    flow = linearize(model, probe.inputs, mask=probe.mask)
    with torch.no_grad():
        output_err = output_error(readout(flow.trajectory.states), probe, task.loss)
    for rule in rules.values():
        gradient_of(rule, flow, None, readout, output_err)


def redrawn(rule: LearningRule, generator: torch.Generator) -> LearningRule:
    """Return a rule with new seeds in every stochastic part; any other rule as it is."""
    if isinstance(rule, StochasticRule):
        return rule.sample(generator)
    if isinstance(rule, ComposedRule):
        return ComposedRule(redrawn(rule.outer, generator), redrawn(rule.inner, generator))
    return rule


@frozen(eq=False)
class _Measured:
    """What is known of a network at one moment of its training."""

    flow: Flow
    scores: tuple[float, float]
    ranks: dict[str, tuple[float, float]]
    parameters: dict[str, torch.Tensor]


@frozen(eq=False)
class _End:
    """What came of a rule: its losses, NaN from ``diverged_at`` on, and the network unless it diverged."""

    losses: np.ndarray
    diverged_at: float
    network: _Measured | None


@frozen(eq=False)
class _Run:
    """One experiment under way."""

    experiment: Experiment
    task: Task
    probe: Trials
    test: Trials
    output: Path | None
    names: dict[str, str]

    def generator(self, place: int) -> torch.Generator:
        return torch.Generator(self.probe.inputs.device).manual_seed(1000 * self.experiment.seed + place)

    def trained(
        self, label: str, rule: LearningRule, model: Model, readout: Readout, report: Report | None
    ) -> _End:
        """Train copies of the network by a rule."""
        model, readout = deepcopy(model), deepcopy(readout)
        draws = torch.Generator().manual_seed(self.experiment.seed)
        settings = evolve(self.experiment.training, gradient="operators")
        steps, losses = settings.steps, np.full(settings.steps, np.nan)
        trainer = Trainer(
            model, readout, self.task, settings, rule=redrawn(rule, draws), seed=self.experiment.seed
        )
        made = 0
        try:
            for progress in trainer.run():
                made = progress.step
                losses[made - 1] = progress.loss
                if report is not None:
                    report(label, made, steps, progress.loss)
                trainer.rule = redrawn(rule, draws)
            end = self.measured(model, readout)
        except NonFiniteError:
            return _End(losses, float(min(made + 1, steps)), None)
        self.save(label, model, readout, made)
        return _End(losses, float("nan"), end)

    def measured(self, model: Model, readout: Readout) -> _Measured:
        """Measure a network on the probe and test trials; raises ``NonFiniteError`` where it has diverged."""
        scores = scores_of(model, readout, self.test, self.task.loss)
        flow = linearize(model, self.probe.inputs, mask=self.probe.mask)
        ranks = {}
        for place, (name, operator) in enumerate(_operators(flow).items()):
            rank = effective_rank(operator, budget=self.experiment.budget, generator=self.generator(place))
            ranks[name] = (float(rank.value), float(rank.stderr))
        parameters = {name: value.detach().clone() for name, value in model.trainable().items()}
        return _Measured(flow, scores, ranks, parameters)

    def save(self, label: str, model: Model, readout: Readout, step: int) -> None:
        if self.output is None:
            return
        folder = self.output / "checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        experiment = self.experiment
        save_checkpoint(
            folder / f"{self.names.get(label, label)}.safetensors",
            model,
            readout,
            name=experiment.model,
            settings=experiment.settings(self.task),
            step=step,
            extra={
                "task": {"name": experiment.task, "settings": dict(experiment.task_settings)},
                "reads": [readout.hidden.start, readout.hidden.stop],
                "rule": None if label == "initial" else label,
            },
        )

    def dataset(self, ends: Mapping[str, _End], initial: _Measured) -> xr.Dataset:
        labels, parameters = list(ends), list(initial.parameters)
        networks = [end.network for end in ends.values()]
        ranks = np.array([list((initial if n is None else n).ranks.values()) for n in networks])
        scores = np.array([(np.nan, np.nan) if n is None else n.scores for n in networks])
        gone = np.array([n is None for n in networks])
        ranks[gone] = np.nan
        norms = np.array([[_norm(n, name) for name in parameters] for n in networks])
        moved = [None if n is None else _change(n, initial) for n in networks]
        before = np.array(list(initial.ranks.values()))
        rule, score = ("rule",), SCORES[self.task.loss]
        data = xr.Dataset(
            {
                "training_loss": (("rule", "update"), np.stack([end.losses for end in ends.values()])),
                "diverged_at": (rule, np.array([end.diverged_at for end in ends.values()])),
                "test_loss_before": ((), initial.scores[0]),
                f"{score.variable}_before": ((), initial.scores[1]),
                "test_loss": (rule, scores[:, 0]),
                score.variable: (rule, scores[:, 1]),
                "effective_rank_before": (("operator",), before[:, 0]),
                "effective_rank_before_stderr": (("operator",), before[:, 1]),
                "effective_rank": (("rule", "operator"), ranks[..., 0]),
                "effective_rank_stderr": (("rule", "operator"), ranks[..., 1]),
                "parameter_norm_before": (
                    ("parameter",),
                    np.array([_norm(initial, name) for name in parameters]),
                ),
                "parameter_norm": (("rule", "parameter"), norms),
                "parameter_change": (
                    ("rule", "parameter"),
                    np.array([[_size(change, name) for name in parameters] for change in moved]),
                ),
                "change_cosine": (("rule", "rule_other"), _cosines(moved)),
                **self._alignments(networks, initial),
            },
            coords={
                "rule": labels,
                "rule_other": labels,
                "operator": list(initial.ranks),
                "parameter": parameters,
                "update": np.arange(1, self.experiment.training.steps + 1),
                "checkpoint": ("rule", [self.names[label] for label in labels]),
            },
        )
        names = _LONG_NAMES | {
            f"{score.variable}_before": f"{score.text}, before training",
            score.variable: f"{score.text}, after training",
        }
        for name, text in names.items():
            units = score.loss_unit if "loss" in name else "1"
            data[name].attrs = {"long_name": text, "units": units}
        return data

    def _alignments(
        self, networks: list[_Measured | None], initial: _Measured
    ) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
        found: dict[str, tuple[tuple[str, ...], np.ndarray]] = {}
        for name, other in (("first", networks[0]), ("initial", initial)):
            rows = []
            for network in networks:
                if network is None or other is None:
                    rows.append((np.nan, np.nan))
                    continue
                likeness = alignment(
                    network.flow.Phi,
                    other.flow.Phi,
                    budget=self.experiment.budget,
                    generator=self.generator(len(initial.ranks)),
                )
                rows.append((float(likeness.value), float(likeness.stderr)))
            values = np.array(rows)
            found[f"alignment_with_{name}"] = (("rule",), values[:, 0])
            found[f"alignment_with_{name}_stderr"] = (("rule",), values[:, 1])
        return found


def _operators(flow: Flow) -> dict[str, Operator]:
    return {"Phi": flow.Phi, "P P*": flow.P @ flow.P.T}


def _norm(network: _Measured | None, name: str) -> float:
    return np.nan if network is None else norm(network.parameters[name])


def _change(network: _Measured, initial: _Measured) -> dict[str, torch.Tensor]:
    return {name: value - initial.parameters[name] for name, value in network.parameters.items()}


def _size(change: dict[str, torch.Tensor] | None, name: str) -> float:
    return np.nan if change is None else norm(change[name])


def _cosines(changes: list[dict[str, torch.Tensor] | None]) -> np.ndarray:  # [rule, rule]
    """Return the cosines between whole changes; NaN where one diverged or nothing changed."""
    found = np.full((len(changes), len(changes)), np.nan)
    flat = [None if c is None else torch.cat([v.reshape(-1) for v in c.values()]) for c in changes]
    for row, one in enumerate(flat):
        for column, other in enumerate(flat):
            if one is not None and other is not None:
                found[row, column] = cosine(one, other)
    return found
