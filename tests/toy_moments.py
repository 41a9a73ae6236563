"""Moments of a small network on trials of several lengths, and the dense Jacobian of their whole roll-out."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from attrs import evolve

from kpframe import Model, Readout
from kpframe.study._moment import Moment, Probe, Surroundings
from kpframe.tasks._task import Loss, Trials

F64 = torch.float64
H, B, T, I, O = 4, 6, 7, 2, 3  # noqa: E741
LENGTHS = (7, 4, 6, 7, 3, 5)


class Cell(Model):
    """``h' = tanh(W h + U x + b)``."""

    def __init__(self, seed: int = 0, width: int = H) -> None:
        super().__init__(I, {"h": width})
        source = torch.Generator().manual_seed(seed)

        def drawn(*shape: int) -> torch.nn.Parameter:
            return torch.nn.Parameter(0.6 * torch.randn(*shape, generator=source, dtype=F64))

        self.W, self.U, self.b = drawn(width, width), drawn(width, I), drawn(width)

    def step(self, x: torch.Tensor, h: torch.Tensor, t: torch.Tensor | None = None) -> torch.Tensor:
        return torch.tanh(h @ self.W.T + x @ self.U.T + self.b)


def trials_of(loss: Loss = "mse", lengths: tuple[int, ...] | None = LENGTHS, seed: int = 1) -> Trials:
    """Return trials whose first step is not scored, of given lengths, all of ``T`` steps for None."""
    source = torch.Generator().manual_seed(seed)
    lengths = lengths or (T,) * B
    step = torch.arange(T)
    mask = step < torch.tensor(lengths)[:, None]
    inputs = torch.randn(len(lengths), T, I, generator=source, dtype=F64) * mask[..., None]
    if loss == "mse":
        targets = torch.randn(len(lengths), T, O, generator=source, dtype=F64)
    else:
        targets = torch.randint(O, (len(lengths), T), generator=source)
    epoch = np.array(["stimulus", "delay", "response", "padding"])
    where = torch.where(mask, torch.bucketize(step, torch.tensor([0, 3])), 3)
    return Trials(
        inputs,
        targets,
        mask,
        mask & (step > 0),
        epoch[where.numpy()],
        {"angle": np.arange(len(lengths)) * 0.1, "task": np.array(list("abacab"))[: len(lengths)]},
    )


def moment_of(
    trials: Trials,
    loss: Loss = "mse",
    *,
    model: Model | None = None,
    readout: Readout | None = None,
    step: int = 0,
    previous: Callable[[], Moment | None] | None = None,
    first: Callable[[], Moment | None] | None = None,
    learning_rate: float | None = 0.01,
    **around: object,
) -> Moment:
    """Return a moment of a network along trials."""
    return Moment(
        model or Cell(),
        readout or Readout(H, O, generator=5, dtype=F64),
        Surroundings({"test": Probe.of(trials)}, loss, **around),
        step=step,
        previous=previous,
        first=first,
        learning_rate=learning_rate,
    )


def reseeded(moment: Moment, budget: int, seed: int) -> Moment:
    """Return a moment with the same flow, of another budget and seed."""
    _ = moment.flow
    other = copy.copy(moment)
    other.around = evolve(moment.around, budget=budget, seed=seed)
    return other


def dense_jacobian(model: Model, trials: Trials) -> torch.Tensor:  # [B, T, H, M]
    """Return the derivative of all states by all parameters, of the graph of the whole roll-out."""
    names = list(model.trainable())
    values = tuple(p.detach() for p in model.trainable().values())

    def states(*parameters: torch.Tensor) -> torch.Tensor:
        def run(given: dict[str, torch.Tensor]) -> torch.Tensor:
            return torch.func.functional_call(
                _Rollout(model), {f"model.{k}": v for k, v in given.items()}, (trials,)
            )

        return run(dict(zip(names, parameters, strict=True)))

    parts = torch.autograd.functional.jacobian(states, values)
    return torch.cat([part.flatten(start_dim=3) for part in parts], dim=3)


def jacobian_by_step(model: Cell, trials: Trials) -> torch.Tensor:  # [B, T, H, S, M]
    """Return the derivative of all states by the parameters that act at each step alone."""
    parameters = [p.detach() for p in model.parameters()]
    shapes = [p.shape for p in parameters]
    flat = torch.cat([p.reshape(-1) for p in parameters]).expand(T, -1)

    def states(each: torch.Tensor) -> torch.Tensor:
        h = torch.zeros(len(trials.inputs), shapes[0][0], dtype=F64)
        found = []
        for t in range(T):
            W, U, b = (
                v.reshape(s) for v, s in zip(each[t].split([s.numel() for s in shapes]), shapes, strict=True)
            )
            new = torch.tanh(h @ W.T + trials.inputs[:, t] @ U.T + b)
            h = torch.where(trials.mask[:, t, None], new, h)
            found.append(h)
        return torch.stack(found, dim=1)

    return torch.autograd.functional.jacobian(states, flat)


class _Rollout(torch.nn.Module):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, trials: Trials) -> torch.Tensor:
        return self.model.rollout(trials.inputs, mask=trials.mask).states
