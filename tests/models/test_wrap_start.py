"""An initial state that learns in the user's own module."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import nn

from kpframe import Model, linearize, wrap
from kpframe.errors import ArgumentError, DtypeError, ShapeError

F64 = torch.float64


class Linear(nn.Module):
    """``h' = w h`` from a learned ``h_init``."""

    input_size = hidden_size = 1

    def __init__(self, w: float = 0.5, start: float = 0.3) -> None:
        super().__init__()
        self.w, self.h_init = (nn.Parameter(torch.tensor([v], dtype=F64)) for v in (w, start))

    def forward(self, x, h):
        return self.w * h + 0 * x


def start(cell, batch):
    return cell.h_init.expand(batch, 1)


@pytest.mark.parametrize("method", ["auto", "dense", "graph", "autograd"])
def test_Phi_has_the_share_of_the_initial_state(method) -> None:
    """dh_1/dw = h_init and dh_1/dh_init = w, so that Phi = w^2 + h_init^2."""
    x = torch.zeros(1, 1, 1, dtype=F64)
    flow = linearize(wrap(Linear(), initial_state=start), x, method=method)
    assert flow.Phi.to_dense().item() == pytest.approx(0.5**2 + 0.3**2, rel=1e-12)
    given = linearize(wrap(Linear(), initial_state=start), x, torch.full((1, 1), 0.3, dtype=F64))
    assert given.Phi.to_dense().item() == pytest.approx(0.3**2, rel=1e-12)
    assert linearize(wrap(Linear()), x).Phi.to_dense().item() == 0


class Pair(NamedTuple):
    v: torch.Tensor
    M: torch.Tensor


class Two(nn.Module):
    """A state of a vector and a matrix, both of which start from learned numbers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.core = nn.Linear(3 + 4 + 2, 3, dtype=F64)
        self.first, self.memory = (nn.Parameter(torch.randn(*s, dtype=F64)) for s in ((3,), (2, 2)))

    def forward(self, x, state):
        v, M = state.values() if isinstance(state, dict) else state
        v = torch.tanh(self.core(torch.cat([v, M.flatten(1), x], 1)))
        M = 0.9 * M + 0.1 * v[:, :2, None] * v[:, None, :2]
        return type(state)(v=v, M=M) if isinstance(state, dict | Pair) else type(state)((v, M))


FORMS = {
    "tuple": (tuple, lambda c, n: (c.first.expand(n, 3), c.memory.expand(n, 2, 2))),
    "dict": (dict, lambda c, n: {"v": c.first.expand(n, 3), "M": c.memory.expand(n, 2, 2)}),
    "named": (Pair, lambda c, n: Pair(c.first.expand(n, 3), c.memory.expand(n, 2, 2))),
    "flat": (tuple, lambda c, n: torch.cat([c.first, c.memory.flatten()]).expand(n, 7)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.rows(2)
def test_forms_of_a_state(form) -> None:
    container, begin = FORMS[form]
    cell = Two()
    shapes = {"v": 3, "M": (2, 2)}
    model = wrap(cell, input_size=2, state=shapes, container=container, initial_state=begin)
    x = torch.randn(2, 4, 2, dtype=F64)
    err = torch.randn(2, 4, 7, dtype=F64)
    states = model.rollout(x).states
    states.backward(err)
    assert float(cell.memory.grad.norm()) > 0.1
    gradient = torch.cat([p.grad.reshape(-1) for p in model.trainable().values()])
    for method in ("auto", "graph", "autograd"):
        flow = linearize(model, x, method=method)
        found = flow.J.T(flow.P.T(err))
        assert float((found - gradient).norm()) <= 1e-12 * float(gradient.norm())
        G = (flow.P @ flow.J).to_dense()
        assert float((flow.Phi.to_dense() - G @ G.T).norm()) <= 1e-12 * float((G @ G.T).norm())


@pytest.mark.parametrize("check", [True, False])
def test_an_initial_state_of_another_module_is_refused(check) -> None:
    cell, other = Linear(), Linear()
    for source in (cell, other):

        def begin(module, batch, source=source):
            return source.h_init.expand(batch, 1)

        told = "initial_state" if check else "model"
        message = (
            rf"^{told}: expected a step that learns its own parameters, got one that learns a tensor \[1\] "
            "of another module or of none; a function must use the module that it is given"
        )
        with pytest.raises(ArgumentError, match=message):
            linearize(wrap(cell, initial_state=begin, check=check), torch.zeros(1, 1, 1, dtype=F64))


def test_a_model_whose_initial_state_is_another_ones_is_refused() -> None:
    class Closed(Model):
        def __init__(self, begin) -> None:
            super().__init__(1, {"h": 1})
            self.w, self.source = nn.Parameter(torch.tensor([0.5], dtype=F64)), begin

        def step(self, x, h, t=None):
            return self.w * h

        def initial_state(self, batch):
            return self.source(self, batch)

    x, other = torch.zeros(1, 1, 1, dtype=F64), Linear()
    linearize(Closed(lambda model, batch: model.w.expand(batch, 1)), x)
    with pytest.raises(ArgumentError, match=r"learns a tensor .* of another module or of none"):
        linearize(Closed(lambda model, batch: other.h_init.expand(batch, 1)), x)
    with pytest.raises(ArgumentError, match=r"^Closed.initial_state: expected the same state at each call"):
        linearize(Closed(lambda model, batch: torch.randn(batch, 1, dtype=F64)), x)


@pytest.mark.parametrize(
    ("begin", "error", "message"),
    [
        (
            lambda c, n: c.h_init,
            ShapeError,
            r"what initial_state returned for Linear: expected 'h' a tensor \[",
        ),
        (lambda c, n: None, ShapeError, r"for Linear: expected 'h' a tensor \[3, 1\], got NoneType"),
        (lambda c, n: c.h_init.float().expand(n, 1), DtypeError, r"expected dtype torch.float64, got .*32"),
        (
            lambda c, n: torch.randn(n, 1, dtype=F64),
            ArgumentError,
            "^initial_state: expected the same state at",
        ),
        (3, ArgumentError, r"^initial_state: expected a function \(module, batch\) -> state, .*, got 3"),
    ],
)
def test_misuse(begin, error, message) -> None:
    with pytest.raises(error, match=message):
        wrap(Linear(), initial_state=begin)


def test_it_takes_the_place_of_a_trainable_initial_state() -> None:
    with pytest.raises(ArgumentError, match=r"^initial_state: .* no trainable_initial_state .* both$"):
        wrap(Linear(), initial_state=start, trainable_initial_state=True)
