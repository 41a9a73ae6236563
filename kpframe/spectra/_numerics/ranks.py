"""Vectors of which each rank holds a part: their entries by global index, and what is true on any rank.

Small things only are put together here: a dense matrix that a budget pays for, a figure of a row.
"""

from __future__ import annotations

import torch

from kpframe.operators import Operator
from kpframe.operators._dense import basis
from kpframe.operators._spaces import Space


def places(space: Space, device: torch.device) -> torch.Tensor:  # [size]
    """Return the global indices of this rank's entries of a flattened vector."""
    every = torch.arange(space.dimension, device=device).reshape([axis.total for axis in space.axes])
    for dim, axis in enumerate(space.axes):
        if axis.shards is not None:
            every = every.narrow(dim, axis.shards.start, axis.size)
    return every.flatten()


def basis_rows(space: Space, start: int, stop: int, like: Operator) -> torch.Tensor:  # [stop - start, size]
    """Return this rank's part of the basis vectors ``start:stop``, counted over all ranks."""
    if space.shards is None:
        return basis(space, start, stop, like).reshape(stop - start, space.size)
    wanted = torch.arange(start, stop, device=like.device)
    return (wanted[:, None] == places(space, like.device)).to(like.dtype)


def whole_rows(rows: torch.Tensor, space: Space) -> torch.Tensor:  # [m, size] -> [m, dimension]
    """Return rows with the entries of all ranks, on every rank."""
    if space.shards is None:
        return rows
    out = rows.new_zeros(len(rows), space.dimension)
    out[:, places(space, rows.device)] = rows
    return space.sum(out)


def own_rows(rows: torch.Tensor, space: Space) -> torch.Tensor:  # [m, dimension] -> [m, size]
    """Return this rank's entries of rows that every rank has."""
    return rows if space.shards is None else rows[:, places(space, rows.device)]


def trace_of(rows: torch.Tensor, space: Space, start: int, stop: int) -> float:  # [stop - start, size]
    """Return the sum of this rank's diagonal entries of the rows ``start:stop`` of a matrix."""
    if space.shards is None:
        return float(rows[:, start:stop].diagonal().sum(dtype=torch.float64))
    where = places(space, rows.device)
    own = ((where >= start) & (where < stop)).nonzero().flatten()
    return float(rows[where[own] - start, own].sum(dtype=torch.float64))


def any_entry(rows: torch.Tensor, space: Space) -> bool:
    """Whether any rank's entries are not all zero."""
    found = bool(rows.any())
    return found if space.shards is None else space.shards.any(found, rows.device)


def largest_entry(rows: torch.Tensor, space: Space) -> torch.Tensor:  # []
    """Return the largest magnitude of an entry on any rank."""
    own = rows.abs().max() if rows.numel() else rows.new_zeros(())
    return own if space.shards is None else space.shards.max(own)


def row_dots(first: torch.Tensor, second: torch.Tensor, space: Space) -> torch.Tensor:  # [m, n] each -> [m]
    """Return the inner product of each row with the other's, in float64, over all ranks."""
    return space.sum((first * second).sum(1, dtype=torch.float64))
