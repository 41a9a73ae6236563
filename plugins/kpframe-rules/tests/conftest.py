"""What the tests of the rules share: models, seeded problems, and gradients by plain autograd."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from attrs import frozen

from kpframe import Flow, Model, create_model, linearize, wrap

INPUTS, UNITS = 3, 4
SETTINGS = {
    "vanilla": ("rnn", {"gain": 1.2}),
    "rate": ("rnn", {"gain": 1.2, "form": "rate", "alpha": 0.4}),
    "current": ("rnn", {"gain": 1.2, "form": "current", "alpha": 0.4}),
    "gru": ("gru", {}),
}


def build(name: str, seed: int, trainable_initial_state: bool = False) -> Model:
    """Return a float64 model; those of other distributions are skipped where they are missing."""
    if name == "lstm":
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            cell = torch.nn.LSTMCell(INPUTS, UNITS, dtype=torch.float64)
        return wrap(cell, trainable_initial_state=trainable_initial_state).double()
    model, settings = SETTINGS[name]
    pytest.importorskip(f"kpframe_{model}")
    sizes = {"input_size": INPUTS, "hidden_size": UNITS, "seed": seed}
    start = {"trainable_initial_state": trainable_initial_state}
    return create_model(model, **sizes, **settings, **start).double()


@frozen(eq=False)
class Problem:
    """A model, a batch of trials and an error; the gradients are flat, in the order of the parameters."""

    model: Model
    x: torch.Tensor
    h0: torch.Tensor | None
    mask: torch.Tensor | None
    err: torch.Tensor

    def flow(self) -> Flow:
        return linearize(self.model, self.x, self.h0, self.mask)

    def backward(self) -> torch.Tensor:
        """Return the gradient of ``<Err, h>`` by ``backward()`` through the whole roll-out."""
        return self._gradient((self.err * self.model.rollout(self.x, self.h0, self.mask).states).sum())

    def windowed(self, window: int) -> torch.Tensor:
        """Return the sum over steps of gradients through the ``window`` steps that end with each."""
        total = torch.zeros((), dtype=torch.float64)
        with torch.no_grad():
            states = self.model.rollout(self.x, self.h0, self.mask).states
        for t in range(self.x.shape[1]):
            first = max(0, t - window + 1)
            h = self._start() if first == 0 else states[:, first - 1]
            for s in range(first, t + 1):
                h = self._advance(s, h)
            total = total + (self.err[:, t] * h).sum()
        return self._gradient(total)

    def detached(self, length: int, offset: int) -> torch.Tensor:
        """Return the gradient with the state detached where a chunk starts."""
        total = torch.zeros((), dtype=torch.float64)
        h = self._start()
        for t in range(self.x.shape[1]):
            if t and t % length == offset:
                h = h.detach()
            h = self._advance(t, h)
            total = total + (self.err[:, t] * h).sum()
        return self._gradient(total)

    def _start(self) -> torch.Tensor:
        return self.model.initial_state(len(self.x)) if self.h0 is None else self.h0

    def _advance(self, t: int, h: torch.Tensor) -> torch.Tensor:
        new = self.model.step(self.x[:, t], h)
        return new if self.mask is None else torch.where(self.mask[:, t, None], new, h)

    def _gradient(self, loss: torch.Tensor) -> torch.Tensor:
        theta = tuple(self.model.trainable().values())
        found = torch.autograd.grad(loss, theta, allow_unused=True, materialize_grads=True)
        return torch.cat([g.reshape(-1) for g in found])


@pytest.fixture(scope="session", params=[*SETTINGS, "lstm"])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def problem() -> Callable[..., Problem]:
    """Return a maker of problems: two trials, by default of six steps from a given initial state."""

    def make(name: str, seed: int = 0, time: int = 6, start: str = "given", masked: bool = False) -> Problem:
        model = build(name, seed, start == "trainable")
        generator = torch.Generator().manual_seed(seed + 1)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        x, h0, err = normal(2, time, INPUTS), normal(2, model.width), normal(2, time, model.width)
        if start == "trainable":
            with torch.no_grad():
                model.h0.copy_(h0[0])
        mask = torch.arange(time) < torch.tensor([[time], [(time + 1) // 2]]) if masked else None
        return Problem(model, x, h0 if start == "given" else None, mask, err)

    return make


@pytest.fixture(scope="session")
def close() -> Callable[..., None]:
    """Assert that two tensors agree, relative to the larger norm."""

    def check(actual: torch.Tensor, expected: torch.Tensor, rtol: float = 1e-12) -> None:
        assert actual.shape == expected.shape
        assert actual.dtype == expected.dtype == torch.float64
        scale = max(float(actual.norm()), float(expected.norm()))
        assert scale > 0
        assert float((actual - expected).norm()) <= rtol * scale

    return check


@pytest.fixture(scope="session")
def differ() -> Callable[..., None]:
    """Assert that two tensors of one shape are apart: the partner of every equality."""

    def check(first: torch.Tensor, second: torch.Tensor, rtol: float = 1e-4) -> None:
        assert first.shape == second.shape
        assert float((first - second).norm()) > rtol * max(float(first.norm()), float(second.norm()))

    return check


@pytest.fixture(scope="session")
def powers() -> Callable[[Flow, torch.Tensor, int], Iterator[torch.Tensor]]:
    """Return an iterator over ``(A Z)^j q`` for j = 0, 1, ... with the shift written out."""

    def terms(flow: Flow, q: torch.Tensor, count: int) -> Iterator[torch.Tensor]:
        for _ in range(count):
            yield q
            q = flow.A(torch.cat([torch.zeros_like(q[:, :1]), q[:, :-1]], dim=1))

    return terms
