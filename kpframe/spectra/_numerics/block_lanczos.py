"""Block Lanczos with full reorthogonalisation, for self-adjoint operators.

G. H. Golub, R. Underwood, "The block Lanczos method for computing eigenvalues", 1977; C. Musco, C. Musco,
"Randomized block Krylov methods for stronger and faster approximate singular value decomposition", 2015,
Algorithm 2, with a stopping rule in place of its number of steps.

With the columns of Q (rows in the code) an orthonormal basis of the Krylov space of a random block and
T = Q* A Q, the Ritz pairs are (theta, Q s) for the eigenpairs (theta, s) of T. All blocks but the newest were
multiplied and their products taken into the basis, so that

    A Q = Q T + R E*,    R = (I - Q Q*) A Q E,    E picks the newest columns.

The residual of a pair hence is known before it is paid for: A Q s - theta Q s = R E* s (Parlett, "The
symmetric eigenvalue problem", 1998, chapter 13). That is a bound but for rounding. Where the products A Q are
kept, A Q s is at hand, so that the residual is measured without another product.
"""

from __future__ import annotations

import torch
from attrs import frozen

from kpframe.operators import Operator
from kpframe.operators._spaces import Space
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
from kpframe.spectra._numerics.linalg import Basis, outside, remainder_of, symmetric_eigen
from kpframe.spectra._numerics.matvecs import Matvecs
from kpframe.spectra._numerics.probes import random_rows

#: Most bytes of products that are kept to measure residuals from.
KEPT_BYTES = 2**27


@frozen(eq=False)
class Ritz:
    """Ritz pairs, the highest sort key first; ``bounds`` are the recurrence's own residual norms."""

    values: torch.Tensor  # [k]
    vectors: torch.Tensor  # [k, n], orthonormal rows
    bounds: torch.Tensor  # [k]
    scale: float  # the largest Ritz value's magnitude
    complete: torch.Tensor  # [k], bool; no other pair is missing before it
    images: torch.Tensor | None = None  # [k, n], the products with ``vectors``


def block_lanczos(
    matvec: Matvecs,
    k: int,
    *,
    block: int,
    budget: int,
    tolerance: Tolerance,
    key: SortKey,
    generator: torch.Generator,
) -> Ritz:
    """Return the ``k`` Ritz pairs with the highest sort keys, from at most ``budget`` products.

    It ends when their residuals are within the tolerance and none is missing before them: those measured from
    kept products, else their bounds within half of it, as measured ones are a little larger. An invariant
    subspace (a block that brings nothing above rounding) is left by a fresh random block, so that operators
    of low rank are found in full. Where as many values coincide as the block has vectors, a random vector
    outside the basis tells whether there are more, and a fresh block joins the recurrence when there are. One
    product a vector.
    """
    op, space = matvec.op, matvec.op.domain
    eps = torch.finfo(op.dtype).eps
    start = matvec.count

    def draw(num: int) -> torch.Tensor:
        return random_rows(op, num, generator)

    first = draw(min(block, budget))
    basis = Basis(first, space)
    current = basis.extend(first)
    width = len(current)
    matrix = first.new_zeros(0, 0, dtype=torch.float64)  # T = Q* A Q
    kept: list[torch.Tensor] | None = [] if keeps_products(op, budget) else None
    cut = first[:0]

    def left() -> int:
        return min(budget - (matvec.count - start) // matvec.weight, space.dimension - basis.size)

    def remainders() -> torch.Tensor:  # [b, size]
        """Return the residuals of all Ritz pairs in an orthonormal basis."""
        found: torch.Tensor = remainder_of(beyond, space) @ vectors[-len(beyond) :]
        return found

    def passed_over() -> torch.Tensor:  # [k]
        """Say before which of the chosen pairs another one may be missing that the start hardly saw."""
        if basis.size == space.dimension:
            return torch.zeros(len(chosen), dtype=torch.bool)
        gaps = tolerance.gaps(values[chosen], scale)
        seen, last, size = vectors[:width], remainders(), space.dimension
        return overlooked(key(values[chosen]), gaps, values, seen, last, key, size).cpu()

    def missing(level: float) -> Answer:
        """Look for values above ``level`` outside the Ritz vectors that are known."""
        low, keys = lowest_key(op, key, scale), key(values)
        taken = torch.zeros_like(keys, dtype=torch.bool).index_fill(0, chosen, True)
        residuals = torch.linalg.vector_norm(remainders(), dim=0)
        out, level = to_deflate(keys, residuals, taken, level, low)
        found = vectors[:, out].mT.to(op.dtype) @ basis.rows
        start_row = outside(draw(1), found, space)

        def further(rows: torch.Tensor) -> torch.Tensor:
            return outside(matvec(rows), found, space)

        return exists_above(further, start_row, key, level, low, left(), space, space.dimension)

    def pairs() -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the chosen Ritz vectors and the products with them."""
        mix = vectors[:, chosen].mT.to(op.dtype)
        return mix @ basis.rows, None if kept is None else mix @ torch.cat(kept)

    def measured() -> bool:
        """Whether the residuals are within the tolerance, where they can be measured."""
        rows, products = pairs()
        if products is None:
            return False
        return bool((residual_norms(products, values[chosen], rows, space) <= limits).all())

    while True:
        done = basis.size - len(current)
        images = matvec(current)
        if kept is not None:
            kept.append(images)
        coefficients = space.inner(basis.rows, images).double()  # [size, b]
        grown = matrix.new_zeros(basis.size, basis.size)
        grown[:done, :done] = matrix
        grown[:, done:] = coefficients
        grown[done:, :done] = coefficients[:done].mT
        grown[done:, done:] = (coefficients[done:] + coefficients[done:].mT) / 2
        matrix = grown
        values, vectors = symmetric_eigen(matrix)
        chosen = best(key(values), k)
        scale = float(values.abs().max())
        rest = basis.outside(images)
        beyond = torch.cat([basis.outside(cut), rest]) if len(cut) else rest
        # |R E* s| of each chosen pair
        bounds = space.norms(vectors[-len(beyond) :, chosen].mT @ beyond.double())
        limits = tolerance.limits(values[chosen], scale)
        doubts = MultiplicityDoubts.of(key(values[chosen]), limits, block)
        if basis.size == space.dimension:
            doubts = MultiplicityDoubts.none(k)
        settled, found = len(chosen) == k and bool((bounds <= limits).all()), Answer.NO
        settled = settled and (bool((bounds <= limits / 2).all()) or measured())
        settled = settled and not bool(passed_over().any())
        if settled and doubts.level is not None:
            found = missing(doubts.level)
            doubts = MultiplicityDoubts.none(k) if found is Answer.NO else doubts
        if (settled and found is Answer.NO) or left() <= 0:
            rows, products = pairs()
            complete = ~doubts.pairs & ~passed_over()
            return Ritz(values[chosen], rows, bounds, scale, complete, products)
        cut = rest if len(rest) > left() else rest[:0]  # a part of which does not join the basis
        if found is Answer.YES:
            rest = torch.cat([rest, draw(block)])
        current = basis.extend(rest[: min(len(rest), left())], 8 * eps * scale)
        if not len(current):
            current = basis.extend(draw(min(block, left())))


def keeps_products(op: Operator, budget: int) -> bool:
    """Whether as many products as a budget pays for are few enough to be kept."""
    return budget * op.domain.largest * op.dtype.itemsize <= KEPT_BYTES


def residual_norms(
    products: torch.Tensor, values: torch.Tensor, rows: torch.Tensor, space: Space
) -> torch.Tensor:  # [k, n], [k], [k, n] -> [k]
    """Return ``|A v - theta v|`` of pairs from the products ``A v``."""
    return space.norms(products - values.to(rows.dtype)[:, None] * rows)


def best(keys: torch.Tensor, k: int) -> torch.Tensor:  # [n] -> [k]
    """Return where the highest sort keys are, the highest first."""
    return torch.argsort(keys, descending=True, stable=True)[:k]
