"""What a cell keeps of a call: a copy is made without it, and a step that reads it is refused."""

from __future__ import annotations

import copy
import warnings
from collections import deque

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from kpframe import Model, linearize, wrap
from kpframe.errors import ArgumentError

F64 = torch.float64
PURE = "expected a step that depends on its arguments, parameters and buffers alone, row by row, got "


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


class Keeps(nn.GRUCell):
    """A cell that keeps its last activation in one way or another."""

    def __init__(self, keep) -> None:
        super().__init__(3, 4)
        self.keep, self.last, self.seen = keep, None, {"a": [], "b": deque(maxlen=2)}
        self.register_buffer("membrane", None)

    def forward(self, x, h):
        h = super().forward(x, h)
        self.keep(self, h)
        return h


def attribute(cell, h):
    cell.last = h


def nested(cell, h):
    cell.seen["a"] = [h, (h * 2, None)]


def queue(cell, h):
    cell.seen["b"].append(h)


def in_an_object(cell, h):
    if not hasattr(cell, "notes"):
        cell.notes = Notes()
    cell.notes.h = h.sum()


def penalty(cell, h):
    cell.last = h.pow(2).mean() if cell.last is None else cell.last + h.pow(2).mean()


class Notes:
    pass


def weight_norm(linear):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(linear)


def pruned(linear):
    prune.l1_unstructured(linear, "weight", amount=2)
    return linear


class Mixes(nn.Module):
    """A recurrent cell with a linear layer that ``torch.nn.utils`` has made something of."""

    input_size, hidden_size = 3, 4

    def __init__(self, make) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mix, self.core = make(nn.Linear(4, 4)), nn.Linear(3, 4)

    def forward(self, x, h):
        return torch.tanh(self.mix(h) + self.core(x))


KEEPING = [lambda keep=keep: Keeps(keep) for keep in (attribute, nested, queue, in_an_object, penalty)]
KEEPING += [lambda: Mixes(weight_norm), lambda: Mixes(pruned)]
NAMES = ["attribute", "nested", "queue", "object", "penalty", "weight_norm", "pruned"]


@pytest.mark.parametrize("make", KEEPING, ids=NAMES)
@pytest.mark.parametrize("method", ["auto", "graph"])
@pytest.mark.rows(4)
def test_linearize_after_a_step_of_training(make, method) -> None:
    cell, x, q = make().double(), drawn(2, 5, 3), drawn(2, 5, 4, seed=1)
    fresh = make().double()
    model = wrap(cell)
    before = linearize(model, x, method=method).Phi(q)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.rollout(x).states.pow(2).sum().backward()
    optimizer.step()
    flow = linearize(model, x, method=method)
    for name, parameter in cell.named_parameters():
        fresh.get_parameter(name).data.copy_(parameter)
    for name, buffer in cell.named_buffers():
        fresh.get_buffer(name).copy_(buffer)
    expected = linearize(wrap(fresh), x, method=method).Phi(q)
    for found in (flow.Phi(q), linearize(flow.model, x, method=method).Phi(q)):
        assert float((found - expected).norm()) <= 1e-12 * float(expected.norm())
    assert float((before - expected).norm()) > 1e-3 * float(expected.norm())
    again = copy.deepcopy(model)
    assert torch.equal(again.rollout(x).states, model.rollout(x).states)


class Once(Model):
    """A model that makes its weight of two parameters once, and keeps it."""

    def __init__(self, cached: bool = True) -> None:
        super().__init__(3, {"h": 4})
        self.a, self.b = nn.Parameter(drawn(4, 2)), nn.Parameter(drawn(2, 4, seed=1))
        self.cached, self.weight = cached, None

    def step(self, x, h, t=None):
        if self.weight is None or not self.cached:
            self.weight = self.a @ self.b
        return torch.tanh(h @ self.weight.T + x.sum(1, keepdim=True))


@pytest.mark.parametrize("used", [False, True])
def test_a_weight_that_is_made_once_is_refused(used) -> None:
    x = drawn(2, 5, 3)
    model = Once()
    if used:
        model.rollout(x).states.sum().backward()
    message = (
        "learns 'weight', computed outside the step; compute it inside, make it state, or detach it$"
        if used
        else "reads what an earlier call left in 'weight'; compute it in each call$"
    )
    with pytest.raises(ArgumentError, match=rf"^model: .*got one that {message}"):
        linearize(model, x)
    assert float(linearize(Once(cached=False), x).K(drawn(2, 5, 4)).norm()) > 0


def test_wrap_refuses_what_a_cell_reads_of_an_earlier_call() -> None:
    class Cell(nn.Module):
        input_size, hidden_size = 3, 4

        def __init__(self, cached: bool) -> None:
            super().__init__()
            self.inner = Once(cached).double()

        def forward(self, x, h):
            return self.inner.step(x, h)

    with pytest.raises(
        ArgumentError, match=f"^module: {PURE}one that reads what an earlier call left in 'inn"
    ):
        wrap(Cell(True))
    wrap(Cell(False))


def test_a_state_outside_of_the_state_is_refused() -> None:
    class Spiking(Model):
        """A membrane that the step carries on beside its state."""

        def __init__(self) -> None:
            super().__init__(3, {"h": 4})
            self.w, self.membrane = nn.Parameter(drawn(4, 3)), torch.zeros(1, 4, dtype=F64)

        def step(self, x, h, t=None):
            self.membrane = 0.9 * self.membrane.mean(0, keepdim=True) + x @ self.w.T
            return torch.tanh(self.membrane) + 0.1 * h

    with pytest.raises(ArgumentError, match=f"^model: {PURE}"):
        linearize(Spiking(), drawn(2, 5, 3))
    model = Spiking()
    model.rollout(drawn(2, 5, 3)).states.sum().backward()
    with pytest.raises(ArgumentError, match=f"^model: {PURE}|got one that learns 'membrane'"):
        linearize(model, drawn(2, 5, 3))


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_sparse_weights_of_another_layout_are_copied() -> None:
    class Reservoir(nn.Module):
        input_size, hidden_size = 2, 3

        def __init__(self, W: torch.Tensor) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.register_buffer("W", W)
            self.inputs = nn.Linear(2, 3, dtype=F64)

        def forward(self, x, h):
            return torch.tanh((self.W @ h.T).T + self.inputs(x))

    W = 0.5 * torch.eye(3, dtype=F64).roll(1, 0)
    x, q = drawn(2, 4, 2), drawn(2, 4, 3)
    found = linearize(wrap(Reservoir(W.to_sparse_csr())), x).Phi(q)
    expected = linearize(wrap(Reservoir(W)), x).Phi(q)
    assert float((found - expected).norm()) <= 1e-12 * float(expected.norm())
    other = linearize(wrap(Reservoir(0 * W)), x).Phi(q)
    assert float((other - expected).norm()) > 1e-3 * float(expected.norm())
