"""The training loop: gradients by autograd, or through the operators by any learning rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from attrs import field, frozen

from kpframe.errors import ArgumentError, CheckpointError, NonFiniteError, check_seed, mismatch
from kpframe.models._linearize import linearize
from kpframe.models._model import Model
from kpframe.operators._isolation import in_isolation, isolated
from kpframe.plugin._settings import setting
from kpframe.rules._rule import ComposedRule, LearningRule, StochasticRule
from kpframe.study._running.optimizers import uncompiled
from kpframe.tasks._error import accuracy, output_error, task_loss
from kpframe.tasks._readout import Readout
from kpframe.tasks._task import Task, Trials


class ProgressCallback(Protocol):
    """Called after each update, and before anything else that takes long."""

    def __call__(self, label: str, made: int, total: int, loss: float, doing: str = "", /) -> None:
        """Be told how far a training is.

        Args:
            label: of what is trained.
            made: updates made.
            total: updates in all.
            loss: the latest.
            doing: what is done now, where it is not training: ``"recording step 100"``.
        """


@frozen
class TrainingSettings:
    """How a model is trained.

    ``momentum`` belongs to SGD; Adam keeps PyTorch's betas (0.9, 0.999).
    """

    steps: int = setting(1000, ge=0, help="number of updates")
    batch_size: int = setting(64, ge=1, help="trials per update")
    optimizer: str = setting("adam", choices=("adam", "sgd"), help="Adam or stochastic gradient descent")
    learning_rate: float = setting(1e-3, gt=0, help="step size eta")
    momentum: float = setting(0.0, ge=0, lt=1, help="momentum of SGD")
    gradient: str = setting(
        "autograd", choices=("autograd", "operators"), help="loss.backward(), or update_operator(Err)"
    )


@frozen
class Progress:
    """What one update leaves to report: its number ``step`` from 1 and the ``loss`` before it."""

    step: int
    loss: float


@frozen(eq=False)
class TrainerState:
    """All that a training goes on from.

    Attributes:
        made: updates made.
        tensors: parameters, buffers, the optimizer's and those of random generators, by name.
        plain: what the optimizer keeps beside tensors, by name, as JSON can hold it.
    """

    made: int
    tensors: Mapping[str, torch.Tensor]
    plain: Mapping[str, Any] = field(factory=dict)


class Trainer:
    """Trains a model and its readout on a task.

    Args:
        model: the model; trained in place.
        readout: the readout; trained in place, always by its own exact gradient.
        task: the source of trials.
        settings: see ``TrainingSettings``.
        rule: the learning rule of ``gradient="operators"``; it sets the model's gradient only.
        seed: seed of the training trials; the task's own stream when left out.
        draws: seed from which a stochastic rule draws anew for each update; the same draw at all of them when
            left out.

    Attributes:
        made: updates made so far.

    Raises:
        ArgumentError: when a rule is missing, or given where autograd is asked for; when model and readout
            share a parameter, which would have two gradients.
    """

    def __init__(
        self,
        model: Model,
        readout: Readout,
        task: Task,
        settings: TrainingSettings,
        *,
        rule: LearningRule | None = None,
        seed: int | None = None,
        draws: int | None = None,
    ) -> None:
        if (rule is not None) != (settings.gradient == "operators"):
            expected = "a LearningRule" if rule is None else "None with gradient='autograd'"
            raise ArgumentError(mismatch("rule", expected, rule))
        own = {id(p): name for name, p in model.named_parameters()}
        if both := [f"{own[id(p)]} as its {n}" for n, p in readout.named_parameters() if id(p) in own]:
            raise ArgumentError(
                mismatch("readout", "parameters of its own", f"the model's {', '.join(both)}")
            )
        self.model, self.readout, self.task, self.settings, self.rule = model, readout, task, settings, rule
        self._generator = None if seed is None else torch.Generator().manual_seed(check_seed(seed))
        self._draws = None if draws is None else torch.Generator().manual_seed(check_seed(draws))
        self.made = self._start = 0
        self._dtype, self._device = readout.weight.dtype, readout.weight.device
        self.optimizer = self._make_optimizer()

    def _make_optimizer(self) -> torch.optim.Optimizer:
        parameters = [*self.model.trainable().values(), *self.readout.parameters()]
        if self.settings.optimizer == "adam":
            return uncompiled(torch.optim.Adam)(parameters, lr=self.settings.learning_rate)
        momentum = self.settings.momentum
        return uncompiled(torch.optim.SGD)(parameters, lr=self.settings.learning_rate, momentum=momentum)

    def run(self) -> Iterator[Progress]:
        """Make the updates one by one, yielding after each; after ``restore``, those that are left.

        Raises:
            NonFiniteError: when states or loss are no longer finite; names the step.
        """
        start, self._start = self._start, 0
        for step in range(start + 1, self.settings.steps + 1):
            if self.rule is not None and self._draws is not None:
                self.rule = redrawn(self.rule, self._draws)
            with isolated(self._device, "training"), torch.enable_grad():  # left before the caller goes on
                loss = self._update(step)
            self.made = step
            yield Progress(step, float(loss))

    def state(self) -> TrainerState:
        """Return a copy of all that the training goes on from, to be taken between two updates.

        Raises:
            ArgumentError: without ``seed``: the task's own stream of trials is not the training's alone.
        """
        if self._generator is None:
            raise ArgumentError(mismatch("seed", "one, to go on with the same trials", None))
        tensors = dict(self._weights())
        plain: dict[str, Any] = {}
        for place, entries in self.optimizer.state_dict()["state"].items():
            for name, value in entries.items():
                into = tensors if isinstance(value, torch.Tensor) else plain
                into[f"optimizer.{place}.{name}"] = value
        tensors["generator"] = self._generator.get_state()
        if self._draws is not None:
            tensors["draws"] = self._draws.get_state()
        plain_format = torch.contiguous_format
        kept = {name: value.detach().clone(memory_format=plain_format) for name, value in tensors.items()}
        return TrainerState(self.made, kept, plain)

    def restore(self, state: TrainerState) -> None:
        """Go on from ``state``, of a trainer that was made in the same way: ``run`` makes the updates left.

        Raises:
            CheckpointError: for a state of another network or training; nothing is changed then.
        """
        weights, given = dict(self._weights()), dict(state.tensors)
        generators = {"generator": self._generator, "draws": self._draws}
        wanted = {name: f"{list(t.shape)} {t.dtype}" for name, t in weights.items()}
        wanted |= {n: f"{list((s := g.get_state()).shape)} {s.dtype}" for n, g in generators.items() if g}
        optimizer: dict[int, dict[str, Any]] = {}
        for name in [name for name in (*given, *state.plain) if name.startswith("optimizer.")]:
            _, place, key = name.split(".")
            optimizer.setdefault(int(place), {})[key] = given.pop(name, state.plain.get(name))
        found = {name: f"{list(t.shape)} {t.dtype}" for name, t in given.items()}
        if found != wanted or not 0 <= state.made <= self.settings.steps:
            differing = sorted(n for n in {*found, *wanted} if found.get(n) != wanted.get(n)) or ["made"]
            raise CheckpointError(f"state: expected one of this training, got another {', '.join(differing)}")
        with torch.no_grad():
            for name, tensor in weights.items():
                tensor.copy_(given[name])
        for name, generator in generators.items():
            if generator is not None:
                generator.set_state(given[name].clone())
        groups = self.optimizer.state_dict()["param_groups"]
        copied = {
            place: {key: v.clone() if isinstance(v, torch.Tensor) else v for key, v in entries.items()}
            for place, entries in optimizer.items()
        }
        self.optimizer.load_state_dict({"state": copied, "param_groups": groups})
        self.made = self._start = state.made

    def _weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        for owner, module in (("model", self.model), ("readout", self.readout)):
            for name, tensor in (*module.named_parameters(), *module.named_buffers()):
                yield f"{owner}.{name}", tensor

    def _update(self, step: int) -> torch.Tensor:
        """Make one update and return the loss before it.

        Only what the loss teaches is moved, and has its gradient afterwards; a readout of its own inside the
        model keeps the one that it came with.
        """
        trials = self.task.sample(
            self.settings.batch_size, generator=self._generator, dtype=self._dtype, device=self._device
        )
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        kept = [p.grad for p in parameters]
        self.optimizer.zero_grad(set_to_none=True)
        try:
            loss = self._gradient(trials)
        except NonFiniteError as error:
            raise NonFiniteError(
                f"training diverged at step {step}; lower learning_rate ({error})"
            ) from error
        self.optimizer.step()
        for parameter, gradient in zip(parameters, kept, strict=True):
            parameter.grad = gradient if parameter.grad is None else parameter.grad
        return loss

    def _gradient(self, trials: Trials) -> torch.Tensor:
        """Fill the gradients of model and readout; return the loss, which is finite."""
        if self.rule is None:
            loss = backward_gradient(self.model, self.readout, trials, self.task)
        else:
            loss = operator_gradient(self.model, self.readout, trials, self.task, self.rule)
        _check_loss(loss)
        return loss

    @in_isolation
    def evaluate(self, trials: Trials) -> tuple[float, float]:
        """Return loss and accuracy (see ``accuracy``) on given trials."""
        with torch.no_grad():
            outputs = self.readout(self.model.rollout(trials.inputs, mask=trials.mask).states)
            return float(task_loss(outputs, trials, self.task.loss)), accuracy(outputs, trials)


def redrawn(rule: LearningRule, generator: torch.Generator) -> LearningRule:
    """Return a rule with new seeds in every stochastic part; any other rule as it is."""
    if isinstance(rule, StochasticRule):
        return rule.sample(generator)
    if isinstance(rule, ComposedRule):
        return ComposedRule(redrawn(rule.outer, generator), redrawn(rule.inner, generator))
    return rule


def _check_loss(loss: torch.Tensor) -> None:
    if not torch.isfinite(loss):
        raise NonFiniteError(mismatch("loss", "a finite number", float(loss.detach())))


@in_isolation
def backward_gradient(model: Model, readout: Readout, trials: Trials, task: Task) -> torch.Tensor:
    """Fill the gradients of model and readout by ``loss.backward()``; return the loss, a scalar.

    Args:
        model: rolled out over the trials.
        readout: from its states to outputs.
        trials: a batch.
        task: says which loss.
    """
    with torch.enable_grad():
        states = model.rollout(trials.inputs, mask=trials.mask).states
        loss = task_loss(readout(states), trials, task.loss)
        loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


@in_isolation
def operator_gradient(
    model: Model, readout: Readout, trials: Trials, task: Task, rule: LearningRule
) -> torch.Tensor:
    """Fill the model's gradient by a rule, ``g = update_operator(Err)``, and the readout's by autograd.

    With backpropagation through time this is the gradient of ``loss.backward()``. Returns the loss, a
    scalar. See ``backward_gradient`` for the other arguments.

    Args:
        rule: what makes the model's gradient.
    """
    flow = linearize(model, trials.inputs, mask=trials.mask)
    states = flow.trajectory.states
    with torch.enable_grad():
        outputs = readout(states)
        loss = task_loss(outputs, trials, task.loss)
        if loss.requires_grad:  # the states carry no graph: the readout's own gradient, if it is trained
            loss.backward()  # type: ignore[no-untyped-call]
    _check_loss(loss)  # before the rule, whose products may overflow for that
    slope = output_error(outputs, trials, task.loss)
    rule.apply_gradient(model, flow, readout=readout, output_err=slope)
    return loss.detach()
