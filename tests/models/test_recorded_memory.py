"""How much a step keeps for its derivatives: an estimate that refuses no model and holds on to nothing."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

from kpframe import linearize, trace, wrap
from kpframe.models._autograd.graph import leaves, saved_bytes
from kpframe.models._few_rows import saved_by_a_row

F64 = torch.float64


class Learner(nn.Module):
    """A linear layer ``W`` that learns within each step, by ``torch.func.grad``."""

    input_size = 2

    def __init__(self) -> None:
        super().__init__()
        self.key, self.value = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x, W):
        def loss(W, k, v):
            return ((W @ k - v) ** 2).sum()

        return W - 0.1 * torch.func.vmap(torch.func.grad(loss))(W, self.key(x), self.value(x))


class LearnerByHand(Learner):
    """The same, its gradient written out."""

    def forward(self, x, W):
        k, v = self.key(x), self.value(x)
        return W - 0.2 * ((W @ k[..., None])[..., 0] - v)[..., None] * k[:, None]


class Reservoir(nn.Module):
    """Fixed recurrent weights ``[3, 3]``, a sparse tensor of a layout; the input's weights learn."""

    input_size, hidden_size = 2, 3

    def __init__(self, layout: torch.layout) -> None:
        super().__init__()
        W = 0.5 * torch.eye(3, dtype=F64).roll(1, 0)
        self.register_buffer("W", W if layout == torch.strided else W.to_sparse(layout=layout))
        self.inputs = nn.Linear(2, 3)

    def forward(self, x, h):
        return torch.tanh((self.W @ h.T).T + self.inputs(x))


def twins(first: nn.Module, second: nn.Module, **options):
    """Return both as models of the same parameters."""
    first.double()
    second.double()
    for name, parameter in second.named_parameters():
        parameter.data.copy_(first.get_parameter(name))
    return wrap(first, **options), wrap(second, **options)


def drawn(*shape: int) -> torch.Tensor:
    """Return normal numbers with the seed 0, after a layer and another drew theirs."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=F64)


def check_twins(ours, theirs) -> None:
    x, q = drawn(2, 4, 2), drawn(3, 2, 4, ours.width)
    for method in ("auto", "dense", "graph", "autograd"):
        flow, twin = linearize(ours, x, method=method), linearize(theirs, x, method=method)
        for name in ("P", "K", "Phi"):
            found, expected = getattr(flow, name)(q), getattr(twin, name)(q)
            assert float((found - expected).norm()) <= 1e-12 * float(expected.norm()), (method, name)
            found, expected = getattr(flow, name).T(q), getattr(twin, name).T(q)
            assert float((found - expected).norm()) <= 1e-12 * float(expected.norm()), (method, name)
        assert float((flow.Phi(q) - flow.K(q)).norm()) > 0.01 * float(flow.K(q).norm())


def test_a_step_with_torch_func_inside() -> None:
    torch.manual_seed(0)
    ours, theirs = twins(Learner(), LearnerByHand(), state={"W": (2, 2)})
    check_twins(ours, theirs)


def test_traces() -> None:
    default = torch.get_default_dtype()
    torch.set_default_dtype(F64)
    try:
        torch.manual_seed(0)
        learner = Learner()
        LearnerByHand()  # it draws as much
        x = torch.randn(2, 4, 2)
        torch.manual_seed(0)
        reservoir = Reservoir(torch.sparse_coo)
    finally:
        torch.set_default_dtype(default)
    found = trace(linearize(wrap(learner, state={"W": (2, 2)}), x).Phi).value
    assert found == pytest.approx(9.297837761, rel=1e-9)
    assert trace(linearize(wrap(reservoir), x).Phi).value == pytest.approx(45.17818916, rel=1e-9)


def test_a_sparse_reservoir() -> None:
    torch.manual_seed(0)
    check_twins(*twins(Reservoir(torch.sparse_coo), Reservoir(torch.strided)))


@pytest.mark.parametrize(
    ("method", "used"), [("auto", False), ("auto", True), ("graph", True), ("autograd", True)]
)
@pytest.mark.rows(18)
def test_nothing_is_kept_of_a_flow_that_is_gone(toy, lab, method, used) -> None:
    model = lab.make(toy)
    flow = linearize(model, **lab.trials(model), method=method)
    if used:
        flow.Phi(torch.ones(flow.Phi.domain.shape, dtype=F64))
    held = [weakref.ref(tensor) for tensor in (*flow.model.parameters(), flow.trajectory.states)]
    assert all(ref() is not None for ref in held)
    del flow
    gc.collect()
    assert [ref() for ref in held] == [None] * len(held)


def test_the_estimate_counts_what_a_row_makes_a_step_keep() -> None:
    """A tanh layer keeps its result; a product keeps both factors, and no weight counts."""
    W = torch.randn(5, 5, dtype=F64, requires_grad=True)
    h = torch.randn(7, 5, dtype=F64, requires_grad=True)
    once = torch.tanh(h)
    assert saved_bytes(once) == 7 * 5 * 8
    assert saved_bytes(once * torch.sin(h)) == (7 * 5 * 8) * 3  # tanh h (twice), h, sin h
    assert saved_bytes(torch.tanh(h @ W)) == 7 * 5 * 8 + 5 * 5 * 8 + 7 * 5 * 8
    assert {id(leaf) for leaf in leaves(torch.tanh(h @ W))} == {id(W), id(h)}
    assert saved_bytes(torch.ones(3)) == 0
    model = wrap(nn.RNNCell(3, 5).double())
    run = model.rollout(torch.zeros(2, 3, 3, dtype=F64))
    wide = wrap(nn.RNNCell(3, 10).double())
    assert saved_by_a_row(model, run) == (3 + 5 + 5) * 8  # x, h and tanh
    assert saved_by_a_row(wide, wide.rollout(torch.zeros(2, 3, 3, dtype=F64))) == (3 + 10 + 10) * 8
