"""Contractions of both copies of an axis: the partial trace and the block-diagonal part.

With ``e_a`` the basis of the named axes and ``I`` the identity on the others::

    partial trace   Tr op   = Sum_a (e_a* (x) I) op (e_a (x) I)
    block diagonal  diag op = Sum_a (e_a e_a* (x) I) op (e_a e_a* (x) I)

The second is the pinching of ``op`` (Bhatia 1997, Matrix Analysis, II.5). Both are sums of congruences: those
of a self-adjoint operator are self-adjoint, those of a positive one positive, and their adjoints are those of
``op*``. Each summand is one product with ``op``: a vector put at entry ``a``, read off at entry ``a``.
Entries that ``op`` keeps apart, trials of P or units of K, share one.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence

import torch

from kpframe.operators._base import Operator, block_diagonal, partial_trace
from kpframe.operators._classes import Classes, classes_of
from kpframe.operators._congruences import check_same_axes
from kpframe.operators._formula import ATOM, subscript
from kpframe.operators._memory import chunk_size
from kpframe.operators._spaces import Space, check_axes, places_of
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
            yield len(rows), self._own((rows, *places_of(rows + start, sizes)), inner.domain)

    def _own(self, places: tuple[torch.Tensor, ...], space: Space) -> tuple[torch.Tensor, ...]:
        """Return those of rows and global indices that this rank holds, with its own indices."""
        for place, axis in enumerate(self._axes, start=1):
            shards = space[axis].shards
            if shards is not None:
                own = places[place] - shards.start
                kept = (own >= 0) & (own < space[axis].size)
                return tuple((own if at == place else index)[kept] for at, index in enumerate(places))
        return places

    @staticmethod
    def _room(
        known: torch.Tensor | None, like: torch.Tensor, rows: int, probes: torch.Size, inner: Operator
    ) -> torch.Tensor:
        """Return memory of zeros for the vectors of a chunk, the same for all: the first is the largest."""
        return like.new_zeros(rows, *probes, *inner.domain.shape) if known is None else known

    def _one_at_a_time(
        self,
        inner: Operator,
        rows: int,
        places: tuple[torch.Tensor, ...],
        values: torch.Tensor,
        room: torch.Tensor,
    ) -> torch.Tensor:
        """Return ``inner``'s products with ``values`` at one entry each, read off at that entry.

        ``room`` ``[chunk, *probes, *domain]`` holds zeros, before and after.
        """
        first = tuple(range(1, len(self._axes) + 1))
        full = room[:rows]
        placed = full.movedim([inner.domain.dim(axis) for axis in self._axes], first)
        placed[places] = values
        out = inner._apply(full)
        found = out.movedim([inner.codomain.dim(axis) for axis in self._axes], first)[places]
        placed[places] = 0.0
        return found

    def _classes(self, inner: Operator, held: int, classes: Classes) -> Iterator[torch.Tensor]:
        """Yield the classes of the axes' entries in chunks, as masks ``[classes, *axes]``."""
        step = chunk_size(inner, classes.count, held=held)
        for start in range(0, classes.count, step):
            yield classes.members(start, min(start + step, classes.count))

    def _class_by_class(
        self, inner: Operator, mask: torch.Tensor, vectors: torch.Tensor, probes: torch.Size
    ) -> torch.Tensor:
        """Return ``inner``'s products with ``vectors`` at the entries of a class each, read off there.

        Args:
            inner: what is multiplied.
            mask: ``[classes, *axes]``, which entries are in a class.
            vectors: ``[*probes, *axes, *others]`` or broadcast to it, the axes in front.
            probes: their dimensions.

        Returns:
            ``[classes, *probes, *axes, *others]``, zero outside of a class.
        """
        count = len(self._axes)
        front = tuple(range(1 + len(probes), 1 + len(probes) + count))
        domain, codomain = (
            [space.dim(axis) for axis in self._axes] for space in (inner.domain, inner.codomain)
        )
        lined_up = mask.reshape(len(mask), *(1,) * len(probes), *mask.shape[1:])
        read, written = (
            lined_up[(..., *(None,) * (len(space.axes) - count))] for space in (inner.domain, inner.codomain)
        )
        full = vectors.new_empty(len(mask), *probes, *inner.domain.shape)
        torch.mul(read.to(vectors.dtype), vectors, out=full.movedim(domain, front))
        out = inner._apply(full).movedim(codomain, front)
        return out.masked_fill_(~written, 0.0)


class PartialTraceOperator(_Contraction):
    """``Sum_a op[a, .; a, .]`` over the entries ``a`` of the named axes, exactly.

    A product costs one product of ``op`` for each entry of the traced axes; they are sent as batched
    probes, in chunks that bound the memory.

    Args:
        inner: the operator ``op``.
        axes: their names; both sides have them.
    """

    def __init__(self, inner: Operator, axes: Sequence[str]) -> None:
        axes = check_axes(axes, inner.codomain, inner.domain)
        check_same_axes(inner, axes)
        super().__init__(inner, axes, inner.domain.without(*axes), inner.codomain.without(*axes))

    def _contracted(self, inner: Operator, q: torch.Tensor) -> torch.Tensor:
        rest = len(inner.domain.axes) - len(self._axes)
        probes = q.shape[: q.ndim - rest]
        total = q.new_zeros((*probes, *inner.codomain.without(*self._axes).shape))
        if (classes := classes_of(inner, self._axes)) is not None:
            everywhere = q.reshape(*probes, *(1,) * len(self._axes), *q.shape[len(probes) :])
            traced = (0, *range(1 + len(probes), 1 + len(probes) + len(self._axes)))
            for mask in self._classes(inner, math.prod(probes), classes):
                total += self._class_by_class(inner, mask, everywhere, probes).sum(traced)
            return total
        room: torch.Tensor | None = None
        for rows, places in self._entries(inner, math.prod(probes)):
            room = self._room(room, q, rows, probes, inner)
            total += self._one_at_a_time(inner, rows, places, q, room).sum(0)
        return total if self.codomain.shards is not None else inner.codomain.sum(total)

    def _formula(self) -> tuple[str, int]:
        return f"tr_{subscript(self._axes)}({self.inner!r})", ATOM


@partial_trace.register
def _partial_trace(operator: Operator, axes: Sequence[str]) -> PartialTraceOperator:
    return PartialTraceOperator(operator, axes)


class BlockDiagonalOperator(_Contraction):
    """``delta_{a a'} op[a, .; a, .]``: the entries at which both copies of the named axes are equal.

    A product costs one product of ``op`` for each entry of the axes, as for ``PartialTraceOperator``.

    Args:
        inner: the operator ``op``.
        axes: their names; both sides have them.
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
        if (classes := classes_of(inner, self._axes)) is not None:
            behind = tuple(range(len(probes), len(probes) + len(front)))
            ahead, into = source.movedim(front, behind), target.movedim(front, behind)
            for mask in self._classes(inner, math.prod(probes), classes):
                into += self._class_by_class(inner, mask, ahead, probes).sum(0)
            return out
        room: torch.Tensor | None = None
        for rows, places in self._entries(inner, math.prod(probes)):
            entries, room = places[1:], self._room(room, q, rows, probes, inner)
            target[entries] = self._one_at_a_time(inner, rows, places, source[entries], room)
        return out

    def _formula(self) -> tuple[str, int]:
        return f"diag_{subscript(self._axes)}({self.inner!r})", ATOM


@block_diagonal.register
def _block_diagonal(operator: Operator, axes: Sequence[str]) -> BlockDiagonalOperator:
    return BlockDiagonalOperator(operator, axes)
