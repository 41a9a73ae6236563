"""What the tests of stochastic rules share: tiny models with few outcomes, dense Jacobians."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from attrs import frozen

from kpframe import Flow, Model, create_model, linearize, wrap

SITES = {
    "vanilla": ("rnn", {"gain": 1.2}),
    "rate": ("rnn", {"gain": 1.2, "form": "rate", "alpha": 0.4}),
    "current": ("rnn", {"gain": 1.2, "form": "current", "alpha": 0.4}),
    "gru": ("gru", {}),
    "lstm": ("lstm", {}),
}


@frozen(eq=False)
class Case:
    """A float64 model, trials and an error; gradients are flat, in the order of the parameters."""

    model: Model
    x: torch.Tensor
    h0: torch.Tensor | None
    mask: torch.Tensor | None
    err: torch.Tensor

    def flow(self) -> Flow:
        return linearize(self.model, self.x, self.h0, self.mask)

    def loss(self) -> torch.Tensor:
        """Return ``<Err, h>`` of each trial ``[B]`` along a loop of steps."""
        return self.moved(torch.zeros_like(self.err))

    def moved(self, q: torch.Tensor) -> torch.Tensor:
        """Return ``<Err, h>`` of each trial with ``q`` ``[B, T, H]`` added to the states, as they come."""
        h = self.start()
        total = self.err.new_zeros(len(self.x))
        for t in range(self.x.shape[1]):
            h = self.advance(t, h) + q[:, t]
            total = total + (self.err[:, t] * h).sum(dim=1)
        return total

    def start(self) -> torch.Tensor:
        return self.model.initial_state(len(self.x)) if self.h0 is None else self.h0

    def advance(self, t: int, h: torch.Tensor) -> torch.Tensor:
        new = self.model.step(self.x[:, t], h)
        return new if self.mask is None else torch.where(self.mask[:, t, None], new, h)

    def exact(self) -> torch.Tensor:
        """Return the gradient by ``backward()`` through the loop."""
        return self.gradient(self.loss().sum())

    def gradient(self, loss: torch.Tensor) -> torch.Tensor:
        theta = tuple(self.model.trainable().values())
        found = torch.autograd.grad(loss, theta, allow_unused=True, materialize_grads=True)
        return torch.cat([g.reshape(-1) for g in found])

    def jacobians(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``A`` ``[B, T, H, H]`` and ``J`` ``[B, T, H, M]`` by backward passes through steps."""
        batch, time, hidden = self.err.shape
        theta = tuple(self.model.trainable().values())
        A = self.err.new_zeros(batch, time, hidden, hidden)
        J = self.err.new_zeros(batch, time, hidden, sum(p.numel() for p in theta))
        state = self.start()
        for t in range(time):
            own = state if t == 0 else state.detach().requires_grad_()
            new = self.advance(t, own)
            for b in range(batch):
                for i in range(hidden):
                    sources = theta if t == 0 else (own, *theta)
                    found = torch.autograd.grad(
                        new[b, i], sources, retain_graph=True, allow_unused=True, materialize_grads=True
                    )
                    if t:
                        A[b, t, i] = found[0][b]
                        found = found[1:]
                    J[b, t, i] = torch.cat([g.reshape(-1) for g in found])
            state = new
        return A, J


def build(name: str, seed: int, inputs: int, units: int, start: str) -> Model:
    trainable = start == "trainable"
    if name == "wrapped":
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            cell = torch.nn.GRUCell(inputs, units, dtype=torch.float64)
        return wrap(cell, trainable_initial_state=trainable).double()
    model, settings = SITES[name]
    pytest.importorskip(f"kpframe_{model}")
    sizes = {"input_size": inputs, "hidden_size": units, "seed": seed % 2**32}
    return create_model(model, **sizes, **settings, trainable_initial_state=trainable).double()


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Case]:
    """Return a maker of two trials of a model of few units."""

    def make(
        name: str,
        seed: int = 0,
        *,
        time: int = 3,
        units: int = 2,
        inputs: int = 2,
        start: str = "given",
        masked: bool = False,
        biases: bool = True,
    ) -> Case:
        model = build(name, seed, inputs, units, start)
        if not biases:
            for key, parameter in model.trainable().items():
                parameter.requires_grad_(not key.startswith("bias"))
        generator = torch.Generator().manual_seed(seed + 1)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        x, h0, err = normal(2, time, inputs), normal(2, model.width), normal(2, time, model.width)
        if start == "trainable":
            with torch.no_grad():
                model.h0.copy_(h0[0])
        mask = torch.arange(time) < torch.tensor([[time], [max(1, time - 1)]]) if masked else None
        return Case(model, x, h0 if start == "given" else None, mask, err)

    return make
