"""What the constructors share: seeded initial values, and the warning of instability."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from kpframe.errors import StabilityWarning, check_seed, mismatch


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Draw from a seed inside the block, and leave torch's generator as it was; None: draw from it.

    Draws are made on the CPU, whatever the default device.
    """
    if seed is None:
        with torch.device("cpu"):
            yield
        return
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(check_seed(seed))
        yield


def parameters(module: torch.nn.Module, values: Mapping[str, torch.Tensor]) -> None:
    """Make parameters of a module from values, in torch's default dtype and on its default device."""
    like = torch.empty(0)
    for name, value in values.items():
        real = torch.view_as_real(value) if value.is_complex() else value
        module.register_parameter(name, torch.nn.Parameter(real.to(like).contiguous()))


def warn_unless_stable(stable: bool, what: str, expected: str, got: object, stacklevel: int = 4) -> None:
    """Issue a ``StabilityWarning`` for a model, to the caller of what calls its constructor's check."""
    if not stable:
        message = mismatch(what, expected, got) + ": states grow or never decay"
        warnings.warn(message, StabilityWarning, stacklevel=stacklevel)
