"""Models that are written, not wrapped: what a trial of ``wrap`` would refuse, ``linearize`` does."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kpframe import Model, Site, SiteModel, linearize, wrap
from kpframe.errors import ArgumentError

F64 = torch.float64
PURE = "^model: expected a step that depends on its arguments, parameters and buffers alone, row by row, got "
OWN = "^model: expected a step that learns its own parameters, got one that learns "


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


class Plain(Model):
    """A tanh network with ``use(model, h, t)`` at its end."""

    time_varying = True

    def __init__(self, use) -> None:
        super().__init__(3, {"h": 4})
        self.w, self.scales, self.use = nn.Parameter(drawn(4, 4)), nn.Parameter(drawn(6, 4)), use

    def step(self, x, h, t=None):
        return self.use(self, torch.tanh(h @ self.w + x.sum(1, keepdim=True)), t)


class Sites(SiteModel):
    """The same as weight sites."""

    time_varying = True

    def __init__(self, use) -> None:
        super().__init__(3, 4, ("h",), (Site("v", "input", ("u",)), Site("w", "h", ("u",))))
        self.v, self.w, self.use = nn.Parameter(drawn(4, 3)), nn.Parameter(drawn(4, 4)), use
        self.register_buffer("scales", drawn(6, 4))

    def combine(self, u, h, t=None):
        return {"h": self.use(self, torch.tanh(u["u"]), t)}


FOREIGN = nn.Parameter(torch.tensor(2.0, dtype=F64))


def right(model, h, t):
    return h * model.scales[t]


def first_step(model, h, t):
    return h * model.scales[int(t.flatten()[0])]


def mixed(model, h, t):
    return h - 1e-4 * h.mean(0)


def mixed_detached(model, h, t):
    return h - 1e-4 * h.mean(0).detach()


def random(model, h, t):
    return h + 1e-3 * torch.randn_like(h)


def foreign(model, h, t):
    return h * FOREIGN


def not_registered(model, h, t):
    return h * model.__dict__.setdefault("held", [torch.ones(4, dtype=F64, requires_grad=True)])[0]


@pytest.mark.parametrize("kind", [Plain, Sites])
@pytest.mark.parametrize("use", [first_step, mixed, mixed_detached, random, foreign, not_registered])
def test_faults_of_a_step(kind, use) -> None:
    x = drawn(3, 6, 3)
    message = PURE
    if use in (foreign, not_registered):
        what = r"a tensor \[\] of another" if use is foreign else r"'held\[0\]', of a part"
        message = OWN + what if kind is Plain else "expected nothing that learns but the model's own"
    with pytest.raises(ArgumentError, match=message):
        linearize(kind(use), x)
    linearize(kind(right), x)
    linearize(kind(right), x, mask=torch.arange(6) % 2 == torch.tensor([[0], [1], [0]]))


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("gain", [0.3, 1.0, 3.0])
@pytest.mark.rows(3)
def test_rounding_over_many_steps_is_no_fault(dtype, gain) -> None:
    """Also where gradients vanish, or a trajectory is chaotic and they grow without bound."""

    class Tanh(Model):
        def __init__(self) -> None:
            super().__init__(3, {"h": 40})
            self.w, self.v = nn.Parameter(gain * drawn(40, 40) / 40**0.5), nn.Parameter(drawn(40, 3))

        def step(self, x, h, t=None):
            return torch.tanh(h @ self.w.T + x @ self.v.T)

    model = Tanh().to(dtype)
    flow = linearize(model, 0.1 * drawn(2, 150, 3).to(dtype), method="graph")
    q = drawn(2, 150, 40, seed=3).to(dtype)
    assert bool(torch.isfinite(flow.P(q)).all())
    grown = float(flow.P(q).norm() / q.norm())
    assert grown < 10 if gain < 1 else grown > 1
    assert float(flow.Phi(q).norm()) > 0


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_units_that_are_saturated_are_no_fault(dtype) -> None:
    """Their derivatives underflow, in another order in each of the two products."""
    torch.manual_seed(0)
    model = wrap(nn.GRUCell(3, 1)).to(dtype)
    x = drawn(2, 4, 3).to(dtype)
    for size in (1e1, 1e2, 3e2, 1e3, 1e5):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0, size)
        for method in ("auto", "graph", "autograd"):
            flow = linearize(model, x, method=method)
            flow.J(torch.ones(flow.J.domain.shape, dtype=dtype))
