"""Block Golub-Kahan bidiagonalisation with full reorthogonalisation, for any operator.

G. H. Golub, F. T. Luk, M. L. Overton, "A block Lanczos method for computing the singular values and
corresponding singular vectors of a matrix", ACM TOMS 1981; C. Musco, C. Musco, "Randomized block Krylov
methods for stronger and faster approximate singular value decomposition", 2015.

It is block Lanczos for A* A that keeps both sides, so that singular values are not squared and small ones
keep their digits. Right vectors V and left vectors U (columns) grow by turns:

    A V = U B,    A* U = V B* + R E*,

with R what the products of A* with the newest left vectors leave outside V; E picks these. A singular
triplet (x, sigma, y) of B gives u = U x and v = V y with A v = sigma u, and the residual of the adjoint,
A* u - sigma v = R E* x, is all there is.
"""

from __future__ import annotations

import torch
from attrs import frozen

from kpframe.spectra._numerics.convergence import (
    Answer,
    MultiplicityDoubts,
    Tolerance,
    exists_above,
    overlooked,
    to_deflate,
)
from kpframe.spectra._numerics.linalg import Basis, completed, outside, remainder_of
from kpframe.spectra._numerics.matvecs import Matvecs
from kpframe.spectra._numerics.probes import random_rows


@frozen(eq=False)
class RitzTriplets:
    """Singular triplets of the operator on a Krylov space, descending."""

    left: torch.Tensor  # [k, codomain.size]
    values: torch.Tensor  # [k]
    right: torch.Tensor  # [k, domain.size]
    complete: torch.Tensor  # [k], bool; no other triplet is missing before it


def golub_kahan(
    matvec: Matvecs, k: int, *, block: int, budget: int, tolerance: Tolerance, generator: torch.Generator
) -> RitzTriplets:
    """Return ``k`` singular triplets from at most ``budget`` products, half of them with the adjoint.

    Dependent directions are dropped, and a fresh random block follows when nothing new is left. Where as many
    values coincide as the block has vectors, a random vector outside the right basis tells whether there are
    more, as in ``block_lanczos``. Where the rank is below ``k``, any orthonormal vectors complete the left
    ones.
    """
    op, space = matvec.op, matvec.op.domain
    eps = torch.finfo(op.dtype).eps
    start = matvec.count

    def draw(num: int) -> torch.Tensor:
        return random_rows(op, num, generator)

    def left_over() -> int:  # products there and back
        return min((budget - (matvec.count - start)) // 2, space.dimension - right.size)

    def remainders() -> torch.Tensor:  # [b, right.size]
        """Return the residuals of all Ritz pairs of A* A in an orthonormal basis."""
        remainder = remainder_of(beyond, space)
        residuals = remainder @ columns[left.size - len(beyond) :, :found] * values
        return torch.nn.functional.pad(residuals, (0, right.size - found))

    def passed_over() -> torch.Tensor:  # [k]
        """Say before which triplets another one may be missing that the start hardly saw."""
        if right.size == space.dimension:
            return torch.zeros(k, dtype=torch.bool)
        keys, squares = best.square(), torch.nn.functional.pad(values, (0, right.size - found)).square()
        gaps = (best + tolerance.gaps(best, scale)).square() - keys
        seen, last, size = rows.mT[:width], remainders(), space.dimension
        return overlooked(keys, gaps, squares, seen, last, lambda found: found, size).cpu()

    def missing(level: float) -> Answer:
        """Look for values of A* A above ``level`` outside the Ritz vectors that are known."""
        squares = torch.cat([values, values.new_zeros(right.size - found)]).square()
        residuals = torch.linalg.vector_norm(remainders(), dim=0)
        taken = torch.arange(len(squares), device=squares.device) < k
        out, level = to_deflate(squares, residuals, taken, level, 0.0)
        seen = rows[out].to(op.dtype) @ right.rows
        start_row = outside(draw(1), seen, space)

        def beyond(given: torch.Tensor) -> torch.Tensor:
            return outside(matvec.adjoint(matvec(given)), seen, space)

        room, size = left_over(), space.dimension
        return exists_above(beyond, start_row, lambda found: found, level, 0.0, room, space, size)

    first = draw(min(block, space.dimension, budget // 2))
    right = Basis(first, space)
    current = right.extend(first)
    width = len(current)
    left = Basis(first.new_empty(0, op.codomain.size), op.codomain)
    matrix = first.new_zeros(0, 0, dtype=torch.float64)  # B = U A V*, [left, right]
    scale, cut = 0.0, first[:0]
    while True:
        images = matvec(current)
        new = left.extend(images, floor=8 * eps * max(scale, float(op.codomain.norms(images).max())))
        grown = matrix.new_zeros(left.size, right.size)
        grown[: matrix.shape[0], : matrix.shape[1]] = matrix
        grown[:, matrix.shape[1] :] = op.codomain.inner(left.rows, images).double()
        matrix = grown
        columns, values, rows = torch.linalg.svd(matrix, full_matrices=True)
        found = min(matrix.shape)
        scale = max(scale, float(values.max()) if found else 0.0)
        rest = right.outside(matvec.adjoint(new)) if len(new) else current[:0]
        beyond = torch.cat([right.outside(cut), rest]) if len(cut) else rest
        # |R E* x|
        parts = columns[left.size - len(beyond) :, :k].mT
        bounds = space.norms(parts @ beyond.double())
        enough = right.size >= k and (found >= k or right.size == space.dimension)
        number = min(k, found)
        best = torch.cat([values[:number], values.new_zeros(k - number)])
        limits = tolerance.limits(best, scale)
        doubts = MultiplicityDoubts.of(best, limits, block)
        if right.size == space.dimension:
            doubts = MultiplicityDoubts.none(k)
        settled, more = enough and bool((bounds <= limits[: len(bounds)]).all()), Answer.NO
        settled = settled and not bool(passed_over().any())
        if settled and doubts.level is not None:
            more = missing(max(0.0, doubts.level) ** 2)
            doubts = MultiplicityDoubts.none(k) if more is Answer.NO else doubts
        if (settled and more is Answer.NO) or left_over() <= 0:
            break
        cut = rest if len(rest) > left_over() else rest[:0]  # a part of which does not join the basis
        if more is Answer.YES:
            rest = torch.cat([rest, draw(block)])
        current = right.extend(rest[: left_over()], floor=8 * eps * scale)
        if not len(current):
            current = right.extend(draw(min(block, left_over())))
    left_rows = columns[:, :number].mT.to(op.dtype) @ left.rows
    complete = ~doubts.pairs & ~passed_over()
    return RitzTriplets(
        completed(left_rows, k, generator, op.codomain), best, rows[:k].to(op.dtype) @ right.rows, complete
    )
