"""Trainings to look at: small modules, a loop that draws from every global generator, a quantity of a toy."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch.nn.utils.parametrizations import spectral_norm

from kpframe.study._moment import Moment
from kpframe.study._quantity import Quantity

INPUT, WIDTH = 2, 4


class Noisy(torch.nn.Module):
    """A cell with dropout, drawn from torch's global generator, and averages that it keeps, in training."""

    def __init__(self) -> None:
        super().__init__()
        self.input_size, self.hidden_size = INPUT, WIDTH
        self.cell = torch.nn.RNNCell(INPUT, WIDTH)
        self.norm = torch.nn.BatchNorm1d(WIDTH)

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.dropout(self.norm(self.cell(x, h)), 0.3, self.training)


class Normed(torch.nn.Module):
    """A cell with a parametrization, which writes to its buffers whenever it is used in training."""

    def __init__(self) -> None:
        super().__init__()
        self.input_size, self.hidden_size = INPUT, WIDTH
        self.cell = spectral_norm(torch.nn.RNNCell(INPUT, WIDTH), "weight_hh")

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        return self.cell(x, h)


MODULES: dict[str, Callable[[], torch.nn.Module]] = {
    "rnn cell": lambda: torch.nn.RNNCell(INPUT, WIDTH),
    "gru layers": lambda: torch.nn.GRU(INPUT, WIDTH, num_layers=2, dropout=0.2, batch_first=True),
    "noisy": Noisy,
    "normed": Normed,
}


class WeightSum(Quantity):
    """The sum of all parameters, and what a random number of the global generator is, where asked for."""

    of_network = True

    def __init__(self, *, draws: bool = False, fails: bool = False) -> None:
        self.draws, self.fails = draws, fails

    def measure(self, moment: Moment) -> xr.Dataset:
        if self.draws:
            torch.rand(3), np.random.rand(3), random.random()  # noqa: NPY002
        if self.fails:
            raise ValueError("out of luck")
        total = sum(float(p.detach().double().sum()) for p in moment.model.parameters())
        first, previous = (
            np.nan if other is None else float(other.step) for other in (moment.first, moment.previous)
        )
        about = {"long_name": "sum", "units": "1"}
        return xr.Dataset(
            {
                "weight_sum": ((), total, about),
                "first_step": ((), first, about),
                "previous_step": ((), previous, about),
            }
        )


def states_of(module: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    if isinstance(module, torch.nn.RNNBase):
        return module(x)[0]
    h, states = x.new_zeros(len(x), WIDTH), []
    for t in range(x.shape[1]):
        h = module(x[:, t], h)
        states.append(h)
    return torch.stack(states, dim=1)


class Loop:
    """A training whose data come from the global generators of torch, NumPy and Python."""

    def __init__(self, kind: str = "rnn cell") -> None:
        torch.manual_seed(1)
        np.random.seed(2)  # noqa: NPY002
        random.seed(3)
        self.module = MODULES[kind]()
        self.head = torch.nn.Linear(WIDTH, 1)
        parameters = [*self.module.parameters(), *self.head.parameters()]
        self.optimizer = torch.optim.Adam(parameters, lr=0.02)

    def update(self) -> torch.Tensor:
        x = torch.randn(6, 5, INPUT) + float(np.random.rand()) * random.random()  # noqa: NPY002
        loss = (self.head(states_of(self.module, x)) - x.sum(dim=2, keepdim=True)).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss

    def run(self, track: Callable[..., None] = lambda *told: None, last: int = 8, first: int = 1) -> None:
        if first == 1:
            track(0)
        for step in range(first, last + 1):
            track(step, self.update())

    def fail(self, track: Callable[..., None], error: Exception, last: int) -> None:
        """Train up to a step, where an error ends it."""
        self.run(track, last)
        raise error

    def everything(self) -> dict[str, Any]:
        """Return all that a training is: weights, gradients, buffers, modes, optimizer, generators."""
        found: dict[str, Any] = {}
        for name, module in (("module", self.module), ("head", self.head)):
            found |= {f"{name}.{key}": value.clone() for key, value in module.state_dict().items()}
            for key, parameter in module.named_parameters():
                found[f"{name}.{key} grad"] = None if parameter.grad is None else parameter.grad.clone()
                found[f"{name}.{key} learns"] = parameter.requires_grad
            for key, part in module.named_modules():
                found[f"{name}.{key} mode"] = part.training
                found[f"{name}.{key} hooks"] = (len(part._forward_hooks), len(part._forward_pre_hooks))
        for place, state in self.optimizer.state_dict()["state"].items():
            found |= {f"optimizer {place} {key}": copy.deepcopy(value) for key, value in state.items()}
        found["torch"] = torch.get_rng_state()
        _, keys, *place = np.random.get_state()  # noqa: NPY002
        found["numpy"] = (keys.tolist(), place)
        found["python"] = random.getstate()
        return found


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Return the names of what is not the same, bit for bit."""
    assert set(one) == set(other)
    return [
        name
        for name, value in one.items()
        if not (
            torch.equal(value, other[name])
            if isinstance(value, torch.Tensor) and isinstance(other[name], torch.Tensor)
            else value == other[name]
        )
    ]


def probe() -> torch.Tensor:
    return torch.randn(3, 5, INPUT, generator=torch.Generator().manual_seed(5))
