"""Products in float32 follow those in float64, for every installed model."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from kpframe import create_model, linearize
from kpframe.plugin import get_manager

NAMES = [spec.name for spec in get_manager().specs("model")]
NEEDS = {"attention": {"tokens": 4}}

#: s5's slowest and fastest modes turn by up to half a turn a step, whose rounding grows with each step.
TOLERANCES = {"s5": 5e-5}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.rows(4)
def test_products_follow_float64(name: str) -> None:
    torch.manual_seed(0)
    model = create_model(name, input_size=4, hidden_size=16, **NEEDS.get(name, {}))
    x = torch.randn(3, model.steps or 20, model.input_size)
    low, high = linearize(model, x), linearize(deepcopy(model).double(), x.double())
    q = torch.randn(low.P.domain.shape)
    for operator in ("P", "K", "Phi"):
        found, expected = getattr(low, operator)(q), getattr(high, operator)(q.double())
        gap = float((found.double() - expected).norm() / expected.norm())
        assert 0 < gap <= TOLERANCES.get(name, 1e-5), operator
