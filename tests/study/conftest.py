"""A small cell, a task and rules that need no plugin, and the plugin that offers them by name."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
import torch
from attrs import frozen

from kpframe import LearningRule, Model, Task
from kpframe.plugin import ModelSpec, RuleSpec, TaskSpec, hookimpl, setting, temporary
from kpframe.tasks._task import Trials

WIDTH = 4


class Small(Model):
    """``h' = tanh(W h + U x + b)``."""

    def __init__(self, input_size: int) -> None:
        super().__init__(input_size, {"h": WIDTH})
        self.W = torch.nn.Parameter(0.6 * torch.randn(WIDTH, WIDTH))
        self.U = torch.nn.Parameter(torch.randn(WIDTH, input_size))
        self.b = torch.nn.Parameter(0.1 * torch.randn(WIDTH))

    def step(self, x: torch.Tensor, h: torch.Tensor, t: torch.Tensor | None = None) -> torch.Tensor:
        return torch.tanh(h @ self.W.T + x @ self.U.T + self.b)


class Sum(Task):
    """Report the running sum of two channels; the first step is not scored."""

    def __init__(self) -> None:
        super().__init__(input_size=2, output_size=1, loss="mse", seed=0)

    def draw(self, batch_size: int, generator: torch.Generator, split: str) -> Trials:
        inputs = torch.randn(batch_size, 5, 2, generator=generator, dtype=torch.float64)
        everywhere = torch.ones(batch_size, 5, dtype=torch.bool)
        total = inputs.sum(dim=2, keepdim=True).cumsum(dim=1) / 3
        return Trials(
            inputs, total, everywhere, everywhere & (torch.arange(5) > 0), np.full((batch_size, 5), "sum")
        )


class Exact(LearningRule):
    def change(self, update):
        return update


class Twice(LearningRule):
    """The exact gradient twice over: its direction, and not its size."""

    def change(self, update):
        return update.replace(P=2.0 * update.P)


class Window(LearningRule):
    """Errors travel no step back."""

    def change(self, update):
        return update.replace(P=update.propagator.truncated(1))


@frozen
class Sizes:
    input_size: int = setting(ge=1)


class Offers:
    @hookimpl
    def kpframe_models(self):
        yield ModelSpec("small", "kpf_study:Small", settings=Sizes)

    @hookimpl
    def kpframe_tasks(self):
        yield TaskSpec("sum", "kpf_study:Sum")

    @hookimpl
    def kpframe_rules(self):
        for name in ("Exact", "Twice", "Window"):
            yield RuleSpec(f"own_{name.lower()}", f"kpf_study:{name}")


@pytest.fixture(scope="package")
def offered() -> Iterator[ModuleType]:
    """Offer ``small``, ``sum`` and the rules by name; yields the module that has them."""
    module = ModuleType("kpf_study")
    for part in (Small, Sum, Exact, Twice, Window):
        setattr(module, part.__name__, part)
    sys.modules["kpf_study"] = module
    try:
        with temporary(Offers()):
            yield module
    finally:
        del sys.modules["kpf_study"]
