"""A small model, a task, rules and quantities that need no bundled plugin, and what offers them by name."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
import torch
import xarray as xr
from attrs import evolve, frozen

from kpframe import LearningRule, Model, Task
from kpframe.plugin import ModelSpec, QuantitySpec, RuleSpec, TaskSpec, hookimpl, setting, temporary
from kpframe.rules._rule import StochasticRule
from kpframe.study._cells import Cell
from kpframe.study._moment import Moment
from kpframe.study._quantity import Quantity
from kpframe.study._running.training import TrainingSettings
from kpframe.study._settings import MeasureSettings, NetworkSettings, QuantitySettings
from kpframe.tasks._task import Trials

WIDTH = 4


class Small(Model):
    """``h' = tanh(W h + U x + b)``."""

    def __init__(self, input_size: int, gain: float = 0.6) -> None:
        super().__init__(input_size, {"h": WIDTH})
        self.W = torch.nn.Parameter(gain * torch.randn(WIDTH, WIDTH))
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


class Drawn(StochasticRule):
    """The exact gradient times a random factor."""

    def change(self, update):
        return update.replace(P=(0.5 + torch.rand((), generator=self.generator()).item()) * update.P)


class Noise(Quantity):
    """Random numbers of a step, and the size of the weights: what must not depend on anything else."""

    of_network = True

    def measure(self, moment: Moment) -> xr.Dataset:
        about = {"long_name": "a figure", "units": "1"}
        weights = float(sum(p.detach().double().square().sum() for p in moment.model.parameters()))
        noise = torch.rand(3, generator=moment.generator(7), dtype=torch.float64).numpy()
        return xr.Dataset(
            {"weights": ((), weights, about), "noise": ("k", noise, about)},
            coords={"k": ("k", [1, 2, 3], about)},
        )


class Moved(Quantity):
    """How far the states are from those of the first and the previous step, along each set of inputs."""

    def measure(self, moment: Moment) -> xr.Dataset:
        def distance(other: Moment | None) -> float:
            if other is None:
                return np.nan
            states = moment.flow.trajectory.states - other.flow.trajectory.states
            return float(states.double().norm())

        about = {"long_name": "distance of states", "units": "1"}
        return xr.Dataset(
            {
                "from_first": ((), distance(moment.first), about),
                "from_previous": ((), distance(moment.previous), about),
            }
        )


@frozen
class Sizes:
    input_size: int = setting(ge=1)
    gain: float = setting(0.6, gt=0)


@frozen
class Seed:
    seed: int = setting(0, ge=0)


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
        yield RuleSpec("own_drawn", "kpf_study:Drawn", settings=Seed)

    @hookimpl
    def kpframe_quantities(self):
        yield QuantitySpec("own_noise", "kpf_study:Noise")
        yield QuantitySpec("own_moved", "kpf_study:Moved")


def toy_cell(name: str = "small", *, seed: int = 0, rule: str | None = None, **changes: object) -> Cell:
    """A cell of a toy study, of ``small`` on ``sum``; ``steps`` and ``inputs`` are those of its measuring."""
    training = {"steps": 6, "batch_size": 4, "learning_rate": 0.05}
    training |= {key: changes.pop(key) for key in ("optimizer", "momentum", "steps") if key in changes}
    measure = {"steps": (0, 2, 6), "inputs": ("test", "train"), "trials": 3, "budget": 16}
    measure |= {key: changes.pop(key) for key in ("recorded", "inputs", "probes") if key in changes}
    measure["steps"] = measure.pop("recorded", measure["steps"])
    labels = ("own_noise", "own_moved")
    cell = Cell(
        name=name,
        coordinates={"network": "small", "seed": seed},
        network=NetworkSettings(name="small", label="small", settings={}),
        task="sum",
        task_settings={},
        training=TrainingSettings(**training, gradient="autograd" if rule is None else "operators"),
        rule=rule,
        rules=(),
        measure=MeasureSettings(**measure),
        quantities=tuple(QuantitySettings(name=label, label=label, settings={}) for label in labels),
        seed=seed,
        dtype="float64",
        threads=1,
    )
    return evolve(cell, **changes)


@pytest.fixture(scope="module")
def offered() -> Iterator[ModuleType]:
    """Offer ``small``, ``sum`` and the rules by name; yields the module that has them."""
    module = ModuleType("kpf_study")
    for part in (Small, Sum, Exact, Twice, Window, Drawn, Noise, Moved):
        setattr(module, part.__name__, part)
    sys.modules["kpf_study"] = module
    try:
        with temporary(Offers()):
            yield module
    finally:
        del sys.modules["kpf_study"]
