"""Reductions over named axes: congruences ``R op R*`` with ``R`` a mean, a sum, a selection, a projection.

A congruence keeps what is known of a form, ``<q, R op R* q> = <R* q, op R* q>``: that of a self-adjoint
operator is self-adjoint, that of a positive one positive (Horn & Johnson 2013, Matrix Analysis, 7.1.8). With
different maps on the two sides, ``L op R*``, nothing is known.

An axis is reduced on every side of the operator that has it, so the same call reduces the square
operators K and Phi on both sides and the parameter Jacobian J on its state side only.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

import numpy as np
import torch
from attrs import evolve

from kpframe.errors import ArgumentError, AxisError, ShapeError, SpaceMismatchError, as_whole, mismatch, whole
from kpframe.operators._base import (
    Index,
    Operator,
    bin_over,
    mean_over,
    project,
    select,
    sum_over,
)
from kpframe.operators._formula import ATOM, bracket, subscript
from kpframe.operators._shards import Shards
from kpframe.operators._spaces import Axis, Space, check_axes, why_apart


class SumMap(Operator):
    """``R``: the sum over named axes, times ``weight`` (1/n: the mean)."""

    def __init__(
        self, space: Space, axes: Sequence[str], name: str, weight: float, *, like: Operator
    ) -> None:
        super().__init__(space, space.without(*axes), dtype=like.dtype, device=like.device)
        self._dims = self.reduced = tuple(space.dim(axis) for axis in axes)
        self.weight = weight
        self.name = name
        self._sharded = space.shards is not None and self.codomain.shards is None

    def _over_ranks(self, total: torch.Tensor) -> torch.Tensor:
        """Return the sum over ranks, where the sharded axis is among those summed over."""
        return self.domain.sum(total) if self._sharded else total

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        total = self._over_ranks(q.sum(dim=self._dims))
        return total if self.weight == 1 else self.weight * total

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return self.spread(r).contiguous()

    def spread(self, r: torch.Tensor) -> torch.Tensor:
        """Return the adjoint's product as a view: entries along the axes are one and the same, to be read."""
        probes = r.shape[: r.ndim - len(self.codomain.axes)]
        r = r if self.weight == 1 else self.weight * r
        for dim in sorted(len(self.domain.axes) + dim for dim in self._dims):
            r = r.unsqueeze(len(probes) + dim)
        return r.expand((*probes, *self.domain.shape))


class SelectMap(Operator):
    """``R``: the entries ``index`` of one axis; one entry drops the axis."""

    def __init__(self, space: Space, axis: str, index: Index, *, like: Operator) -> None:
        own, shards = space[axis], space[axis].shards
        kept, new = _entries(own if shards is None else evolve(own, size=shards.total, shards=None), index)
        self._from_one_rank = shards is not None and new is None
        if shards is not None:
            shards.agree(f"select({axis}=...)", kept)
            kept, new = _own_entries(shards, axis, kept, new)
        codomain = space.without(axis) if new is None else space.replace(axis, new)
        super().__init__(space, codomain, dtype=like.dtype, device=like.device)
        self._dim = space.dim(axis)
        self.reduced = (self._dim,)
        self._drop = new is None
        self._index = torch.tensor(kept, device=like.device, dtype=torch.long)
        self.name = f"[{axis}={_show(index)}]"

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        out = q.index_select(self._dim, self._index)
        if self._from_one_rank:
            return self.domain.sum(out.sum(self._dim))  # one rank has it, the others zeros
        return out.squeeze(self._dim) if self._drop else out

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        if self._drop:
            r = r.unsqueeze(self._dim if self._dim != -1 else r.ndim)
        out = r.new_zeros((*r.shape[: r.ndim - len(self.domain.axes)], *self.domain.shape))
        if self._from_one_rank and not len(self._index):
            return out
        return out.index_copy_(self._dim, self._index, r)


class ProjectMap(Operator):
    """``W``: coordinates along the rows of ``directions`` ``[k, n]`` in place of an axis of size n.

    ``W op W*`` is ``op`` on the span of the rows where they are orthonormal; otherwise it also has their
    lengths and angles. Window means are rows ``1/length`` on a window.
    """

    name = "W"

    def __init__(self, space: Space, axis: str, directions: torch.Tensor, name: str, *, like: Operator):
        if directions.ndim != 2 or directions.shape[1] != space[axis].total:
            raise ShapeError(
                mismatch("directions", f"shape [k, {axis}={space[axis].total}]", list(directions.shape))
            )
        codomain = space.replace(axis, Axis(name, directions.shape[0]))
        super().__init__(space, codomain, dtype=directions.dtype, device=directions.device)
        self._dim = space.dim(axis)
        self.reduced = (self._dim,)
        self._shards = space[axis].shards
        if self._shards is not None:
            self._shards.agree("directions", directions)
            directions = directions[:, self._shards.start : self._shards.start + space[axis].size]
        self._directions = directions.detach().clone()  # a readout may train on

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        out = (q.movedim(self._dim, -1) @ self._directions.mT).movedim(-1, self._dim)
        return out if self._shards is None else self._shards.sum(out)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return (r.movedim(self._dim, -1) @ self._directions).movedim(-1, self._dim)


class Congruence(Operator):
    """``R op R*``, printed as what it means: ``<op>_time``, ``sum_time(op)``, ``op[time=-1]``.

    A side without the axes has no map (None). The result keeps the tags of ``op`` when both sides are
    reduced by one and the same map.

    Args:
        left, inner, right: the map of the codomain, ``op``, and the map of the domain.
        before, after: what it prints around ``op``.
    """

    def __init__(
        self,
        left: Operator | None,
        inner: Operator,
        right: Operator | None,
        *,
        before: str = "",
        after: str,
    ) -> None:
        super().__init__(
            inner.domain if right is None else right.codomain,
            inner.codomain if left is None else left.codomain,
            dtype=inner.dtype,
            device=inner.device,
        )
        self.left, self.inner, self.right = left, inner, right
        self.around = before, after

    @property
    def _widest(self) -> int:
        """Those of the operator inside, where they are more."""
        return max(super()._widest, self.inner._widest)

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        q = q if self.right is None else self._spread(self.right, q)
        q = self.inner._apply(q)
        return q if self.left is None else self.left._apply(q)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        r = r if self.left is None else self._spread(self.left, r)
        r = self.inner._apply_adjoint(r)
        return r if self.right is None else self.right._apply(r)

    def _spread(self, side: Operator, q: torch.Tensor) -> torch.Tensor:
        """Return the adjoint's product for ``op`` to read; not copied where it is reduced again behind it."""
        if isinstance(side, SumMap) and self.left is not None and self.right is not None:
            return side.spread(q)
        return side._apply_adjoint(q)

    @property
    def self_adjoint(self) -> bool:
        """Whether ``op`` is self-adjoint and both sides are reduced alike."""
        return self.left is self.right and self.inner.self_adjoint

    @property
    def positive(self) -> bool:
        """Whether ``op`` is positive and both sides are reduced alike."""
        return self.left is self.right and self.inner.positive

    def block_labels(self) -> torch.Tensor | None:
        """Return the labels of ``op`` where both sides are reduced alike, not along the last axis."""
        if self.left is not self.right or not isinstance(self.left, SumMap | SelectMap | ProjectMap):
            return None
        return None if -1 in self.left.reduced else self.inner.block_labels()

    @property
    def separate_axes(self) -> frozenset[str]:
        """Those of ``op`` that are not reduced."""
        known = self.inner.separate_axes
        for side in (self.left, self.right):
            if side is not None:
                reduced = getattr(side, "reduced", None)
                names = side.domain.names if reduced is None else [side.domain.names[dim] for dim in reduced]
                known = known - {*names}
        return known

    def _formula(self) -> tuple[str, int]:
        before, after = self.around
        inner = bracket(self.inner, 0 if before else ATOM)  # <A + B>_time encloses, (A + B)[time=0] does not
        return f"{before}{inner}{after}", ATOM


@bin_over.register
def _bin_over(operator: Operator, lengths: Mapping[str, int]) -> Operator:
    check_axes(lengths, operator.codomain, operator.domain)
    for axis, length in lengths.items():
        operator = _bin_one(
            operator, axis, whole(length, f"bin({axis}=...)", expected="a window length >= 1")
        )
    return operator


def _bin_one(operator: Operator, axis: str, length: int) -> Operator:
    def make(space: Space) -> Operator:
        size = space[axis].total
        window = torch.arange(size, device=operator.device) // length  # which one each entry lies in
        rows = torch.arange(-(-size // length), device=operator.device).unsqueeze(1)
        inside = (window == rows).to(operator.dtype)  # [windows, size]
        return ProjectMap(space, axis, inside / inside.sum(1, keepdim=True), axis, like=operator)

    left, right = _sides(operator, (axis,), make)
    return Congruence(left, operator, right, before="<", after=f">_{{{axis}/{length}}}")


@mean_over.register
def _mean_over(operator: Operator, axes: Sequence[str]) -> Operator:
    left, right = _totals(operator, axes, average=True)
    return Congruence(left, operator, right, before="<", after=f">_{subscript(axes)}")


@sum_over.register
def _sum_over(operator: Operator, axes: Sequence[str]) -> Operator:
    left, right = _totals(operator, axes, average=False)
    return Congruence(left, operator, right, before=f"sum_{subscript(axes)}(", after=")")


@select.register
def _select(operator: Operator, indices: Mapping[str, Index]) -> Operator:
    check_axes(indices, operator.codomain, operator.domain)
    for axis, index in indices.items():
        operator = _select_one(operator, axis, index)
    return operator


def _select_one(operator: Operator, axis: str, index: Index) -> Operator:
    if isinstance(index, np.ndarray):
        index = torch.tensor(index.tolist()) if index.dtype == bool else index.tolist()
    left, right = _sides(operator, (axis,), lambda space: SelectMap(space, axis, index, like=operator))
    return Congruence(left, operator, right, after=f"[{axis}={_show(index)}]")


@project.register
def _project(operator: Operator, directions: torch.Tensor, axis: str, name: str) -> Operator:
    check_axes((axis,), operator.codomain, operator.domain)
    for space in (operator.codomain, operator.domain):
        if name in space and name != axis:
            raise AxisError(f"name: {name!r} is already an axis of ({space})")
    left, right = _sides(
        operator, (axis,), lambda space: ProjectMap(space, axis, directions, name, like=operator)
    )
    result = operator if right is None else operator @ right.T
    return result if left is None else left @ result


def _totals(
    operator: Operator, axes: Sequence[str], *, average: bool
) -> tuple[Operator | None, Operator | None]:
    """Return the sums over the axes, or means, of the codomain and the domain side."""
    axes = check_axes(axes, operator.codomain, operator.domain)

    def make(space: Space) -> Operator:
        present = [axis for axis in axes if axis in space]
        weight = 1 / math.prod(space[axis].total for axis in present) if average else 1.0
        label = ("mean_" if average else "sum_") + subscript(present)
        return SumMap(space, present, label, weight, like=operator)

    return _sides(operator, axes, make)


def _sides(
    operator: Operator, axes: Sequence[str], make: Callable[[Space], Operator]
) -> tuple[Operator | None, Operator | None]:
    """Return the maps of the codomain and the domain side, one object where the spaces are the same."""
    left = make(operator.codomain) if any(axis in operator.codomain for axis in axes) else None
    if operator.square:
        return left, left
    right = make(operator.domain) if any(axis in operator.domain for axis in axes) else None
    return left, right


def _show(index: Index) -> str:
    if isinstance(index, slice):
        parts = ["" if part is None else str(as_whole(part)) for part in (index.start, index.stop)]
        return ":".join(parts) + ("" if index.step is None else f":{index.step}")
    if isinstance(index, torch.Tensor):
        return "mask" if index.dtype == torch.bool else str(index.tolist())
    return str([as_whole(entry) for entry in index] if isinstance(index, list) else index)


def _entries(axis: Axis, index: Index) -> tuple[list[int], Axis | None]:
    """Return the entries an index keeps and the axis they form (None: one entry, the axis is dropped)."""
    if isinstance(index, str):
        part = axis.part(index)
        return list(range(part.start, part.start + part.size)), Axis.of_parts(
            axis.name, {part.name: part.shape}
        )
    entry = as_whole(index)
    if entry is not None:
        if not -axis.size <= entry < axis.size:
            raise ArgumentError(
                mismatch(f"select({axis.name}=...)", f"an index in [{-axis.size}, {axis.size - 1}]", entry)
            )
        return [entry % axis.size], None
    if isinstance(index, slice):
        kept = list(range(axis.size)[index])
    elif isinstance(index, torch.Tensor) and index.dtype == torch.bool:
        if tuple(index.shape) != (axis.size,):
            raise ShapeError(
                mismatch(f"select({axis.name}=...)", f"a mask of shape [{axis.size}]", list(index.shape))
            )
        kept = index.nonzero().flatten().tolist()
    elif isinstance(index, Sequence) or (isinstance(index, torch.Tensor) and index.ndim):
        entries = index.tolist() if isinstance(index, torch.Tensor) else index
        kept = [_entries(axis, _whole(axis, entry))[0][0] for entry in entries]
    else:
        raise _unusable(axis, index)
    if not kept:
        raise ArgumentError(mismatch(f"select({axis.name}=...)", "at least one entry", "none"))
    if len(set(kept)) < len(kept):
        raise ArgumentError(mismatch(f"select({axis.name}=...)", "distinct entries", kept))
    return kept, Axis(axis.name, len(kept))


def _own_entries(
    shards: Shards, axis: str, kept: list[int], new: Axis | None
) -> tuple[list[int], Axis | None]:
    """Return this rank's among the kept entries of all ranks, and the axis that all form.

    Raises:
        ArgumentError: for an order in which entries would have to go from one rank to another.
    """
    ends = list(accumulate(shards.counts))
    holders = [bisect_right(ends, entry) for entry in kept]
    if holders != sorted(holders):
        expected = "an order in which trials stay on their ranks (a list in rising order, a mask)"
        raise ArgumentError(
            mismatch(f"select({axis}=...)", expected, f"{kept} of shares {list(shards.counts)}")
        )
    own = [entry - shards.start for entry, rank in zip(kept, holders, strict=True) if rank == shards.rank]
    if new is None:
        return own, None
    counts = tuple(holders.count(rank) for rank in range(shards.ranks))
    return own, Axis(new.name, len(own), shards=shards.with_counts(counts))


def _whole(axis: Axis, entry: object) -> int:
    number = as_whole(entry)
    if number is None:  # a list of truth values is no mask
        raise _unusable(axis, entry)
    return number


def _unusable(axis: Axis, index: object) -> ArgumentError:
    return ArgumentError(
        mismatch(
            f"select({axis.name}=...)",
            "an integer, a slice, a list of integers, a boolean mask or the name of a part",
            f"{index!r} ({type(index).__name__})",
        )
    )


def check_same_axes(operator: Operator, axes: Sequence[str]) -> None:
    """Raise unless both sides of ``operator`` have the named axes with the same sizes."""
    check_axes(axes, operator.codomain, operator.domain)
    for axis in axes:
        if axis not in operator.domain or axis not in operator.codomain:
            raise SpaceMismatchError(f"{operator!r}: a trace over {axis!r} needs the axis on both sides")
        domain, codomain = operator.domain[axis], operator.codomain[axis]
        if (domain.size, domain.shards) != (codomain.size, codomain.shards):
            raise SpaceMismatchError(
                f"{operator!r}: a trace over {axis!r} needs one size on both sides, got "
                f"{domain.size} and {codomain.size}{why_apart(operator.domain, operator.codomain)}"
            )
