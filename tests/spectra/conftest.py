"""Operators with known spectra."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from kpframe.operators import FunctionOperator, MatrixOperator, Operator
from kpframe.operators._spaces import Space

from ..toy_flows import lab as lab  # noqa: TID252


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def untagged(op: Operator) -> FunctionOperator:
    """The same operator without its tags."""
    return FunctionOperator(
        op.domain, op.codomain, op._apply, op._apply_adjoint, dtype=op.dtype, device=op.device, name="F"
    )


@pytest.fixture
def strip() -> Callable[[Operator], FunctionOperator]:
    return untagged


@pytest.fixture
def seeded() -> Callable[[int], torch.Generator]:
    return generator


@pytest.fixture(scope="session")
def symmetric() -> MatrixOperator:
    """An indefinite symmetric operator on (batch=3, time=10, hidden=10) with a decaying spectrum."""
    basis = torch.linalg.qr(torch.randn(300, 300, generator=generator(7), dtype=torch.float64))[0]
    values = 0.8 ** torch.arange(300, dtype=torch.float64) * torch.tensor(
        [1.0, -0.7] * 150, dtype=torch.float64
    )
    matrix = (basis * values) @ basis.T
    return MatrixOperator((matrix + matrix.T) / 2, Space.of(batch=3, time=10, hidden=10))


@pytest.fixture(scope="session")
def positive() -> MatrixOperator:
    """A positive operator on (batch=3, time=10, hidden=10) with eigenvalues 1/i."""
    basis = torch.linalg.qr(torch.randn(300, 300, generator=generator(8), dtype=torch.float64))[0]
    matrix = (basis / torch.arange(1, 301, dtype=torch.float64)) @ basis.T
    return MatrixOperator((matrix + matrix.T) / 2, Space.of(batch=3, time=10, hidden=10))


@pytest.fixture(scope="session")
def rectangular() -> MatrixOperator:
    """An operator from (parameter=350) to (time=10, hidden=32) with decaying singular values."""
    left = torch.linalg.qr(torch.randn(320, 320, generator=generator(9), dtype=torch.float64))[0]
    right = torch.linalg.qr(torch.randn(350, 320, generator=generator(10), dtype=torch.float64))[0]
    matrix = (left * 0.85 ** torch.arange(320, dtype=torch.float64)) @ right.T
    return MatrixOperator(matrix, Space.of(parameter=350), Space.of(time=10, hidden=32))
