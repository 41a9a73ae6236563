"""Matrices of known spectra, and how often intervals of estimates of them hold the truth."""

from __future__ import annotations

from collections.abc import Callable

import torch

from kpframe.spectra import Estimate

F64 = torch.float64


def rotated(values: torch.Tensor) -> torch.Tensor:
    """Return a matrix with these eigenvalues, the same eigenvectors for all of one size."""
    seed = torch.Generator().manual_seed(5)
    basis = torch.linalg.qr(torch.randn(len(values), len(values), generator=seed, dtype=F64)).Q
    matrix = (basis * values) @ basis.T
    return (matrix + matrix.T) / 2


def estimates(call: Callable[[torch.Generator], Estimate], runs: int) -> list[Estimate]:
    """Return what an estimator gives with the seeds 0, 1, 2 ..."""
    return [call(torch.Generator().manual_seed(seed)) for seed in range(runs)]


def covered(found: list[Estimate], truth: float) -> float:
    """Return the share of intervals that hold the truth."""
    return sum(low <= truth <= high for low, high in (e.interval() for e in found)) / len(found)
