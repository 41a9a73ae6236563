"""Random signs, and what estimates from them are worth."""

from __future__ import annotations

import torch

from kpframe.operators._base import Operator
from kpframe.spectra import probes


def signs(source: torch.Generator, *shape: int, like: torch.Tensor) -> torch.Tensor:
    """Return independent random signs, drawn on the CPU: equal on all devices and in all dtypes."""
    drawn = 2 * torch.randint(2, shape, generator=source, device="cpu") - 1
    return drawn.to(like.device, like.dtype)


def drawn_signs(op: Operator, num: int, source: torch.Generator) -> torch.Tensor:  # [num, *domain]
    """Return random signs that an operator takes, those of a trial the same on any number of ranks."""
    return probes(op.domain, num, generator=source, kind="rademacher", dtype=op.dtype, device=op.device)


def leave_one_out(value: torch.Tensor, without: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a figure of n draws without its bias to first order, and its standard error, by the jackknife.

    Args:
        value: the figure of all draws, ``[...]``.
        without: the figure with one draw left out, ``[n, ...]``, n >= 2.

    Source: Efron 1982, The Jackknife, the Bootstrap and Other Resampling Plans.
    """
    count = len(without)
    mean = without.mean(dim=0)
    stderr = ((without - mean).square().sum(dim=0) * (count - 1) / count).sqrt()
    return count * value - (count - 1) * mean, stderr


def root_mean(squares: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the root of the mean over n draws ``[n, ...]`` of squares, and its standard error."""
    count, total = len(squares), squares.sum(dim=0)
    without = ((total - squares) / (count - 1)).clamp(min=0)  # rounding may leave less than 0
    value, stderr = leave_one_out((total / count).sqrt(), without.sqrt())
    return value.clamp(min=0), stderr
