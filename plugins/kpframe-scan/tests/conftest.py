"""What the tests of the parallel scan share: seeded matrices, and P written out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

#: Trials, steps, states: single ones, odd ones, powers of two and their neighbours, a wide state.
SIZES = [
    (1, 1, 1),
    (1, 2, 1),
    (3, 1, 2),
    (2, 2, 3),
    (1, 7, 1),
    (2, 8, 2),
    (3, 9, 2),
    (1, 16, 4),
    (2, 17, 3),
    (2, 5, 9),
    (5, 31, 1),
]


@pytest.fixture(params=SIZES, ids=str)
def sizes(request: pytest.FixtureRequest) -> tuple[int, int, int]:
    return request.param


@pytest.fixture
def randn() -> Callable[..., torch.Tensor]:
    """Return a maker of normal tensors from a seed."""

    def draw(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    return draw


@pytest.fixture
def written_out() -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a maker of the matrix ``(I - A Z)^-1`` from blocks ``[B, T, H, H]``."""

    def inverse(blocks: torch.Tensor) -> torch.Tensor:
        batch, time, hidden, _ = blocks.shape
        matrix = torch.eye(batch * time * hidden, dtype=blocks.dtype)
        view = matrix.view(batch, time, hidden, batch, time, hidden)
        for b in range(batch):
            for t in range(1, time):
                view[b, t, :, b, t - 1] = -blocks[b, t]
        return torch.linalg.inv(matrix)

    return inverse


@pytest.fixture
def close() -> Callable[..., None]:
    """Return a check that two tensors agree, relative to the larger norm."""

    def check(actual: torch.Tensor, expected: torch.Tensor, rtol: float = 1e-12) -> None:
        assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
        scale = max(float(actual.norm()), float(expected.norm()))
        assert float((actual - expected).norm()) <= rtol * scale

    return check


@pytest.fixture
def differ() -> Callable[..., None]:
    """Return a check that two tensors are far apart."""

    def check(first: torch.Tensor, second: torch.Tensor, rtol: float = 1e-3) -> None:
        assert first.shape == second.shape
        assert float((first - second).norm()) > rtol * max(float(first.norm()), float(second.norm()))

    return check
