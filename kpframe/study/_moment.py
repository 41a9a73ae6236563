"""``Moment``: a network at one step of its training, and what quantities measure it along."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
import xarray as xr
from attrs import field, frozen

from kpframe.errors import ArgumentError, closest, mismatch
from kpframe.flow._flow import Flow
from kpframe.models._linearize import linearize
from kpframe.models._model import Model
from kpframe.operators._base import Operator
from kpframe.operators._shards import Shards
from kpframe.rules._rule import LearningRule
from kpframe.study._remembered import Begun, Remembered
from kpframe.tasks._error import output_error
from kpframe.tasks._readout import Readout
from kpframe.tasks._task import Loss, Trials

#: The operators that are measured unless others are asked for; all of them positive.
OPERATORS = ("P P*", "K", "Phi")

#: What a moment keeps that goes with one set of inputs.
_OF_INPUTS = ("flow", "output_err", "operators", "remembered", "first", "previous", "probe", "shards")


@frozen(eq=False)
class Probe:
    """The inputs along which the operators of a moment are built.

    Attributes:
        inputs: ``[B, T, I]``.
        mask: ``[B, T]`` bool, the steps that exist; None for all.
        trials: the same with targets, epochs and coordinates; None where only inputs are known.
        text: what the trials hold, in words, where kpframe has chosen them.
    """

    inputs: torch.Tensor
    mask: torch.Tensor | None = None
    trials: Trials | None = None
    text: str = ""

    @classmethod
    def of(cls, trials: Trials) -> Self:
        """Return the probe of ``trials``."""
        return cls(trials.inputs, trials.mask, trials)

    def part(self, chosen: range) -> Probe:
        """Return the probe of the ``chosen`` trials."""
        own = slice(chosen.start, chosen.stop)
        mask = None if self.mask is None else self.mask[own]
        trials = None if self.trials is None else self.trials.select(own)
        return Probe(self.inputs[own], mask, trials, self.text)


@frozen(eq=False)
class Surroundings:
    """What is the same at all moments of a training.

    Attributes:
        probes: name -> inputs along which the operators are built, the first of them the main ones.
        loss: of the task.
        test: trials on which loss and accuracy are given; None where there are none.
        rules: label -> learning rule to compare with the exact gradient.
        operators: those that are measured, as products of P, K, Phi, J, G and their adjoints: ``"P P*"``.
        budget: operator products for each estimate.
        seed: of the random probes.
        same_probes: whether all steps draw the same random probes; each its own otherwise.
        keep: which states are kept along trajectories, as ``linearize`` takes it.
    """

    probes: Mapping[str, Probe]
    loss: Loss | None = None
    test: Trials | None = None
    rules: Mapping[str, LearningRule] = field(factory=dict)
    operators: Sequence[str] = OPERATORS
    budget: int = 60
    seed: int = 0
    same_probes: bool = False
    keep: str = "all"


class Moment:
    """A network at one step of its training; what is costly is computed once for all quantities.

    Args:
        model: the network; left as it is.
        readout: its readout; None where there is none.
        around: what is the same at all steps.
        step: updates made.
        first: returns the moment of the network before training.
        previous: returns that of the step recorded before.
        learning_rate: eta of the training; None where it is not known.
        optimizer: what makes its updates: ``sgd`` for plain gradient descent; None where it is not known.
        group: of ``torch.distributed``, over whose ranks the trials of ``around`` are shared out, a part
            in a row for each; None where this process has them all.

    Attributes:
        inputs: the name of the set of inputs that it is measured along.
        record_before: returns what was recorded at the step before, for what goes on from it; None where it
            is not known. Figures may differ by it within their stated errors alone.
    """

    def __init__(
        self,
        model: Model,
        readout: Readout | None,
        around: Surroundings,
        *,
        step: int = 0,
        first: Callable[[], Moment | None] | None = None,
        previous: Callable[[], Moment | None] | None = None,
        learning_rate: float | None = None,
        optimizer: str | None = None,
        group: Any = None,
    ) -> None:
        self.model, self.readout, self.around, self.step = model, readout, around, step
        self.learning_rate, self.optimizer, self.group = learning_rate, optimizer, group
        self.inputs = next(iter(around.probes))
        self.record_before: Callable[[], xr.Dataset | None] = lambda: None
        self._first, self._previous = first, previous
        self._along: dict[str, Moment] = {self.inputs: self}

    def along(self, inputs: str) -> Moment:
        """Return this moment along another of the sets of ``inputs``, by name.

        Raises:
            ArgumentError: for a name that no set has.
        """
        if inputs not in self.around.probes:
            expected = f"one of {', '.join(self.around.probes)}"
            raise ArgumentError(
                mismatch("inputs", expected, repr(inputs)) + closest(inputs, list(self.around.probes))
            )
        if inputs not in self._along:
            other = copy(self)
            for name in _OF_INPUTS:
                other.__dict__.pop(name, None)
            other.inputs = inputs
            self._along[inputs] = other
        return self._along[inputs]

    @cached_property
    def probe(self) -> Probe:
        """The inputs, and what is known of them; on several ranks those of this rank's own trials."""
        return self.whole_probe if self.shards is None else self.whole_probe.part(self.shards.own)

    @property
    def whole_probe(self) -> Probe:
        """The inputs of all ranks' trials, and what is known of them."""
        return self.around.probes[self.inputs]

    @property
    def trials(self) -> Trials:
        """The trials that it is measured along, on several ranks this rank's own.

        Raises:
            ArgumentError: where only inputs are known.
        """
        return _known(self.probe)

    @property
    def whole_trials(self) -> Trials:
        """The trials of all ranks; raises as ``trials``."""
        return _known(self.whole_probe)

    @cached_property
    def shards(self) -> Shards | None:
        """Which ranks hold which trials; None where this process holds all."""
        if self.group is None:
            return None
        from torch import distributed

        count, ranks = len(self.whole_probe.inputs), distributed.get_world_size(self.group)
        edges = [count * rank // ranks for rank in range(ranks + 1)]
        return Shards(self.group, distributed.get_rank(self.group), tuple(np.diff(edges).tolist()))

    def summed(self, own: torch.Tensor) -> torch.Tensor:
        """Return the sum over ranks of ``own``, of any shape: what each has summed over its own trials.

        One all-reduce.
        """
        return own if self.shards is None else self.shards.sum(own)

    def largest(self, own: torch.Tensor) -> float:
        """Return the largest magnitude in ``own``, of any shape, on all ranks; 0 of nothing."""
        most = own.abs().max() if own.numel() else own.new_zeros(())
        return float(most if self.shards is None else self.shards.max(most))

    def every_trial(self, own: torch.Tensor) -> torch.Tensor:
        """Return ``own``, what ranks know of their own trials ``[B, ...]``, of all trials: the same on each.

        It is one all-reduce of all of it: for what is small. Where this process holds all trials, it is
        what was given.
        """
        if self.shards is None:
            return own
        every = own.new_zeros(self.shards.total, *own.shape[1:])
        every[self.shards.own] = own
        return self.shards.sum(every)

    @cached_property
    def flow(self) -> Flow:
        """The operators along the inputs."""
        probe, keep = self.probe, self.around.keep
        return linearize(self.model, probe.inputs, mask=probe.mask, group=self.group, keep=keep)

    @cached_property
    def operators(self) -> dict[str, Operator]:
        """The operators that are measured, by their names."""
        return {name: operator_of(self.flow, name) for name in self.around.operators}

    @cached_property
    def remembered(self) -> dict[str, Remembered]:
        """The operators, each of which multiplies a vector once: for estimates from the same probes."""
        begun = Begun(self.flow.P.T, self.operators.values())
        return {name: Remembered(operator, begun) for name, operator in self.operators.items()}

    @cached_property
    def output_err(self) -> torch.Tensor:
        """The error at the outputs, ``[B, T, O]``: the derivative of the loss.

        Raises:
            ArgumentError: without a readout or targets.
        """
        if self.readout is None or self.around.loss is None:
            lacking = "readout" if self.readout is None else "loss"
            raise ArgumentError(mismatch(lacking, "one, through which the error comes", None))
        with torch.no_grad():  # the loss is a mean over all trials
            outputs = self.every_trial(self.readout(self.flow.trajectory.states))
            err = output_error(outputs, self.whole_trials, self.around.loss)
            return err if self.shards is None else err[self.shards.own]

    @cached_property
    def first(self) -> Moment | None:
        """The network before training, along the same inputs; None where it is not known."""
        return self._other(self._first)

    @cached_property
    def previous(self) -> Moment | None:
        """The network at the step recorded before, along the same inputs; None at the first one."""
        return self._other(self._previous)

    def _other(self, get: Callable[[], Moment | None] | None) -> Moment | None:
        found = None if get is None else get()
        return None if found is None else found.along(self.inputs)

    def generator(self, place: int = 0) -> torch.Generator:
        """Return a new source of random numbers, a function of the seed, the step and ``place`` alone."""
        seed = self.around.seed + (0 if self.around.same_probes else self.step)
        return torch.Generator().manual_seed(1000 * seed + place)

    def own_generator(self, place: int = 0) -> torch.Generator:
        """Return the same as ``generator``, of this step alone also where steps draw the same probes."""
        return torch.Generator().manual_seed(1000 * (self.around.seed + self.step) + place)

    def shared_generator(self, place: int = 0) -> torch.Generator:
        """Return the same as ``generator``, equal at all steps of a training."""
        return torch.Generator().manual_seed(1000 * self.around.seed + 500 + place)

    def trial_coordinates(self) -> dict[str, xr.Variable]:
        """Return the coordinates of the trials along the dimension ``trial``."""
        if (trials := self.whole_probe.trials) is None:
            return {}
        return {
            f"trial_{name}": xr.Variable(
                "trial", np.asarray(values), {"long_name": f"{name} of a trial", "units": "1"}
            )
            for name, values in trials.trial.items()
        }


def _known(probe: Probe) -> Trials:
    if probe.trials is None:
        raise ArgumentError(mismatch("probe", "trials with targets", "inputs alone"))
    return probe.trials


def operator_of(flow: Flow, text: str) -> Operator:
    """Return an operator of a flow by its formula: a product such as ``"P P*"``, ``"P K"`` or ``"Phi"``.

    Raises:
        ArgumentError: for another symbol than P, K, Phi, J, G, each with ``*`` for the adjoint, and for
            products that do not map states to states.
    """
    if problem := operator_problem(text):
        raise ArgumentError(f"operator: {problem}")
    factors = []
    for word in text.split():
        symbol: Operator = getattr(flow, word.removesuffix("*"))
        factors.append(symbol.T if word.endswith("*") else symbol)
    if text.split() == ["P", "K", "P*"]:
        return flow.Phi
    product = factors[0]
    for factor in factors[1:]:
        product = product @ factor
    return product


def operator_problem(text: str) -> str:
    """Return what is wrong with the formula of an operator that maps states to states; empty for nothing."""
    words = text.split()
    if not words:
        return mismatch("", "a product such as 'P P*'", repr(text)).removeprefix(": ")
    for word in words:
        if word.removesuffix("*") not in _SPACES:
            expected = f"a product of {', '.join(_SPACES)} and their adjoints (P*)"
            apart = re.findall(r"(?:Phi|[PKJG])\*?", text)
            meant = closest(word.removesuffix("*"), _SPACES)
            if "".join(apart) == "".join(words):
                meant = f"; did you mean {' '.join(apart)!r}?"
            return f"expected {expected}, got {text!r}{meant}"
    spaces = [_SPACES[word.removesuffix("*")][:: -1 if word.endswith("*") else 1] for word in words]
    for word, left, after, right in zip(words, spaces, words[1:], spaces[1:], strict=False):
        if left[1] != right[0]:
            why = f"{word} takes {_NAMES[left[1]]}, {after} makes {_NAMES[right[0]]}"
            return f"expected factors that fit each other, got {text!r}: {why}"
    if spaces[0][0] != "h" or spaces[-1][1] != "h":
        ends = f"{_NAMES[spaces[-1][1]]} to {_NAMES[spaces[0][0]]}"
        return f"expected a product that maps states to states, got {text!r}, which maps {ends}"
    return ""


#: What each operator makes and takes: states (h) or parameters (p).
_SPACES = {"P": "hh", "K": "hh", "Phi": "hh", "J": "hp", "G": "hp"}
_NAMES = {"h": "states", "p": "parameters"}
