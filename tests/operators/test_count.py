"""Products are counted as they are asked for: once each, whatever an operator is made of."""

from __future__ import annotations

import torch

from kpframe.operators import IdentityOperator, Space
from kpframe.operators._count import counted_products


def identity() -> IdentityOperator:
    return IdentityOperator(Space.of(time=3, hidden=2), dtype=torch.float64, device="cpu")


def test_compositions_count_once_and_probes_each() -> None:
    one = identity()
    made = 2.0 * one @ one + one
    with counted_products() as outer:
        made(torch.ones(3, 2, dtype=torch.float64))
        with counted_products() as inner:
            made.T(torch.ones(4, 5, 3, 2, dtype=torch.float64), chunk=3)
        made(torch.ones(3, 2, dtype=torch.float64))
    made(torch.ones(3, 2, dtype=torch.float64))
    assert (outer.products, inner.products) == (22, 20)
