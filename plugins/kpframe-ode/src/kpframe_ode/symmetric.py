"""The symmetric matrix without self-connections that an unconstrained one stands for."""

from __future__ import annotations

import torch


def symmetric_hollow(matrix: torch.Tensor) -> torch.Tensor:  # [H, H]
    """Return ``(V + V*) / 2`` with zeros on the diagonal."""
    mean = (matrix + matrix.mT) / 2
    return mean - torch.diag(mean.diagonal())
