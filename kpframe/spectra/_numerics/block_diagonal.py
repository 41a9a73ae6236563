"""Eigenpairs of a block-diagonal operator: Lanczos within each block, all blocks in the same products.

A vector holds one vector of each block, so that a product with the operator is a product with every block
at once, and ``m`` products span a Krylov space of dimension ``m`` in each. Where one matrix is shared by many
blocks (the Gram matrix of a layer's inputs by its units), whose leading eigenvalues crowd together, this
needs a few products where Lanczos on the whole space needs thousands.

The operator is op = op_1 (+) ... (+) op_U. For a vector q = (q_1, ..., q_U) it gives (op_1 q_1, ...,
op_U q_U), so that q, op q, op^2 q, ... hold the Krylov sequences of all blocks. Bases, Ritz pairs and
residuals are those of ``block_lanczos``, a batch over the blocks; the pairs of the operator are the best of
all blocks.
"""

from __future__ import annotations

import torch

from kpframe.operators import Operator
from kpframe.operators._spaces import Space
from kpframe.spectra._numerics.block_lanczos import Ritz, best, keeps_products, residual_norms
from kpframe.spectra._numerics.convergence import (
    Answer,
    MultiplicityDoubts,
    SortKey,
    Tolerance,
    exists_above,
    lowest_key,
    overlooked,
    to_deflate,
)
from kpframe.spectra._numerics.linalg import outside, remainder_of, symmetric_eigen
from kpframe.spectra._numerics.matvecs import Matvecs
from kpframe.spectra._numerics.probes import random_rows


class DiagonalBlocks:
    """How vectors of an operator's domain fall into blocks of equal size.

    Args:
        op: an operator with ``block_labels``.
    """

    def __init__(self, op: Operator, labels: torch.Tensor) -> None:
        order = torch.argsort(labels, stable=True)
        self.count = len(torch.unique(labels))
        self.entries = order.reshape(self.count, -1)  # [U, s] entries of the last axis
        self.shape = op.domain.shape
        self.size = op.domain.size // self.count  # entries on this rank
        self.dimension = op.domain.dimension // self.count

    def split(self, rows: torch.Tensor) -> torch.Tensor:  # [m, n] -> [U, m, n / U]
        """Return the part of each row in each block."""
        others = rows.shape[1] // self.shape[-1]
        parts = rows.reshape(len(rows), others, self.shape[-1])[..., self.entries]
        return parts.permute(2, 0, 1, 3).reshape(self.count, len(rows), self.size)

    def join(self, parts: torch.Tensor) -> torch.Tensor:  # [U, m, n / U] -> [m, n]
        """Return rows from their parts."""
        count, m, _ = parts.shape
        inner = self.entries.shape[1]
        split = parts.reshape(count, m, parts.shape[2] // inner, inner).permute(1, 2, 0, 3)
        rows = parts.new_empty(*split.shape[:2], self.shape[-1])
        rows[..., self.entries.flatten()] = split.flatten(-2)
        return rows.flatten(1)


def diagonal_blocks(op: Operator) -> DiagonalBlocks | None:
    """Return the blocks of an operator, None where it has none that are known, or of unequal sizes."""
    labels = op.block_labels()
    if labels is None:
        return None
    sizes = torch.unique(labels, return_counts=True)[1]
    return DiagonalBlocks(op, labels) if len(sizes) > 1 and bool((sizes == sizes[0]).all()) else None


def block_diagonal_lanczos(
    matvec: Matvecs,
    k: int,
    blocks: DiagonalBlocks,
    *,
    budget: int,
    tolerance: Tolerance,
    key: SortKey,
    generator: torch.Generator,
) -> Ritz:
    """Return the ``k`` Ritz pairs with the highest sort keys of all blocks, from at most ``budget`` products.

    It ends when their residuals are within the tolerance (measured or bounded as in ``block_lanczos``), so
    are those of each block's first pair, unless its bounds leave it out, and none is missing before them.
    From one start vector a block gives each eigenvalue once: random vectors, one in each block, tell whether
    there are more, and where there are, the run starts again with twice as many start vectors.
    """
    width, start = 1, matvec.count
    while True:
        left = budget - (matvec.count - start)
        ritz, found = _run(matvec, k, blocks, width, left, tolerance, key, generator)
        # A new run needs at least the products of the last.
        if found is not Answer.YES or 2 * (matvec.count - start) > budget:
            return ritz
        width = min(2 * width, blocks.dimension)


def _run(
    matvec: Matvecs,
    k: int,
    blocks: DiagonalBlocks,
    width: int,
    budget: int,
    tolerance: Tolerance,
    key: SortKey,
    generator: torch.Generator,
) -> tuple[Ritz, Answer]:
    """Return the pairs from ``width`` start vectors in each block, and whether others are known missing."""
    op, start, space = matvec.op, matvec.count, matvec.op.domain
    eps = torch.finfo(op.dtype).eps
    most = min(budget, blocks.dimension)

    def left() -> int:
        return budget - (matvec.count - start)

    def draw() -> torch.Tensor:
        row = random_rows(op, 1, generator)
        return blocks.split(row)

    def lengths(row: torch.Tensor) -> torch.Tensor:  # [U, 1, n / U] -> [U, 1, 1]
        return space.norms(row[:, 0])[:, None, None]

    def missing(level: float, asked: torch.Tensor) -> Answer:
        """Look for values above ``level`` outside the Ritz vectors that are known, in the blocks ``asked``.

        Copies are of one block each. In others lie values just below the level, which take many products to
        tell from those above it.
        """
        low, own = lowest_key(op, key, scale), torch.arange(size, device=asked.device)
        taken = torch.isin(asked[:, None] * size + own, chosen)
        out, level = to_deflate(key(values[asked]), bounds[asked], taken, level, low)
        found = (vectors[asked] * out[:, None]).mT.to(op.dtype) @ rows[asked]  # zero where not known

        def beyond(given: torch.Tensor) -> torch.Tensor:  # [asked, n / U]
            parts = given.new_zeros(blocks.count, 1, blocks.size)
            parts[asked, 0] = given
            return outside(blocks.split(matvec(blocks.join(parts)))[asked], found, space)[:, 0]

        start_rows = outside(draw()[asked], found, space)[:, 0]
        return exists_above(beyond, start_rows, key, level, low, left(), space, blocks.dimension)

    def passed_over() -> torch.Tensor:  # [k]
        """Say before which of the chosen pairs another one may be missing that the start hardly saw."""
        if size == blocks.dimension:
            return torch.zeros(len(chosen), dtype=torch.bool)
        gaps = tolerance.gaps(values.flatten()[chosen], scale)
        seen, last = vectors[:, :width], remainder @ newest
        return overlooked(keys[chosen], gaps, values, seen, last, key, blocks.dimension).cpu()

    width = min(width, most)
    rest = torch.cat([draw() for _ in range(width)], dim=1)
    basis = rest.new_empty(blocks.count, min(16, most), blocks.size)  # doubles when it is full
    matrix = rest.new_zeros(blocks.count, 0, 0, dtype=torch.float64)  # Q A Q* of each block
    size, scale = 0, 0.0
    kept: list[torch.Tensor] | None = [] if keeps_products(op, budget) else None

    def vectors_of(parts_of: torch.Tensor) -> torch.Tensor:  # [U, size, n / U] -> [k, n]
        """Return the chosen combinations of rows or of their products."""
        parts = basis.new_zeros(blocks.count, len(chosen), blocks.size)
        weights = vectors[places, :, which].to(op.dtype)  # [k, size]
        parts[places, torch.arange(len(chosen), device=places.device)] = (
            weights.unsqueeze(1) @ parts_of[places]
        ).squeeze(1)
        return blocks.join(parts)

    def products_of() -> torch.Tensor | None:
        """Return the products with the chosen Ritz vectors, where those of the basis are kept."""
        return None if kept is None else vectors_of(torch.cat(kept, dim=1))

    def measured() -> bool:
        """Whether the residuals are within the tolerance, where they can be measured."""
        products = products_of()
        if products is None:
            return False
        norms = residual_norms(products, values.flatten()[chosen], vectors_of(rows), space)
        return bool((norms <= limits.flatten()[chosen]).all())

    while True:
        old, count = size, min(rest.shape[1], most - size)
        cut = rest if size and count < rest.shape[1] else rest[:, :0]  # a part does not join the basis
        if size + count > basis.shape[1]:
            wider = basis.new_empty(blocks.count, min(max(2 * size, size + count), most), blocks.size)
            wider[:, :size] = basis[:, :size]
            basis = wider
        for place in range(count):
            row = outside(rest[:, place : place + 1], basis[:, old:size], space)
            length = lengths(row)
            weak = length <= 8 * eps * scale
            if bool(weak.any()):  # what a block has left is rounding: a fresh direction there
                row = torch.where(weak, outside(draw(), basis[:, :size], space), row)
            row = outside(row / lengths(row), basis[:, :size], space)
            basis[:, size : size + 1] = row / lengths(row)
            size += 1
        rows = basis[:, :size]
        images = blocks.split(matvec(blocks.join(rows[:, old:])))
        if kept is not None:
            kept.append(images)
        columns = space.inner(rows, images).double()  # [U, size, count]
        matrix = torch.nn.functional.pad(matrix, (0, count, 0, count))
        matrix[:, :, old:] = columns
        matrix[:, old:, :] = columns.mT
        rest = outside(images, rows, space)
        values, vectors = symmetric_eigen(matrix)
        scale = float(values.abs().max())
        beyond = torch.cat([outside(cut, rows, space), rest], dim=1) if cut.shape[1] else rest
        remainder = remainders_of(beyond, space)
        newest = vectors[:, size - beyond.shape[1] :]
        bounds = torch.linalg.vector_norm(remainder @ newest, dim=1)  # [U, size], of all Ritz pairs
        limits = tolerance.limits(values, scale)
        keys = key(values).flatten()
        chosen = best(keys, k)
        places, which = chosen // size, chosen % size
        doubts = MultiplicityDoubts.of(keys[chosen], limits.flatten()[chosen], width, places)
        if size == blocks.dimension:
            doubts = MultiplicityDoubts.none(len(chosen))
        settled = len(chosen) == k and _settled(key(values), bounds, chosen, limits)
        settled = settled and (_settled(key(values), bounds, chosen, limits / 2) or measured())
        settled = settled and not bool(passed_over().any())
        found = Answer.NO
        if settled and doubts.level is not None:
            found = missing(doubts.level, torch.unique(places[doubts.causes.to(places.device)]))
            doubts = MultiplicityDoubts.none(k) if found is Answer.NO else doubts
        if settled or size == most or left() <= 0:
            break
    chosen_values, chosen_bounds = values.flatten()[chosen], bounds.flatten()[chosen]
    complete = ~doubts.pairs & ~passed_over()
    ritz = Ritz(chosen_values, vectors_of(rows), chosen_bounds, scale, complete, products_of())
    return ritz, found


def remainders_of(rows: torch.Tensor, space: Space) -> torch.Tensor:  # [U, b, n / U] -> [U, r, b]
    """Return each block's rows by their parts in an orthonormal basis of their span, in float64."""
    if space.shards is None:
        triangle: torch.Tensor = torch.linalg.qr(rows.double().mT, mode="r")[1]
        return triangle
    return torch.stack([remainder_of(part, space) for part in rows])


def _settled(
    key: torch.Tensor, bounds: torch.Tensor, chosen: torch.Tensor, limits: torch.Tensor
) -> bool:  # [U, size], [U, size], [k], [U, size]
    """Whether the chosen pairs have converged, and no block's first pair could still come before them."""
    if bool((bounds > limits).flatten()[chosen].any()):
        return False
    top, where = key.max(dim=1)
    bound, limit = (part.gather(1, where[:, None]).squeeze(1) for part in (bounds, limits))
    return not bool(((bound > limit) & (top + bound > key.flatten()[chosen[-1]])).any())
