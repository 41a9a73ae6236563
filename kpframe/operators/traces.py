"""The partial trace: both copies of an axis set equal and summed over."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from kpframe.operators.axes import check_same_axes
from kpframe.operators.base import ATOM, Operator
from kpframe.operators.dense import chunk_size
from kpframe.spaces import check_axes


class PartialTrace(Operator):
    """``Sum_a op[a, .; a, .]`` over the entries ``a`` of the named axes, exactly.

    A product costs one product of ``op`` for each entry of the traced axes; they are sent as batched
    probes, in chunks that bound the memory.
    """

    def __init__(self, inner: Operator, axes: Sequence[str]) -> None:
        axes = check_axes(axes, inner.codomain, inner.domain)
        check_same_axes(inner, axes)
        super().__init__(
            inner.domain.without(*axes), inner.codomain.without(*axes), dtype=inner.dtype, device=inner.device
        )
        self.inner = inner
        self._axes = axes

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return self._traced(self.inner, q)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return self._traced(self.inner.T, r)

    def _traced(self, inner: Operator, q: torch.Tensor) -> torch.Tensor:
        rest = len(inner.domain.axes) - len(self._axes)
        probes = q.shape[: q.ndim - rest]
        sizes = [inner.domain[axis].size for axis in self._axes]
        count = math.prod(sizes)
        step = chunk_size(inner, count, held=math.prod(probes))
        first = tuple(range(1, len(sizes) + 1))
        total = q.new_zeros((*probes, *inner.codomain.without(*self._axes).shape))
        for start in range(0, count, step):
            entries = torch.arange(start, min(start + step, count), device=self.device)
            places = (torch.arange(len(entries), device=self.device), *torch.unravel_index(entries, sizes))
            full = q.new_zeros(len(entries), *probes, *inner.domain.shape)
            full.movedim([inner.domain.dim(axis) for axis in self._axes], first)[places] = q
            out = inner._apply(full)
            out = out.movedim([inner.codomain.dim(axis) for axis in self._axes], first)[places].sum(0)
            total = total + out
        return total

    @property
    def self_adjoint(self) -> bool:
        """Whether the traced operator is self-adjoint."""
        return self.inner.self_adjoint

    @property
    def positive(self) -> bool:
        """Whether the traced operator is positive."""
        return self.inner.positive

    def _formula(self) -> tuple[str, int]:
        axes = self._axes[0] if len(self._axes) == 1 else "{" + ",".join(self._axes) + "}"
        return f"tr_{axes}({self.inner!r})", ATOM
