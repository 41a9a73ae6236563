"""Lanczos within the blocks of a block-diagonal operator, one row of all blocks at a time.

A vector holds one vector of each block, so that a product with the operator is a product with every block
at once, and ``m`` products span a Krylov space of dimension ``m`` in each. Where one matrix is shared by many
blocks (the Gram matrix of a layer's inputs by its units), whose leading eigenvalues crowd together, this
needs a few products where Lanczos on the whole space needs thousands.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from kpframe.operators import Operator
from kpframe.spectra.krylov import Ritz, best
from kpframe.spectra.linalg import outside
from kpframe.spectra.products import Products
from kpframe.spectra.rng import probes


class Blocks:
    """How vectors of an operator's domain fall into blocks of equal size.

    Args:
        op: an operator with ``block_labels``.
    """

    def __init__(self, op: Operator, labels: torch.Tensor) -> None:
        order = torch.argsort(labels, stable=True)
        self.count = len(torch.unique(labels))
        self.entries = order.reshape(self.count, -1)  # [U, s] entries of the last axis
        self.shape = op.domain.shape
        self.size = op.domain.size // self.count

    def split(self, rows: torch.Tensor) -> torch.Tensor:  # [m, n] -> [U, m, n / U]
        """Return the part of each row in each block."""
        parts = rows.reshape(-1, rows.shape[1] // self.shape[-1], self.shape[-1])[..., self.entries]
        return parts.permute(2, 0, 1, 3).reshape(self.count, len(rows), self.size)

    def join(self, parts: torch.Tensor) -> torch.Tensor:  # [U, m, n / U] -> [m, n]
        """Return rows from their parts."""
        count, m, _ = parts.shape
        split = parts.reshape(count, m, -1, self.entries.shape[1]).permute(1, 2, 0, 3)
        rows = parts.new_empty(*split.shape[:2], self.shape[-1])
        rows[..., self.entries.flatten()] = split.flatten(-2)
        return rows.reshape(m, -1)


def blocks_of(op: Operator) -> Blocks | None:
    """Return the blocks of an operator, None where it has none that are known, or of unequal sizes."""
    labels = op.block_labels
    if labels is None:
        return None
    sizes = torch.unique(labels, return_counts=True)[1]
    return Blocks(op, labels) if len(sizes) > 1 and bool((sizes == sizes[0]).all()) else None


def lanczos_in_blocks(
    product: Products,
    k: int,
    blocks: Blocks,
    *,
    room: int,
    tol: float,
    score: Callable[[torch.Tensor], torch.Tensor],
    generator: torch.Generator,
) -> Ritz:
    """Return the ``k`` Ritz pairs of highest ``score`` of all blocks, from at most ``room`` products.

    It ends when their residuals are below ``tol`` times the largest Ritz value, and so are those of each
    block's first pair, unless its bounds leave it out. Rows are kept orthogonal to all before.
    """
    op = product.op
    room = min(room, blocks.size)
    eps = torch.finfo(op.dtype).eps

    def draw() -> torch.Tensor:  # [U, 1, n / U]
        row = probes(op.domain, 1, generator, dtype=op.dtype, device=op.device).flatten(1)
        return blocks.split(row)

    current = draw()
    current /= torch.linalg.vector_norm(current, dim=-1, keepdim=True)
    basis = current.new_empty(blocks.count, min(16, room), blocks.size)  # doubles when it is full
    matrix = current.new_zeros(blocks.count, 0, 0, dtype=torch.float64)  # Q A Q* of each block
    for size in range(1, room + 1):
        if size > basis.shape[1]:
            wider = basis.new_empty(blocks.count, min(2 * basis.shape[1], room), blocks.size)
            wider[:, : size - 1] = basis
            basis = wider
        basis[:, size - 1 : size] = current
        rows = basis[:, :size]
        rest = blocks.split(product(blocks.join(current)))
        column = (rows @ rest.mT).double()  # [U, size, 1]
        matrix = torch.nn.functional.pad(matrix, (0, 1, 0, 1))
        matrix[:, :, -1:] = column
        matrix[:, -1:, :] = column.mT
        rest = outside(rest, rows)
        length = torch.linalg.vector_norm(rest, dim=-1)  # [U, 1]
        values, vectors = torch.linalg.eigh(matrix)
        scale = float(values.abs().max())
        bounds = vectors[:, -1].abs() * length  # [U, size]: the residuals of all Ritz pairs
        chosen = best(score(values.flatten()), k)
        if size == room or (len(chosen) == k and _settled(score(values), bounds, chosen, tol * scale)):
            break
        weak = length[..., None] <= 8 * eps * scale
        if bool(weak.any()):  # what a block has left is rounding: a fresh direction there
            rest = torch.where(weak, outside(draw(), rows), rest)
        current = rest / torch.linalg.vector_norm(rest, dim=-1, keepdim=True)
        current = outside(current, rows)
        current /= torch.linalg.vector_norm(current, dim=-1, keepdim=True)
    places, columns = chosen // size, chosen % size
    parts = current.new_zeros(blocks.count, len(chosen), blocks.size)
    found = vectors[places, :, columns].to(op.dtype)  # [k, size]
    parts[places, torch.arange(len(chosen), device=places.device)] = (
        found.unsqueeze(1) @ basis[places, :size]
    ).squeeze(1)
    return Ritz(values.flatten()[chosen], blocks.join(parts), bounds.flatten()[chosen], scale)


def _settled(
    score: torch.Tensor, bounds: torch.Tensor, chosen: torch.Tensor, limit: float
) -> bool:  # [U, size], [U, size], [k]
    """Whether the chosen pairs have converged, and no block's first pair could still come before them."""
    if bool((bounds.flatten()[chosen] > limit).any()):
        return False
    top, where = score.max(dim=1)
    bound = bounds.gather(1, where[:, None]).squeeze(1)
    return not bool(((bound > limit) & (top + bound > score.flatten()[chosen[-1]])).any())
