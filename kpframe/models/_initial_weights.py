"""Initial weights: random numbers that do not depend on the dtype or the device of what they fill.

They are drawn in float32 on the CPU. Under another default dtype or device the same seed then gives the
same weights, cast and moved.
"""

from __future__ import annotations

import torch


def uniform_(
    tensor: torch.Tensor, low: float, high: float, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Fill a tensor with numbers drawn uniformly from ``[low, high)``, and return it.

    Args:
        tensor: a parameter or buffer of any shape and dtype, on any device; no gradient follows.
        low: the lower bound.
        high: the upper bound.
        generator: on the CPU; torch's own when left out.
    """
    drawn = torch.empty(tensor.shape, dtype=torch.float32, device="cpu")
    with torch.no_grad():
        return tensor.copy_(drawn.uniform_(low, high, generator=generator))


def normal_(
    tensor: torch.Tensor, mean: float, std: float, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Fill ``tensor`` with normal numbers of mean ``mean`` and standard deviation ``std``; return it.

    See ``uniform_`` for the tensor and the ``generator``.
    """
    drawn = torch.empty(tensor.shape, dtype=torch.float32, device="cpu")
    with torch.no_grad():
        return tensor.copy_(drawn.normal_(mean, std, generator=generator))
