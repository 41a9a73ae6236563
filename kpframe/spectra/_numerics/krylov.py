"""Block Lanczos with full reorthogonalisation, for self-adjoint operators.

G. H. Golub, R. Underwood, "The block Lanczos method for computing eigenvalues", 1977; C. Musco, C. Musco,
"Randomized block Krylov methods for stronger and faster approximate singular value decomposition", 2015.
"""

from __future__ import annotations

import torch
from attrs import frozen

from kpframe.spectra._numerics.convergence import (
    Answer,
    Doubts,
    Score,
    Tolerance,
    known,
    lowest,
    nothing_above,
)
from kpframe.spectra._numerics.linalg import Basis, outside, symmetric_eigen
from kpframe.spectra._numerics.products import Products
from kpframe.spectra._numerics.rng import random_rows


@frozen(eq=False)
class Ritz:
    """Ritz pairs, the highest score first; ``bounds`` are the recurrence's own residual norms."""

    values: torch.Tensor  # [k]
    vectors: torch.Tensor  # [k, n], orthonormal rows
    bounds: torch.Tensor  # [k]
    scale: float  # the largest Ritz value's magnitude
    counted: torch.Tensor  # [k], bool; no other pair is missing before it


def block_lanczos(
    product: Products,
    k: int,
    *,
    block: int,
    room: int,
    tolerance: Tolerance,
    score: Score,
    generator: torch.Generator,
) -> Ritz:
    """Return the ``k`` Ritz pairs of highest ``score``, from at most ``room`` products.

    It ends when their residuals are within the tolerance and none is missing before them. An invariant
    subspace (a block that brings nothing above rounding) is left by a fresh random block, so that operators
    of low rank are found in full. Where as many values coincide as the block has vectors, a random vector
    looks for more outside the basis, and a fresh block joins the recurrence when there are. One product a
    vector.
    """
    op = product.op
    eps = torch.finfo(op.dtype).eps
    start = product.count

    def draw(num: int) -> torch.Tensor:
        return random_rows(op, num, generator)

    first = draw(min(block, room))
    basis = Basis(first)
    current = basis.extend(first)
    matrix = first.new_zeros(0, 0, dtype=torch.float64)  # Q A Q*

    def left() -> int:
        return min(room - (product.count - start) // product.weight, op.domain.size - basis.size)

    def missing(level: float, done: int) -> Answer:
        """Look for values above ``level`` outside the Ritz vectors that are known."""
        low, scores = lowest(op, score, scale), score(values)
        remainder = torch.linalg.qr(rest.double().mT, mode="r")[1]
        taken = torch.zeros_like(scores, dtype=torch.bool).index_fill(0, chosen, True)
        residuals = torch.linalg.vector_norm(remainder @ vectors[done:], dim=0)
        out, level = known(scores, residuals, taken, level, low)
        found = vectors[:, out].mT.to(op.dtype) @ basis.rows
        look = outside(draw(1), found)
        return nothing_above(lambda rows: outside(product(rows), found), look, score, level, low, left())

    while True:
        done = basis.size - len(current)
        images = product(current)
        coefficients = (basis.rows @ images.mT).double()  # [size, b]
        grown = matrix.new_zeros(basis.size, basis.size)
        grown[:done, :done] = matrix
        grown[:, done:] = coefficients
        grown[done:, :done] = coefficients[:done].mT
        grown[done:, done:] = (coefficients[done:] + coefficients[done:].mT) / 2
        matrix = grown
        values, vectors = symmetric_eigen(matrix)
        chosen = best(score(values), k)
        scale = float(values.abs().max())
        rest = basis.outside(images)
        # The residual of a Ritz vector lies in the newest block alone.
        bounds = torch.linalg.vector_norm(vectors[done:, chosen].mT @ rest.double(), dim=1)
        limits = tolerance.limits(values[chosen], scale)
        doubts = Doubts.of(score(values[chosen]), limits, block)
        if basis.size == op.domain.size:
            doubts = Doubts.none(k)
        settled, found = len(chosen) == k and bool((bounds <= limits).all()), Answer.NO
        if settled and doubts.level is not None:
            found = missing(doubts.level, done)
            doubts = Doubts.none(k) if found is Answer.NO else doubts
        if (settled and found is Answer.NO) or left() <= 0:
            rows = vectors[:, chosen].mT.to(op.dtype) @ basis.rows
            return Ritz(values[chosen], rows, bounds, scale, ~doubts.pairs)
        if found is Answer.YES:
            rest = torch.cat([rest, draw(block)])
        current = basis.extend(rest[: min(len(rest), left())], 8 * eps * scale)
        if not len(current):
            current = basis.extend(draw(min(block, left())))


def best(score: torch.Tensor, k: int) -> torch.Tensor:  # [n] -> [k]
    """Return where the highest scores are, the highest first."""
    return torch.argsort(score, descending=True, stable=True)[:k]
