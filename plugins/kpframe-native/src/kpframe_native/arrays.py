"""Tensors as the library reads them, kept alive as long as their addresses are in use."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterable

import torch

from kpframe_native.library import Gain


class Arrays:
    """The tensors and structures whose addresses were handed out."""

    def __init__(self, batch: int, time: int) -> None:
        self.batch, self.time = batch, time
        self._kept: list[object] = []

    def address(self, values: torch.Tensor) -> int:
        """Return the address of a contiguous tensor."""
        self._kept.append(values)
        return values.data_ptr()

    def steps(self, values: torch.Tensor) -> int:
        """Return the address of gains ``[T, B, n]``, made contiguous, those of every trial and step."""
        return self.address(values.expand(self.time, self.batch, -1).contiguous())

    def gains(self, gains: Iterable[tuple[int, int, torch.Tensor]]) -> ctypes.Array[Gain]:
        """Return the structures of gains: block, place on the state's axis, values."""
        own = [Gain(block, state, self.steps(values)) for block, state, values in gains]
        made = (Gain * max(1, len(own)))(*own)
        self._kept.append(made)
        return made


def flat(q: torch.Tensor) -> torch.Tensor:  # [..., B, T, H] -> [probes, B, T, H]
    """Return the same with one dimension of probes, a step's entries side by side: a view where it can be."""
    rows = q.reshape(math.prod(q.shape[:-3]), *q.shape[-3:])
    return rows if rows.stride(-1) == 1 else rows.contiguous()


def panels(matrix: torch.Tensor, panel: int) -> torch.Tensor:  # [G, k, n] -> [G, panels, k, panel]
    """Return the columns in panels, the last one filled up with zeros."""
    groups, depth, columns = matrix.shape
    wide = torch.nn.functional.pad(matrix, (0, -columns % panel))
    return wide.reshape(groups, depth, -1, panel).transpose(1, 2).contiguous()
