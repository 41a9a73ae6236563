"""How torch is told to round float32 matrix products, by either of its ways: neither ends a call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from kpframe import linearize
from kpframe.operators._isolation import product_precision


@contextmanager
def of_a_backend(value: str) -> Iterator[None]:
    matmul = torch.backends.mkldnn.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, value
    try:
        yield
    finally:
        matmul.fp32_precision = before


def test_linearize_with_the_precision_of_a_backend(lab) -> None:
    model = lab.make("gru", dtype=torch.float32)
    case = lab.trials(model, dtype=torch.float32)
    q = lab.randn(1, 2, 4, 3, dtype=torch.float32)
    expected = linearize(model, **case).Phi(q)
    assert product_precision() == frozenset()
    with of_a_backend("bf16"):
        with pytest.raises(RuntimeError, match="mix of the legacy and new APIs"):
            torch.get_float32_matmul_precision()
        assert product_precision() == {"mkldnn bf16"}
        lab.close(linearize(model, **case).Phi(q), expected, 0.05)
    assert product_precision() == frozenset()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert product_precision() == {"medium"}
    finally:
        torch.set_float32_matmul_precision(before)
    assert product_precision() == frozenset()
