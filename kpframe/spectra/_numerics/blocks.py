"""Lanczos within the blocks of a block-diagonal operator, one row of all blocks at a time.

A vector holds one vector of each block, so that a product with the operator is a product with every block
at once, and ``m`` products span a Krylov space of dimension ``m`` in each. Where one matrix is shared by many
blocks (the Gram matrix of a layer's inputs by its units), whose leading eigenvalues crowd together, this
needs a few products where Lanczos on the whole space needs thousands.
"""

from __future__ import annotations

import torch

from kpframe.operators import Operator
from kpframe.spectra._numerics.convergence import (
    Answer,
    Doubts,
    Score,
    Tolerance,
    known,
    lowest,
    nothing_above,
)
from kpframe.spectra._numerics.krylov import Ritz, best
from kpframe.spectra._numerics.linalg import outside, symmetric_eigen
from kpframe.spectra._numerics.products import Products
from kpframe.spectra._numerics.rng import random_rows


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
    tolerance: Tolerance,
    score: Score,
    generator: torch.Generator,
) -> Ritz:
    """Return the ``k`` Ritz pairs of highest ``score`` of all blocks, from at most ``room`` products.

    It ends when their residuals are within the tolerance, so are those of each block's first pair, unless its
    bounds leave it out, and none is missing before them. From one start vector a block gives each eigenvalue
    once: random vectors, one in each block, look for more of those found, and where they find some, the run
    starts again with twice as many start vectors.
    """
    width, start = 1, product.count
    while True:
        left = room - (product.count - start)
        ritz, found = _run(product, k, blocks, width, left, tolerance, score, generator)
        # A new run needs at least the products of the last.
        if found is not Answer.YES or 2 * (product.count - start) > room:
            return ritz
        width = min(2 * width, blocks.size)


def _run(
    product: Products,
    k: int,
    blocks: Blocks,
    width: int,
    room: int,
    tolerance: Tolerance,
    score: Score,
    generator: torch.Generator,
) -> tuple[Ritz, Answer]:
    """Return the pairs from ``width`` start vectors in each block, and whether others are known missing."""
    op, start = product.op, product.count
    eps = torch.finfo(op.dtype).eps
    most = min(room, blocks.size)

    def left() -> int:
        return room - (product.count - start)

    def draw() -> torch.Tensor:
        row = random_rows(op, 1, generator)
        return blocks.split(row)

    def missing(level: float) -> Answer:
        """Look for values above ``level`` outside the Ritz vectors that are known, in all blocks."""
        low, taken = lowest(op, score, scale), torch.zeros_like(values, dtype=torch.bool)
        taken.view(-1)[chosen] = True
        out, level = known(score(values), bounds, taken, level, low)
        found = (vectors * out[:, None]).mT.to(op.dtype) @ rows  # [U, size, n / U], zero where not known

        def beyond(given: torch.Tensor) -> torch.Tensor:  # [U, n / U]
            images = blocks.split(product(blocks.join(given[:, None])))
            return outside(images, found)[:, 0]

        return nothing_above(beyond, outside(draw(), found)[:, 0], score, level, low, left())

    rest = torch.cat([draw() for _ in range(min(width, most))], dim=1)
    basis = rest.new_empty(blocks.count, min(16, most), blocks.size)  # doubles when it is full
    matrix = rest.new_zeros(blocks.count, 0, 0, dtype=torch.float64)  # Q A Q* of each block
    size, scale = 0, 0.0
    while True:
        old, count = size, min(rest.shape[1], most - size)
        if size + count > basis.shape[1]:
            wider = basis.new_empty(blocks.count, min(max(2 * size, size + count), most), blocks.size)
            wider[:, :size] = basis[:, :size]
            basis = wider
        for place in range(count):
            row = outside(rest[:, place : place + 1], basis[:, old:size])
            length = torch.linalg.vector_norm(row, dim=-1, keepdim=True)
            weak = length <= 8 * eps * scale
            if bool(weak.any()):  # what a block has left is rounding: a fresh direction there
                row = torch.where(weak, outside(draw(), basis[:, :size]), row)
            row = outside(row / torch.linalg.vector_norm(row, dim=-1, keepdim=True), basis[:, :size])
            basis[:, size : size + 1] = row / torch.linalg.vector_norm(row, dim=-1, keepdim=True)
            size += 1
        rows = basis[:, :size]
        images = blocks.split(product(blocks.join(rows[:, old:])))
        columns = (rows @ images.mT).double()  # [U, size, count]
        matrix = torch.nn.functional.pad(matrix, (0, count, 0, count))
        matrix[:, :, old:] = columns
        matrix[:, old:, :] = columns.mT
        rest = outside(images, rows)
        values, vectors = symmetric_eigen(matrix)
        scale = float(values.abs().max())
        remainder = torch.linalg.qr(rest.double().mT, mode="r")[1]
        bounds = torch.linalg.vector_norm(remainder @ vectors[:, old:], dim=1)  # [U, size], of all Ritz pairs
        limits = tolerance.limits(values, scale)
        scores = score(values).flatten()
        chosen = best(scores, k)
        places, which = chosen // size, chosen % size
        doubts = Doubts.of(scores[chosen], limits.flatten()[chosen], width, places)
        if size == blocks.size:
            doubts = Doubts.none(len(chosen))
        settled = len(chosen) == k and _settled(score(values), bounds, chosen, limits)
        found = Answer.NO
        if settled and doubts.level is not None:
            found = missing(doubts.level)
            doubts = Doubts.none(k) if found is Answer.NO else doubts
        if settled or size == most or left() <= 0:
            break
    parts = basis.new_zeros(blocks.count, len(chosen), blocks.size)
    weights = vectors[places, :, which].to(op.dtype)  # [k, size]
    parts[places, torch.arange(len(chosen), device=places.device)] = (
        weights.unsqueeze(1) @ basis[places, :size]
    ).squeeze(1)
    ritz = Ritz(values.flatten()[chosen], blocks.join(parts), bounds.flatten()[chosen], scale, ~doubts.pairs)
    return ritz, found


def _settled(
    score: torch.Tensor, bounds: torch.Tensor, chosen: torch.Tensor, limits: torch.Tensor
) -> bool:  # [U, size], [U, size], [k], [U, size]
    """Whether the chosen pairs have converged, and no block's first pair could still come before them."""
    if bool((bounds > limits).flatten()[chosen].any()):
        return False
    top, where = score.max(dim=1)
    bound, limit = (part.gather(1, where[:, None]).squeeze(1) for part in (bounds, limits))
    return not bool(((bound > limit) & (top + bound > score.flatten()[chosen[-1]])).any())
