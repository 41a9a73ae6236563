"""What the tests of the compiled propagator share. Where it was not built there is nothing to test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec

import pytest
import torch

if find_spec("kpframe_native") is None:  # it is built on demand: pip install plugins/kpframe-native
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture
def randn() -> Callable[..., torch.Tensor]:
    """Return a maker of normal tensors from a seed."""

    def draw(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    return draw


@pytest.fixture
def close() -> Callable[..., None]:
    """Return a check that two tensors agree, relative to the norm of the second."""

    def check(actual: torch.Tensor, expected: torch.Tensor, rtol: float | None = None) -> None:
        assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
        rtol = 64 * torch.finfo(expected.dtype).eps if rtol is None else rtol
        assert float((actual - expected).norm()) <= rtol * float(expected.norm())

    return check


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Return what sets torch's number of threads, which is put back afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
