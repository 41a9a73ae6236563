"""Small dense linear algebra: eigenpairs, signs, and orthonormal bases of rows that grow."""

from __future__ import annotations

import torch

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


def orthonormal_rows(rows: torch.Tensor, floor: float = 0.0) -> torch.Tensor:  # [m, n] -> [r, n]
    """Return an orthonormal basis of the span of ``rows``, numerically dependent directions dropped.

    A direction is dropped when its singular value is below a few roundings of the largest, or ``floor``.
    """
    if not len(rows):
        return rows
    columns, triangle = torch.linalg.qr(rows.mT)
    left, values, _ = torch.linalg.svd(triangle, full_matrices=False)
    limits = torch.finfo(rows.dtype)
    least = max(float(values[0]) * limits.eps * max(rows.shape) ** 0.5 * 4, floor, limits.tiny)
    basis: torch.Tensor = columns @ left[:, values > least]
    return basis.mT.contiguous()


def gram_matrix(*blocks: torch.Tensor) -> torch.Tensor:  # [m, n], [k, n] ... -> [m + k + ..., m + k + ...]
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
    return total


def row_signs(rows: torch.Tensor) -> torch.Tensor:  # [k, n] -> [k, 1]
    """Return the sign of each row's largest-magnitude entry, +1 for a row of zeros."""
    entries = rows.gather(1, rows.abs().argmax(1, keepdim=True))
    return torch.where(entries < 0, -1, 1).to(rows.dtype)


def outside(
    rows: torch.Tensor, basis: torch.Tensor
) -> torch.Tensor:  # [..., b, n], [..., r, n] -> [..., b, n]
    """Return ``rows`` without their parts in an orthonormal basis, taken out twice (Kahan, Parlett)."""
    for _ in range(2):
        rows = rows - (rows @ basis.mT) @ basis
    return rows


class Basis:
    """Orthonormal rows ``[size, n]`` that grow by blocks, in one buffer that doubles when it is full."""

    def __init__(self, like: torch.Tensor) -> None:
        self._buffer = like.new_empty(min(16, like.shape[1]), like.shape[1])
        self.size = 0

    @property
    def rows(self) -> torch.Tensor:  # [size, n]
        """The basis so far."""
        return self._buffer[: self.size]

    def outside(self, rows: torch.Tensor) -> torch.Tensor:  # [b, n] -> [b, n]
        """Return ``rows`` without their parts in the basis."""
        return outside(rows, self.rows)

    def extend(self, rows: torch.Tensor, floor: float = 0.0) -> torch.Tensor:  # [b, n] -> [r, n]
        """Add what ``rows`` bring that is new (longer than ``floor``), and return it, orthonormal."""
        free = rows.shape[1] - self.size
        new = orthonormal_rows(self.outside(rows), floor)[:free]
        # What was nearly inside the basis has lost its orthogonality with its length.
        new = orthonormal_rows(self.outside(new), 0.5) if self.size and len(new) else new
        needed = self.size + len(new)
        if needed > len(self._buffer):
            wider = new.new_empty(min(max(needed, 2 * len(self._buffer)), rows.shape[1]), rows.shape[1])
            wider[: self.size] = self.rows
            self._buffer = wider
        self._buffer[self.size : needed] = new
        self.size = needed
        return new


def completed(rows: torch.Tensor, num: int, generator: torch.Generator) -> torch.Tensor:  # [r, n] -> [num, n]
    """Return orthonormal ``rows`` followed by random orthonormal ones, ``num`` in all."""
    if len(rows) == num:
        return rows
    basis = Basis(rows)
    basis.extend(rows)
    while basis.size < num:
        missing = (num - basis.size, rows.shape[1])
        extra = torch.randn(missing, generator=generator, dtype=rows.dtype, device=generator.device)
        basis.extend(extra.to(rows.device))
    return torch.cat([rows, basis.rows[len(rows) : num]])
