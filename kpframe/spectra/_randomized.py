"""Randomised singular value decomposition: a few passes over an operator, all in large batches.

N. Halko, P. G. Martinsson, J. A. Tropp, "Finding structure with randomness: probabilistic algorithms for
constructing approximate matrix decompositions", SIAM Review 2011, Algorithms 4.4
(subspace iteration) and 5.1 (the decomposition of the small matrix).
"""

from __future__ import annotations

import torch

from kpframe.operators import Operator
from kpframe.operators._isolation import in_isolation
from kpframe.operators._spaces import Space
from kpframe.spectra._arguments import check_count, check_operator, check_positive, check_rank
from kpframe.spectra._numerics.convergence import MultiplicityDoubts, Tolerance
from kpframe.spectra._numerics.linalg import completed, orthonormal_rows, tall_qr
from kpframe.spectra._numerics.matvecs import Matvecs
from kpframe.spectra._numerics.probes import agreed, new_generator, random_rows
from kpframe.spectra._svd import SingularTriplets, dense_svd, triplets


@in_isolation
def randomized_svd(
    op: Operator,
    *,
    k: int = 6,
    power: int = 2,
    oversample: int = 10,
    generator: torch.Generator | None = None,
    tol: float = 1e-2,
) -> SingularTriplets:
    """Return approximate ``k`` leading singular triplets of any operator from ``2 power + 2`` passes.

    For a quick look, where one large batch is much cheaper than many small ones; ``svd``
    is more accurate for the same number of products. Each power step multiplies by ``A A*``, with QR between
    the passes, so that small singular values are not lost to rounding. Costs
    ``(k + oversample) (2 power + 2) + k`` products, the last k for ``residual_norms``; where
    ``k + oversample`` reaches the smaller dimension, the dense solution is taken.

    Args:
        op: any operator.
        k: number of triplets, at most the smaller dimension.
        power: number of power steps; more for slowly decaying singular values.
        oversample: random directions beyond ``k``.
        generator: the source of the directions; None: a new one with seed 0.
        tol: largest residual norm of a converged triplet by its own singular value, as in ``svd``.

    Raises:
        ArgumentError: when k exceeds the smaller dimension, or for other numbers that cannot be used.
        NonFiniteError: when a product is not finite.

    Source: Halko, Martinsson, Tropp 2011.
    """
    check_operator(op)
    k = check_rank(k, op)
    power = check_count(power, "power", 0)
    width = k + check_count(oversample, "oversample", 0)
    tolerance = Tolerance.of(check_positive(tol, "tol"), op.dtype)
    source = agreed(new_generator(generator), op.domain, op.codomain)
    domain, codomain = op.domain, op.codomain
    matvec = Matvecs(op)
    if width >= min(domain.dimension, codomain.dimension):
        return dense_svd(op, k, tolerance, matvec)
    # The range of (A A*)^power A Omega leans towards the leading left singular vectors as
    # sigma_j^(2 power + 1); with Q its orthonormal basis, A ~ Q (Q* A), whose SVD is small.
    starts = random_rows(op, width, source)
    left = orthonormal_rows(matvec(starts), codomain)
    for _ in range(power):
        left = orthonormal_rows(matvec(orthonormal_rows(matvec.adjoint(left), domain)), codomain)
    images = matvec.adjoint(left)  # (A* Q)*, [r, n]
    columns, values, rows = _svd_of_rows(images, domain)
    found = min(k, len(values))
    rotation = columns[:, :found].mT
    backward = torch.cat([rotation @ images, images.new_zeros(k - found, images.shape[1])])
    right = completed(rows[:found], k, source, domain)
    values = torch.cat([values[:found], values.new_zeros(k - found)])
    left = completed(rotation @ left, k, source, codomain)
    method = f"randomised, {power} power steps"
    complete = ~MultiplicityDoubts.of(values, tolerance.limits(values, float(values.max())), width).pairs
    forward = matvec(right)
    return triplets(op, left, values, right, forward, backward, tolerance, matvec, method, complete)


def _svd_of_rows(
    rows: torch.Tensor, space: Space
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # [r, n] -> [r, r], [r], [r, n]
    if space.shards is None:
        columns, values, own = torch.linalg.svd(rows, full_matrices=False)
        return columns, values, own
    orthonormal, triangle = tall_qr(rows, space)
    right, values, left = torch.linalg.svd(triangle)
    return left.mT, values, right.mT @ orthonormal.mT
