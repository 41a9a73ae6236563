"""Block Lanczos with full reorthogonalisation, for self-adjoint operators.

G. H. Golub, R. Underwood, "The block Lanczos method for computing eigenvalues", 1977; C. Musco, C. Musco,
"Randomized block Krylov methods for stronger and faster approximate singular value decomposition", 2015.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from attrs import frozen

from kpframe.spectra.linalg import Basis
from kpframe.spectra.products import Products
from kpframe.spectra.rng import probes


@frozen(eq=False)
class Ritz:
    """Ritz pairs, the highest score first; ``bounds`` are the recurrence's own residual norms."""

    values: torch.Tensor  # [k]
    vectors: torch.Tensor  # [k, n], orthonormal rows
    bounds: torch.Tensor  # [k]
    scale: float  # the largest Ritz value's magnitude


def block_lanczos(
    product: Products,
    k: int,
    *,
    block: int,
    room: int,
    tol: float,
    score: Callable[[torch.Tensor], torch.Tensor],
    generator: torch.Generator,
) -> Ritz:
    """Return the ``k`` Ritz pairs of highest ``score``, from a basis of at most ``room`` vectors.

    It ends when their residuals are below ``tol`` times the largest Ritz value. An invariant subspace
    (a block that brings nothing above rounding) is left by a fresh random block, so that repeated
    eigenvalues and operators of low rank are found in full. One product a basis vector.
    """
    op = product.op
    eps = torch.finfo(op.dtype).eps

    def draw(num: int) -> torch.Tensor:
        return probes(op.domain, num, generator, dtype=op.dtype, device=op.device).flatten(1)

    first = draw(min(block, room))
    basis = Basis(first)
    current = basis.extend(first)
    matrix = first.new_zeros(0, 0, dtype=torch.float64)  # Q A Q*
    scale = 0.0
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
        values, vectors = torch.linalg.eigh(matrix)
        chosen = best(score(values), k)
        scale = float(values.abs().max())
        rest = basis.outside(images)
        # The residual of a Ritz vector lies in the newest block alone.
        bounds = torch.linalg.vector_norm(vectors[done:, chosen].mT @ rest.double(), dim=1)
        if (len(chosen) == k and bool((bounds <= tol * scale).all())) or basis.size >= room:
            return Ritz(values[chosen], vectors[:, chosen].mT.to(op.dtype) @ basis.rows, bounds, scale)
        left = min(block, room - basis.size)
        floor = 8 * eps * scale
        current = basis.extend(rest[:left] if left < len(rest) else rest, floor)
        if not len(current):
            current = basis.extend(draw(left))


def best(score: torch.Tensor, k: int) -> torch.Tensor:  # [n] -> [k]
    """Return where the highest scores are, the highest first."""
    return torch.argsort(score, descending=True, stable=True)[:k]
