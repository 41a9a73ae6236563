"""Parameters without entries, which torch allows: every operator is that of the model without them."""

from __future__ import annotations

import pytest
import torch

from kpframe import Model, linearize
from kpframe.spectra import trace

F64 = torch.float64


class WithEmpty(Model):
    """``h' = tanh(W h + U x)``, and parameters of no rows and of no columns that add nothing."""

    def __init__(self, empty: bool) -> None:
        super().__init__(2, {"h": 3})
        generator = torch.Generator().manual_seed(0)
        self.W = torch.nn.Parameter(torch.randn(3, 3, generator=generator, dtype=F64))
        self.no_rows = torch.nn.Parameter(torch.zeros(0, 3, dtype=F64)) if empty else None
        self.U = torch.nn.Parameter(torch.randn(3, 2, generator=generator, dtype=F64))
        self.no_columns = torch.nn.Parameter(torch.zeros(3, 0, dtype=F64)) if empty else None

    def step(self, x: torch.Tensor, h: torch.Tensor, t: torch.Tensor | None = None) -> torch.Tensor:
        y = h @ self.W.T + x @ self.U.T
        if self.no_rows is not None and self.no_columns is not None:
            y = y + self.no_rows.sum() + (self.no_columns @ self.no_columns.T).sum()
        return torch.tanh(y)


@pytest.mark.parametrize("method", ["auto", "dense", "graph", "autograd"])
@pytest.mark.rows(2)
def test_operators_are_those_without_them(method: str) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 4, 2, generator=generator, dtype=F64)
    q = torch.randn(5, 2, 4, 3, generator=generator, dtype=F64)
    v = torch.randn(5, 15, generator=generator, dtype=F64)
    without, flow = (linearize(WithEmpty(empty), x, method=method) for empty in (False, True))
    assert flow.J.domain.size == without.J.domain.size == 15
    for name in ("P", "K", "Phi"):
        one, other = getattr(flow, name), getattr(without, name)
        torch.testing.assert_close(one(q), other(q), rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(one.T(q[0]), other.T(q[0]), rtol=1e-12, atol=1e-14)
    for name in ("J", "G"):
        one, other = getattr(flow, name), getattr(without, name)
        torch.testing.assert_close(one(v), other(v), rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(one.T(q), other.T(q), rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(one.to_dense(), other.to_dense(), rtol=1e-12, atol=1e-14)
    assert trace(flow.Phi).value == pytest.approx(trace(without.Phi).value, rel=1e-12)
    alone = flow.K.restrict(["no_rows", "no_columns"])
    assert float(alone(q).norm()) == 0.0
    assert float(flow.K.restrict(["no_rows", "U"])(q).norm()) > 0.1
    fixed = WithEmpty(True)
    for parameter in (fixed.W, fixed.U):
        parameter.requires_grad_(False)
    nothing = linearize(fixed, x, method=method)
    assert nothing.J.T(q).shape == (5, 0)
    assert torch.equal(nothing.J(v[:, :0]), torch.zeros_like(q))
    assert torch.equal(nothing.Phi(q), torch.zeros_like(q))
