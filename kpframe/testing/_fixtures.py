"""Fixtures for the tests of plugins: seeded values, comparisons and the dense total Jacobian.

``kpframe.testing.pytest_plugin`` offers them; one of the same name in a ``conftest.py`` takes its place.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # imported where they are used: a process that gives tests out to others needs no torch
    import torch

    from kpframe.models._model import Model


@pytest.fixture
def draw() -> Callable[..., torch.Tensor]:
    """A maker of float64 normal values: ``draw(*shape, seed=0)``."""

    import torch

    def normal(*shape: int, seed: int = 0) -> torch.Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    return normal


@pytest.fixture
def close() -> Callable[..., None]:
    """``close(actual, expected, rtol)`` asserts that float64 tensors agree, relative to the larger norm."""

    import torch

    def check(actual: torch.Tensor, expected: torch.Tensor, rtol: float) -> None:
        assert actual.shape == expected.shape
        assert actual.dtype == expected.dtype == torch.float64
        actual, expected = actual.detach(), expected.detach()
        scale = max(float(actual.norm()), float(expected.norm()))
        assert scale > 0
        assert float((actual - expected).norm()) <= rtol * scale

    return check


@pytest.fixture
def differ() -> Callable[..., None]:
    """``differ(first, second, rtol=1e-2)`` asserts that tensors are far apart: ``close``'s partner."""

    def check(first: torch.Tensor, second: torch.Tensor, rtol: float = 1e-2) -> None:
        assert first.shape == second.shape
        first, second = first.detach(), second.detach()
        assert float((first - second).norm()) > rtol * max(float(first.norm()), float(second.norm()))

    return check


@pytest.fixture
def total_jacobian() -> Callable[..., torch.Tensor]:
    """``total_jacobian(model, x, h0=None, mask=None)`` is the dense ``dh/dtheta`` ``[B T H, M]``."""

    import torch

    def jacobian(
        model: Model, x: torch.Tensor, h0: torch.Tensor | None = None, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        states = model.rollout(x, h0, mask).states
        basis = torch.eye(states.numel(), dtype=states.dtype).reshape(-1, *states.shape)
        theta = tuple(model.trainable().values())
        with warnings.catch_warnings():  # of operations that torch loops over, which is slow and right
            warnings.filterwarnings("ignore", message="There is a performance drop")
            rows = torch.autograd.grad(states, theta, basis, is_grads_batched=True, allow_unused=True)
        blocks = [
            states.new_zeros(len(basis), p.numel()) if g is None else g.reshape(len(basis), -1)
            for g, p in zip(rows, theta, strict=True)
        ]
        return torch.cat(blocks, dim=1)

    return jacobian
