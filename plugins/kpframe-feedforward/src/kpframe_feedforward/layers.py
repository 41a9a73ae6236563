"""What the feedforward models share: pointwise functions, and samples as inputs of the first step."""

from __future__ import annotations

from collections.abc import Callable

import torch

from kpframe.errors import ShapeError, mismatch


def _identity(u: torch.Tensor) -> torch.Tensor:
    return u


PHI: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "gelu": torch.nn.functional.gelu,
    "silu": torch.nn.functional.silu,
    "erf": torch.erf,
    "sigmoid": torch.sigmoid,
    "identity": _identity,
}


def at_first_step(samples: torch.Tensor, steps: int, input_size: int) -> torch.Tensor:  # [B, T, I]
    """Return samples ``[B, I]`` as inputs of the first of so many steps, zeros at the later ones.

    Raises:
        ShapeError: for samples of another shape.
    """
    if samples.ndim != 2 or samples.shape[1] != input_size:
        raise ShapeError(mismatch("samples", f"shape [batch, input={input_size}]", list(samples.shape)))
    return torch.nn.functional.pad(samples.unsqueeze(1), (0, 0, 0, steps - 1))
