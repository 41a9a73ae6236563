"""Block Golub-Kahan bidiagonalisation with full reorthogonalisation, for any operator.

G. H. Golub, F. T. Luk, M. L. Overton, "A block Lanczos method for computing the singular values and
corresponding singular vectors of a matrix", ACM TOMS 1981; C. Musco, C. Musco 2015.
"""

from __future__ import annotations

import torch
from attrs import frozen

from kpframe.spectra._numerics.convergence import Answer, Doubts, Tolerance, known, nothing_above
from kpframe.spectra._numerics.linalg import Basis, completed, outside
from kpframe.spectra._numerics.products import Products
from kpframe.spectra._numerics.rng import random_rows


@frozen(eq=False)
class RitzTriplets:
    """Singular triplets of the operator on a Krylov space, descending."""

    left: torch.Tensor  # [k, codomain.size]
    values: torch.Tensor  # [k]
    right: torch.Tensor  # [k, domain.size]
    counted: torch.Tensor  # [k], bool; no other triplet is missing before it


def golub_kahan(
    product: Products, k: int, *, block: int, room: int, tolerance: Tolerance, generator: torch.Generator
) -> RitzTriplets:
    """Return ``k`` singular triplets from at most ``room`` products, half of them with the adjoint.

    Right vectors V and left vectors U grow by turns, so that ``A V = U B`` holds throughout and a triplet's
    residual is that of the adjoint. Dependent directions are dropped, and a fresh random block follows when
    nothing new is left. Where as many values coincide as the block has vectors, a random vector looks for
    more outside the right basis, as in ``block_lanczos``. Where the rank is below ``k``, any orthonormal
    vectors complete the left ones.
    """
    op = product.op
    eps = torch.finfo(op.dtype).eps
    start = product.count

    def draw(num: int) -> torch.Tensor:
        return random_rows(op, num, generator)

    def left_over() -> int:  # products there and back
        return min((room - (product.count - start)) // 2, op.domain.size - right.size)

    def missing(level: float, done: int) -> Answer:
        """Look for values of A* A above ``level`` outside the Ritz vectors that are known."""
        squares = torch.cat([values, values.new_zeros(right.size - found)]).square()
        remainder = torch.linalg.qr(rest.double().mT, mode="r")[1]
        residuals = torch.zeros_like(squares)
        residuals[:found] = values * torch.linalg.vector_norm(remainder @ columns[done:, :found], dim=0)
        taken = torch.arange(len(squares), device=squares.device) < k
        out, level = known(squares, residuals, taken, level, 0.0)
        seen = rows[out].to(op.dtype) @ right.rows
        look = outside(draw(1), seen)

        def beyond(given: torch.Tensor) -> torch.Tensor:
            return outside(product.adjoint(product(given)), seen)

        return nothing_above(beyond, look, lambda found: found, level, 0.0, left_over())

    first = draw(min(block, op.domain.size, room // 2))
    right = Basis(first)
    current = right.extend(first)
    left = Basis(first.new_empty(0, op.codomain.size))
    matrix = first.new_zeros(0, 0, dtype=torch.float64)  # B = U A V*, [left, right]
    scale = 0.0
    while True:
        images = product(current)
        new = left.extend(images, floor=8 * eps * max(scale, _norm(images)))
        grown = matrix.new_zeros(left.size, right.size)
        grown[: matrix.shape[0], : matrix.shape[1]] = matrix
        grown[:, matrix.shape[1] :] = (left.rows @ images.mT).double()
        matrix = grown
        columns, values, rows = torch.linalg.svd(matrix, full_matrices=True)
        found = min(matrix.shape)
        scale = max(scale, float(values.max()) if found else 0.0)
        done = left.size - len(new)
        rest = right.outside(product.adjoint(new)) if len(new) else current[:0]
        bounds = torch.linalg.vector_norm(columns[done:, :k].mT @ rest.double(), dim=1)
        enough = right.size >= k and (found >= k or right.size == op.domain.size)
        number = min(k, found)
        best = torch.cat([values[:number], values.new_zeros(k - number)])
        limits = tolerance.limits(best, scale)
        doubts = Doubts.of(best, limits, block)
        if right.size == op.domain.size:
            doubts = Doubts.none(k)
        settled, more = enough and bool((bounds <= limits[: len(bounds)]).all()), Answer.NO
        if settled and doubts.level is not None:
            more = missing(max(0.0, doubts.level) ** 2, done)
            doubts = Doubts.none(k) if more is Answer.NO else doubts
        if (settled and more is Answer.NO) or left_over() <= 0:
            break
        if more is Answer.YES:
            rest = torch.cat([rest, draw(block)])
        current = right.extend(rest[: left_over()], floor=8 * eps * scale)
        if not len(current):
            current = right.extend(draw(min(block, left_over())))
    left_rows = columns[:, :number].mT.to(op.dtype) @ left.rows
    return RitzTriplets(
        completed(left_rows, k, generator), best, rows[:k].to(op.dtype) @ right.rows, ~doubts.pairs
    )


def _norm(rows: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(rows, dim=1).max())
