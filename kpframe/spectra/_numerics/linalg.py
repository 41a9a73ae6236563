"""Small dense linear algebra: eigenpairs, signs, and orthonormal bases of rows that grow.

Rows are vectors of a space; where it is sharded a rank holds its own entries of each, and what is small (Gram
matrices, triangles) is the same on every rank.
"""

from __future__ import annotations

import torch

from kpframe.operators._spaces import Space
from kpframe.spectra._numerics.probes import probes

#: Entries of vectors that are cast to float64 at a time.
SLICE = 2**13


def symmetric_eigen(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return eigenvalues, ascending, and eigenvectors of a symmetric matrix ``[..., n, n]``.

    LAPACK gives up on some float32 matrices with entries that underflow; those are solved in double.
    """
    try:
        values, vectors = torch.linalg.eigh(matrix)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        values, vectors = torch.linalg.eigh(matrix.double())
    return values.to(matrix.dtype), vectors.to(matrix.dtype)


def tall_qr(rows: torch.Tensor, space: Space) -> tuple[torch.Tensor, torch.Tensor]:  # [n, r], [r, m]
    """Return Q, with orthonormal columns, and the triangle R of ``rows* = Q R``, over all ranks.

    On ranks by Cholesky factors of the Gram matrix, twice: two all-reduces of m^2 numbers (Yamamoto,
    Nakatsukasa, Yanagisawa, Fukaya 2015, CholeskyQR2). Squares have half of the digits; where rows are
    so dependent that these do not suffice, from the triangles of all ranks, one all-reduce of m^2 numbers for
    each rank (Demmel, Grigori, Hoemmen, Langou 2012, TSQR).
    """
    if space.shards is None:
        columns, triangle = torch.linalg.qr(rows.mT)
        return columns, triangle
    triangle = torch.eye(len(rows), dtype=rows.dtype, device=rows.device)
    out = rows
    for _ in range(2):
        factor, failed = torch.linalg.cholesky_ex(space.inner(out, out), upper=True)
        scales = factor.diagonal().abs()
        if int(failed) or float(scales.min()) < 10 * torch.finfo(rows.dtype).eps ** 0.5 * float(scales.max()):
            return _qr_of_triangles(rows, space)
        out = torch.linalg.solve_triangular(factor.mT, out, upper=False)
        triangle = factor @ triangle
    return out.mT, triangle


def _qr_of_triangles(rows: torch.Tensor, space: Space) -> tuple[torch.Tensor, torch.Tensor]:
    shards = space.shards
    assert shards is not None
    num = len(rows)
    columns, own = torch.linalg.qr(rows.mT)  # a rank may have fewer entries than there are rows
    stack = rows.new_zeros(shards.ranks, num, num)
    stack[shards.rank, : len(own)] = own
    turn, triangle = torch.linalg.qr(shards.sum(stack).flatten(0, 1))
    mine = turn.reshape(shards.ranks, num, num)[shards.rank, : len(own)]
    return columns @ mine, triangle


def remainder_of(rows: torch.Tensor, space: Space) -> torch.Tensor:  # [m, n] -> [r, m]
    """Return rows by their parts in an orthonormal basis of their span, in float64."""
    if space.shards is None:
        triangle: torch.Tensor = torch.linalg.qr(rows.double().mT, mode="r")[1]
        return triangle
    return tall_qr(rows.double(), space)[1]


def orthonormal_rows(
    rows: torch.Tensor, space: Space, floor: float = 0.0
) -> torch.Tensor:  # [m, n] -> [r, n]
    """Return an orthonormal basis of the span of ``rows``, numerically dependent directions dropped.

    A direction is dropped when its singular value is below a few roundings of the largest, or ``floor``.
    """
    if not len(rows):
        return rows
    columns, triangle = tall_qr(rows, space)
    left, values, _ = torch.linalg.svd(triangle, full_matrices=False)
    limits, longer = torch.finfo(rows.dtype), max(len(rows), space.dimension)
    least = max(float(values[0]) * limits.eps * longer**0.5 * 4, floor, limits.tiny)
    basis: torch.Tensor = columns @ left[:, values > least]
    return basis.mT.contiguous()


def gram_matrix(
    space: Space, *blocks: torch.Tensor
) -> torch.Tensor:  # [m, n], [k, n] ... -> [m + k + ..., m + k + ...]
    """Return the inner products of all rows of blocks with each other, in float64.

    A slice at a time: long vectors are not held in float64 as a whole.
    """
    count, length = sum(map(len, blocks)), blocks[0].shape[1]
    total = torch.zeros(count, count, dtype=torch.float64, device=blocks[0].device)
    room = total.new_empty(count, min(SLICE, length))
    for start in range(0, length, SLICE):
        part = room[:, : min(SLICE, length - start)]
        for own, block in zip(torch.split(part, [len(block) for block in blocks]), blocks, strict=True):
            own.copy_(block[:, start : start + SLICE])
        total.addmm_(part, part.mT)
    return space.sum(total)


def row_signs(rows: torch.Tensor, space: Space) -> torch.Tensor:  # [k, n] -> [k, 1]
    """Return the sign of each row's largest-magnitude entry, +1 for a row of zeros."""
    shards = space.shards
    entries = rows.new_zeros(len(rows), 1)
    if rows.shape[1]:
        entries = rows.gather(1, rows.abs().argmax(1, keepdim=True))
    if shards is not None:  # of the first rank that has the largest one
        first = (entries.abs() >= shards.max(entries.abs())) * float(shards.ranks - shards.rank)
        positive, negative = shards.max(torch.cat([first * (entries >= 0), first * (entries < 0)], 1)).T
        return torch.where(negative > positive, -1, 1).to(rows.dtype)[:, None]
    return torch.where(entries < 0, -1, 1).to(rows.dtype)


def outside(
    rows: torch.Tensor, basis: torch.Tensor, space: Space
) -> torch.Tensor:  # [..., b, n], [..., r, n] -> [..., b, n]
    """Return ``rows`` without their parts in an orthonormal basis, taken out twice (Kahan, Parlett)."""
    for _ in range(2):
        rows = rows - space.inner(rows, basis) @ basis
    return rows


class Basis:
    """Orthonormal rows ``[size, n]`` that grow by blocks, in one buffer that doubles when it is full."""

    def __init__(self, like: torch.Tensor, space: Space) -> None:
        self._buffer = like.new_empty(min(16, space.dimension), like.shape[1])
        self._space = space
        self.size = 0

    @property
    def rows(self) -> torch.Tensor:  # [size, n]
        """The basis so far."""
        return self._buffer[: self.size]

    def outside(self, rows: torch.Tensor) -> torch.Tensor:  # [b, n] -> [b, n]
        """Return ``rows`` without their parts in the basis."""
        return outside(rows, self.rows, self._space)

    def extend(self, rows: torch.Tensor, floor: float = 0.0) -> torch.Tensor:  # [b, n] -> [r, n]
        """Add what ``rows`` bring that is new (longer than ``floor``), and return it, orthonormal."""
        whole, space = self._space.dimension, self._space
        new = orthonormal_rows(self.outside(rows), space, floor)[: whole - self.size]
        # What was nearly inside the basis has lost its orthogonality with its length.
        new = orthonormal_rows(self.outside(new), space, 0.5) if self.size and len(new) else new
        needed = self.size + len(new)
        if needed > len(self._buffer):
            wider = new.new_empty(min(max(needed, 2 * len(self._buffer)), whole), rows.shape[1])
            wider[: self.size] = self.rows
            self._buffer = wider
        self._buffer[self.size : needed] = new
        self.size = needed
        return new


def completed(
    rows: torch.Tensor, num: int, generator: torch.Generator, space: Space
) -> torch.Tensor:  # [r, n] -> [num, n]
    """Return orthonormal ``rows`` followed by random orthonormal ones, ``num`` in all."""
    if len(rows) == num:
        return rows
    basis = Basis(rows, space)
    basis.extend(rows)
    while basis.size < num:
        extra = probes(space, num - basis.size, generator=generator, dtype=rows.dtype, device=rows.device)
        basis.extend(extra.flatten(1) if len(space.axes) > 1 else extra)
    return torch.cat([rows, basis.rows[len(rows) : num]])
