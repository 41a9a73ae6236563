"""Units in which squares neither overflow nor vanish."""

from __future__ import annotations

import torch


def row_units(values: torch.Tensor) -> torch.Tensor:  # [..., n] -> [..., 1]
    """Return for each row a power of two near its largest entry, by which division is exact; 1 for zeros."""
    largest = values.abs().amax(dim=-1, keepdim=True)
    usable = (largest > 0) & largest.isfinite()
    exponent = torch.frexp(torch.where(usable, largest, 1.0)).exponent - 1
    return torch.ldexp(torch.ones_like(largest), exponent)
