"""Drawn cases: frozen records whose ``repr`` can be pasted and built again, and what is built from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from attrs import field, frozen

from kpframe.flow._flow import Flow
from kpframe.models._model import Model
from kpframe.operators import MatrixOperator, Operator
from kpframe.operators._reducer import Reducer
from kpframe.operators._spaces import Space, state_space
from kpframe.rules._rule import LearningRule
from kpframe.testing._problem import Problem
from kpframe.testing._sources import create, show
from kpframe.testing._values import seeded, values


@frozen
class TensorCase:
    """A tensor of a shape, a seed and a kind of values."""

    shape: tuple[int, ...]
    seed: int = 0
    kind: str = "normal"

    def build(self, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        """Return the tensor."""
        return values(self.shape, self.seed, self.kind, dtype)


@frozen
class FlowCase:
    """A model and a trajectory to linearize it on.

    Attributes:
        model: a registered name, ``"package.module:Class"``, a class, a factory or an instance.
        settings: what it is built with.
        batch, time: number of trials and steps.
        seed: of the parameters, inputs and everything else.
        kind: what the inputs are filled with, one of ``KINDS``.
        h0: ``"own"`` (the model's own initial state) or ``"given"``.
        mask: whether trials end at different steps.
    """

    model: Any = field(repr=show)
    settings: Mapping[str, Any] = field(factory=dict)
    batch: int = 1
    time: int = 1
    seed: int = 0
    kind: str = "normal"
    h0: str = "own"
    mask: bool = False

    def build(self) -> Problem:
        """Return the model with its trajectory and references, made anew."""
        return self._build(torch.float64)

    def build_model(self, dtype: torch.dtype = torch.float64) -> Model:
        """Return the model alone: as its author initialises it, parameters moved a little.

        The move gives parameters that start at zero (biases, initial states) a value, so that nothing
        passes for want of one. An instance keeps its parameters.
        """
        with seeded(self.seed):
            model: Model = create("model", self.model, self.settings).to(torch.float64)
            if not isinstance(self.model, Model):
                with torch.no_grad():
                    for i, p in enumerate(model.parameters()):
                        size = float(p.square().mean().sqrt()) if p.numel() else 0.0
                        p.add_(values(p.shape, self.seed + i, "normal") * 0.3 * (size or 1.0))
        return model.to(dtype)

    def _build(self, dtype: torch.dtype) -> Problem:
        model = self.build_model(dtype)
        time = model.steps or self.time
        x = values((self.batch, time, model.input_size), self.seed + 101, self.kind, dtype)
        h0 = None
        if self.h0 == "given":
            h0 = values((self.batch, model.width), self.seed + 102, dtype=dtype)
        return Problem(model, x, h0, self._mask(time), self.seed)

    def _mask(self, time: int) -> torch.Tensor | None:
        """Return trials of different lengths, the last one short; padding is at the end."""
        if not self.mask:
            return None
        generator = torch.Generator().manual_seed(self.seed + 103)
        lengths = torch.randint(1, time + 1, (self.batch,), generator=generator)
        lengths[-1] = max(1, time - 1)
        return torch.arange(time) < lengths.unsqueeze(1)

    def single(self) -> Problem:
        """Return the same in float32."""
        return self._build(torch.float32)

    @cached_property
    def problem(self) -> Problem:
        """What is built, kept: an identity and its partner look at the same draw."""
        return self.build()


@frozen
class RuleCase:
    """A learning rule on a flow."""

    rule: Any = field(repr=show)
    settings: Mapping[str, Any]
    flow: FlowCase

    def build(self) -> tuple[LearningRule, Flow]:
        """Return the rule and the flow, made anew."""
        return self.build_rule(), self.flow.build().flow

    def build_rule(self) -> LearningRule:
        """Return the rule alone."""
        rule: LearningRule = create("rule", self.rule, self.settings)
        return rule


@frozen
class ReducerCase:
    """A reducer on operators of a state space."""

    reducer: Any = field(repr=show)
    settings: Mapping[str, Any] = field(factory=dict)
    batch: int = 2
    time: int = 2
    hidden: int = 2
    seed: int = 0
    kind: str = "normal"

    def build(self) -> Reducer:
        """Return the reducer."""
        settings = {
            name: value.build() if isinstance(value, TensorCase | MaskCase) else value
            for name, value in self.settings.items()
        }
        reducer: Reducer = create("reducer", self.reducer, settings)
        return reducer

    @property
    def space(self) -> Space:
        """The state space."""
        return state_space(self.batch, self.time, {"h": self.hidden})

    def operator(self, salt: int = 0, dtype: torch.dtype = torch.float64) -> Operator:
        """Return a square operator on the space, with no symmetry."""
        n = self.space.size
        return MatrixOperator(values((n, n), self.seed + salt, self.kind, dtype), self.space)


@frozen
class MaskCase:
    """A bool mask ``[B, T]`` of trials of the given lengths."""

    lengths: Sequence[int]
    time: int

    def build(self) -> torch.Tensor:
        """Return the mask."""
        return torch.arange(self.time) < torch.tensor(list(self.lengths)).unsqueeze(1)
