"""Contractions of both copies of an axis: the partial trace and the block-diagonal part.

With ``e_a`` the basis of the named axes and ``I`` the identity on the others::

    partial trace   Tr op   = Sum_a (e_a* (x) I) op (e_a (x) I)
    block diagonal  diag op = Sum_a (e_a e_a* (x) I) op (e_a e_a* (x) I)

The second is the pinching of ``op`` (Bhatia 1997, Matrix Analysis, II.5). Both are sums of congruences: those
of a self-adjoint operator are self-adjoint, those of a positive one positive, and their adjoints are those of
``op*``. Each summand is one product with ``op``: a vector put at entry ``a``, read off at entry ``a``.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence

import torch

from kpframe.operators._base import Operator, block_diagonal, partial_trace
from kpframe.operators._congruences import check_same_axes
from kpframe.operators._formula import ATOM, subscript
from kpframe.operators._memory import chunk_size
from kpframe.operators._spaces import Space, check_axes
from kpframe.operators._tagged import TaggedAsInner


class _Contraction(TaggedAsInner):
    """What the contractions share: products for one entry of the axes at a time, sent as probes."""

    def __init__(self, inner: Operator, axes: Sequence[str], domain: Space, codomain: Space) -> None:
        super().__init__(inner, domain, codomain)
        self._axes = tuple(axes)

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return self._contracted(self.inner, q)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return self._contracted(self.inner.T, r)

    @abstractmethod
    def _contracted(self, inner: Operator, q: torch.Tensor) -> torch.Tensor:
        """Return the contraction of ``inner`` applied to ``q``."""

    def _entries(self, inner: Operator, held: int) -> Iterator[tuple[int, tuple[torch.Tensor, ...]]]:
        """Yield the traced axes' entries in chunks: how many, and an index tensor for the row and each axis.

        All ranks take the entries of all ranks, in step; the indices are those of this rank's own.
        """
        sizes = [inner.domain[axis].total for axis in self._axes]
        count = math.prod(sizes)
        step = chunk_size(inner, max(count, 1), held=held)
        for start in range(0, count, step):
            rows = torch.arange(min(step, count - start), device=self.device)
            yield len(rows), self._own((rows, *torch.unravel_index(rows + start, sizes)), inner.domain)

    def _own(self, places: tuple[torch.Tensor, ...], space: Space) -> tuple[torch.Tensor, ...]:
        """Return those of rows and global indices that this rank holds, with its own indices."""
        for place, axis in enumerate(self._axes, start=1):
            shards = space[axis].shards
            if shards is not None:
                own = places[place] - shards.start
                kept = (own >= 0) & (own < space[axis].size)
                return tuple((own if at == place else index)[kept] for at, index in enumerate(places))
        return places

    def _one_at_a_time(
        self,
        inner: Operator,
        rows: int,
        places: tuple[torch.Tensor, ...],
        values: torch.Tensor,
        probes: torch.Size,
    ) -> torch.Tensor:
        """Return ``inner``'s products with ``values`` at one entry each, read off at that entry."""
        first = tuple(range(1, len(self._axes) + 1))
        full = values.new_zeros(rows, *probes, *inner.domain.shape)
        full.movedim([inner.domain.dim(axis) for axis in self._axes], first)[places] = values
        out = inner._apply(full)
        return out.movedim([inner.codomain.dim(axis) for axis in self._axes], first)[places]


class PartialTraceOperator(_Contraction):
    """``Sum_a op[a, .; a, .]`` over the entries ``a`` of the named axes, exactly.

    A product costs one product of ``op`` for each entry of the traced axes; they are sent as batched
    probes, in chunks that bound the memory.
    """

    def __init__(self, inner: Operator, axes: Sequence[str]) -> None:
        axes = check_axes(axes, inner.codomain, inner.domain)
        check_same_axes(inner, axes)
        super().__init__(inner, axes, inner.domain.without(*axes), inner.codomain.without(*axes))

    def _contracted(self, inner: Operator, q: torch.Tensor) -> torch.Tensor:
        rest = len(inner.domain.axes) - len(self._axes)
        probes = q.shape[: q.ndim - rest]
        total = q.new_zeros((*probes, *inner.codomain.without(*self._axes).shape))
        for rows, places in self._entries(inner, math.prod(probes)):
            total = total + self._one_at_a_time(inner, rows, places, q, probes).sum(0)
        return total if self.codomain.shards is not None else inner.codomain.sum(total)

    def _formula(self) -> tuple[str, int]:
        return f"tr_{subscript(self._axes)}({self.inner!r})", ATOM


@partial_trace.register
def _partial_trace(operator: Operator, axes: Sequence[str]) -> PartialTraceOperator:
    return PartialTraceOperator(operator, axes)


class BlockDiagonalOperator(_Contraction):
    """``delta_{a a'} op[a, .; a, .]``: the entries at which both copies of the named axes are equal.

    A product costs one product of ``op`` for each entry of the axes, as for ``PartialTraceOperator``.
    """

    def __init__(self, inner: Operator, axes: Sequence[str]) -> None:
        axes = check_axes(axes, inner.codomain, inner.domain)
        check_same_axes(inner, axes)
        super().__init__(inner, axes, inner.domain, inner.codomain)

    def _contracted(self, inner: Operator, q: torch.Tensor) -> torch.Tensor:
        probes = q.shape[: q.ndim - len(inner.domain.axes)]
        out = q.new_zeros((*probes, *inner.codomain.shape))
        front = tuple(range(len(self._axes)))
        source = q.movedim([inner.domain.dim(axis) for axis in self._axes], front)
        target = out.movedim([inner.codomain.dim(axis) for axis in self._axes], front)
        for rows, places in self._entries(inner, math.prod(probes)):
            entries = places[1:]
            target[entries] = self._one_at_a_time(inner, rows, places, source[entries], probes)
        return out

    def _formula(self) -> tuple[str, int]:
        return f"diag_{subscript(self._axes)}({self.inner!r})", ATOM


@block_diagonal.register
def _block_diagonal(operator: Operator, axes: Sequence[str]) -> BlockDiagonalOperator:
    return BlockDiagonalOperator(operator, axes)
