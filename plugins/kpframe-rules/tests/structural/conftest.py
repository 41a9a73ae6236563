"""What the tests of structural rules share: models that know their paths, and loops over dense Jacobians.

The references below share no code with kpframe's operators: Jacobians come from one reverse pass for each row
of ``step``, and everything that is made of them is a loop over trials and steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from attrs import evolve, frozen

from kpframe import Model, create_model

F64 = torch.float64
NAMES = ("vanilla", "rate", "current", "gru", "lstm", "cell")
ALPHA = {"vanilla": 1.0, "rate": 0.4, "current": 0.4}


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


@frozen(eq=False)
class Loops:
    """Dense Jacobians ``A [B, T, H, H]`` and ``J [B, T, H, M]`` of a problem, and what loops make of them."""

    A: torch.Tensor
    J: torch.Tensor
    err: torch.Tensor

    def forward(self, A: torch.Tensor, keep: torch.Tensor | float = 1.0, J: torch.Tensor | None = None):
        """Return the gradient from ``G_t = keep * (A_t G_{t-1} + J_t)``, ``[H, M]`` for each trial."""
        J = self.J if J is None else J
        total = torch.zeros(J.shape[-1], dtype=F64)
        for b in range(len(J)):
            G = torch.zeros(J.shape[2:], dtype=F64)
            for t in range(J.shape[1]):
                G = keep * (J[b, t] + (A[b, t] @ G if t else 0))
                total = total + G.T @ self.err[b, t]
        return total

    def propagator(self, A: torch.Tensor) -> torch.Tensor:  # [B T H, B T H]
        """Return ``A_t ... A_{s+1}`` for every two steps of a trial."""
        batch, time, hidden, _ = A.shape
        P = torch.zeros(batch, time, hidden, batch, time, hidden, dtype=F64)
        for b in range(batch):
            for s in range(time):
                P[b, s, :, b, s] = torch.eye(hidden, dtype=F64)
                for t in range(s + 1, time):
                    P[b, t, :, b, s] = A[b, t] @ P[b, t - 1, :, b, s]
        return P.reshape(batch * time * hidden, -1)

    def shifted(self, A: torch.Tensor) -> torch.Tensor:  # [B T H, B T H]
        """Return the matrix of ``A Z``."""
        batch, time, hidden, _ = A.shape
        out = torch.zeros(batch, time, hidden, batch, time, hidden, dtype=F64)
        for b in range(batch):
            for t in range(1, time):
                out[b, t, :, b, t - 1] = A[b, t]
        return out.reshape(batch * time * hidden, -1)


def loops_of(here) -> Loops:
    """Return the dense Jacobians of a problem, step by step and row by row."""
    model, time = here.model, here.x.shape[1]
    theta = model.trainable()
    trials = []
    for b in range(len(here.x)):
        h = (model.initial_state(1) if here.h0 is None else here.h0[b : b + 1]).detach()
        rows = []
        for t in range(time):
            old = h.clone().requires_grad_()
            new = model.step(here.x[b : b + 1, t], old)
            if here.mask is not None and not here.mask[b, t]:
                new = old * 1.0
            sources = (old, *theta.values())
            options = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
            blocks = [torch.autograd.grad(entry, sources, **options) for entry in new[0]]
            A = torch.stack([row[0][0] for row in blocks])
            parts = {name: torch.stack([row[k + 1] for row in blocks]) for k, name in enumerate(theta)}
            if t == 0 and here.h0 is None and "h0" in parts:
                parts["h0"] = A
            rows.append((A, torch.cat([part.flatten(1) for part in parts.values()], dim=1)))
            h = new.detach()
        trials.append(rows)
    A = torch.stack([torch.stack([A for A, _ in rows]) for rows in trials])
    J = torch.stack([torch.stack([J for _, J in rows]) for rows in trials])
    return Loops(A, J, here.err)


def units_of(model: Model) -> torch.Tensor:  # [H]
    """Return the unit of each state entry of the models here, one layer each."""
    return torch.arange(model.width) % 4


def acts_on(model: Model) -> torch.Tensor:  # [M]
    """Return the unit that each parameter acts on: rows are gates (for h_0 components) times units."""
    rows = [torch.arange(len(p)).repeat_interleave(p[0].numel()) for p in model.trainable().values()]
    return torch.cat(rows) % 4


@pytest.fixture(scope="session", params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session", params=[name for name in NAMES if name != "cell"])
def known(request: pytest.FixtureRequest) -> str:
    """Return the name of a model that knows its paths apart."""
    return request.param


@pytest.fixture(scope="session", params=list(ALPHA))
def leaky(request: pytest.FixtureRequest) -> str:
    """Return the name of a model with a constant leak, 1 - ALPHA."""
    return request.param


@pytest.fixture(scope="session")
def make(problem) -> Callable:
    """Return a maker of problems as ``problem`` does; its LSTM knows its paths, ``cell`` is one wrapped."""

    def built(name: str, seed: int = 0, time: int = 6, start: str = "given", masked: bool = False):
        if name != "lstm":
            return problem("lstm" if name == "cell" else name, seed, time, start, masked)
        here = problem("lstm", seed, time, start, masked)
        pytest.importorskip("kpframe_lstm")
        sizes = {"input_size": 3, "hidden_size": 4, "seed": seed}
        model = create_model("lstm", **sizes, trainable_initial_state=start == "trainable").double()
        if start == "trainable":
            with torch.no_grad():
                model.h0.copy_(here.model.h0)
        return evolve(here, model=model)

    return built


@pytest.fixture(scope="session")
def dense() -> Callable[..., Loops]:
    return loops_of


@pytest.fixture(scope="session")
def own_entries() -> Callable[[Model], tuple[torch.Tensor, torch.Tensor]]:
    """Return the patterns "within a unit" of a model's A ``[H, H]`` and of its influence ``[H, M]``."""

    def patterns(model: Model) -> tuple[torch.Tensor, torch.Tensor]:
        units = units_of(model)
        return units[:, None] == units, units[:, None] == acts_on(model)

    return patterns


@pytest.fixture(scope="session")
def gradient() -> Callable:
    """Return a function: the gradient ``[M]`` of ``<Err, h>`` for states that a function of the step makes.

    ``advance(t, h)`` gives the next states of all trials; padded steps hold.
    """

    def flat(here, advance: Callable[[int, torch.Tensor], torch.Tensor], err: torch.Tensor | None = None):
        err = here.err if err is None else err
        h = here.model.initial_state(len(here.x)) if here.h0 is None else here.h0
        total = torch.zeros((), dtype=F64)
        for t in range(here.x.shape[1]):
            new = advance(t, h)
            h = new if here.mask is None else torch.where(here.mask[:, t, None], new, h)
            total = total + (err[:, t] * h).sum()
        theta = tuple(here.model.trainable().values())
        found = torch.autograd.grad(total, theta, allow_unused=True, materialize_grads=True)
        return torch.cat([g.reshape(-1) for g in found])

    return flat


@pytest.fixture(scope="session")
def stopped() -> Callable:
    """Return one step of a bundled model, written out, in which some preactivations read ``detach(h)``."""

    def step(name: str, model: Model, x: torch.Tensor, state: torch.Tensor, paths: Sequence[str] = ("all",)):
        def rows(count: int) -> Sequence[torch.Tensor]:
            return (x @ model.weight_ih_l0.T + model.bias_ih_l0).chunk(count, dim=-1)

        def read(h: torch.Tensor, names: Sequence[str]) -> list[torch.Tensor]:
            weights, biases = model.weight_hh_l0.chunk(len(names)), model.bias_hh_l0.chunk(len(names))
            return [
                (h.detach() if {gate, "all"} & {*paths} else h) @ w.T + b
                for gate, w, b in zip(names, weights, biases, strict=True)
            ]

        if name in ALPHA:
            (fed,), alpha = rows(1), ALPHA[name]
            (back,) = read(torch.tanh(state) if name == "current" else state, ["u"])
            drive = fed + back if name == "current" else torch.tanh(fed + back)
            return (1 - alpha) * state + alpha * drive
        if name == "gru":
            back = read(state, ["r", "z", "n_hidden"])
            fed = rows(3)
            r, z = torch.sigmoid(fed[0] + back[0]), torch.sigmoid(fed[1] + back[1])
            return (1 - z) * torch.tanh(fed[2] + r * back[2]) + z * state
        h, c = state.chunk(2, dim=-1)
        i, f, g, o = (a + b for a, b in zip(rows(4), read(h, ["i", "f", "g", "o"]), strict=True))
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.cat([torch.sigmoid(o) * torch.tanh(c), c], dim=-1)

    return step
