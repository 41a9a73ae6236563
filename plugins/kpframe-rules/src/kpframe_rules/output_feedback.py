"""Whether errors come from the outputs through the readout's weights or through a random matrix."""

from __future__ import annotations

import math

import torch

from kpframe import Readout, Update
from kpframe.errors import UnsupportedError, mismatch


def random_feedback(readout: Readout, seed: int) -> torch.Tensor:  # [O, H]
    """Return a matrix drawn as the readout's initial weights are: uniform in ``+-1/sqrt(n)``, n wide.

    It is zero where the readout does not look, and depends on the sizes and the seed alone: the weights
    that the readout has learned by now do not enter.
    """
    outputs, width = readout.weight.shape
    generator = torch.Generator().manual_seed(seed)
    drawn = (
        2 * torch.rand(outputs, width, generator=generator, dtype=torch.float64, device=generator.device) - 1
    ) / math.sqrt(width)
    full = readout.weight.new_zeros(outputs, readout.hidden_size)
    full[:, readout.hidden] = drawn.to(full)
    return full


def feed_back(update: Update, feedback: str, seed: int) -> Update:
    """Return an update whose errors come as ``feedback`` says.

    Raises:
        UnsupportedError: for random feedback without a readout.
    """
    if feedback == "readout":
        return update
    if update.readout is None:
        expected = "the readout that the error comes through, which random feedback replaces"
        raise UnsupportedError(mismatch("readout", expected, None))
    return update.with_feedback(random_feedback(update.readout, seed))
