"""Block Golub-Kahan bidiagonalisation with full reorthogonalisation, for any operator.

G. H. Golub, F. T. Luk, M. L. Overton, "A block Lanczos method for computing the singular values and
corresponding singular vectors of a matrix", ACM TOMS 1981; C. Musco, C. Musco 2015.
"""

from __future__ import annotations

import torch
from attrs import frozen

from kpframe.spectra.linalg import Basis, completed
from kpframe.spectra.products import Products
from kpframe.spectra.rng import probes


@frozen(eq=False)
class RitzTriplets:
    """Singular triplets of the operator on a Krylov space, descending."""

    left: torch.Tensor  # [k, codomain.size]
    values: torch.Tensor  # [k]
    right: torch.Tensor  # [k, domain.size]


def golub_kahan(
    product: Products, k: int, *, block: int, room: int, tol: float, generator: torch.Generator
) -> RitzTriplets:
    """Return ``k`` singular triplets from at most ``room`` products, half of them with the adjoint.

    Right vectors V and left vectors U grow by turns, so that ``A V = U B`` holds throughout and a triplet's
    residual is that of the adjoint. Dependent directions are dropped, and a fresh random block follows when
    nothing new is left. Where the rank is below ``k``, any orthonormal vectors complete the left ones.
    """
    op = product.op
    eps = torch.finfo(op.dtype).eps

    def draw(num: int) -> torch.Tensor:
        return probes(op.domain, num, generator, dtype=op.dtype, device=op.device).flatten(1)

    most = min(op.domain.size, room // 2)
    first = draw(min(block, most))
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
        if (enough and bool((bounds <= tol * scale).all())) or right.size >= most:
            break
        room_left = min(block, most - right.size)
        current = right.extend(rest[:room_left], floor=8 * eps * scale)
        if not len(current):
            current = right.extend(draw(room_left))
    number = min(k, found)
    left_rows = columns[:, :number].mT.to(op.dtype) @ left.rows
    return RitzTriplets(
        completed(left_rows, k, generator),
        torch.cat([values[:number], values.new_zeros(k - number)]),
        rows[:k].to(op.dtype) @ right.rows,
    )


def _norm(rows: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(rows, dim=1).max())
