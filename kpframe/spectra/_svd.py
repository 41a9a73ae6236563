"""Leading singular triplets of an operator."""

from __future__ import annotations

import torch
from attrs import frozen

from kpframe.errors import ArgumentError, mismatch
from kpframe.operators import Operator
from kpframe.operators._isolation import in_isolation
from kpframe.spectra._arguments import check_count, check_operator, check_positive, check_rank
from kpframe.spectra._eigsh import DENSE
from kpframe.spectra._numerics.convergence import Tolerance, converged_flags
from kpframe.spectra._numerics.golub_kahan import golub_kahan
from kpframe.spectra._numerics.linalg import row_signs
from kpframe.spectra._numerics.matvecs import Matvecs
from kpframe.spectra._numerics.probes import agreed, new_generator
from kpframe.spectra._numerics.ranks import own_rows
from kpframe.spectra._numerics.small_side import WHERE, SmallSide, null_rows, small_side


@frozen(eq=False)
class SingularTriplets:
    """``A V_i = S_i U_i``, descending.

    Attributes:
        U: ``[k, *codomain]``, orthonormal, the largest entry positive; this rank's part, as of ``V``.
        S: ``[k]``.
        V: ``[k, *domain]``, orthonormal.
        residual_norms: ``[k]``, sqrt(|A v - s u|^2 + |A* u - s v|^2).
        converged: ``[k]`` bool, as for ``EigenPairs``: the triplet and all before it have small residuals,
            and none is missing before it.
        num_matvecs: products with A and with A* taken.
        method: how they were found.
    """

    U: torch.Tensor  # [k, *codomain], orthonormal, largest entry positive; this rank's part, as V
    S: torch.Tensor  # [k]
    V: torch.Tensor  # [k, *domain], orthonormal
    residual_norms: torch.Tensor  # [k]
    converged: torch.Tensor  # [k], bool
    num_matvecs: int
    method: str


@in_isolation
def svd(
    op: Operator,
    *,
    k: int = 6,
    budget: int | None = None,
    tol: float | None = None,
    generator: torch.Generator | None = None,
    block_size: int | None = None,
) -> SingularTriplets:
    """Return the ``k`` leading singular triplets of any operator.

    Block Golub-Kahan bidiagonalisation with full reorthogonalisation; ends when all triplets have converged
    or the budget is spent. ``residual_norms`` are measured with ``2 k`` further products. The dense solution,
    for as many products as the smaller dimension, is taken where a budget pays for it, or without a budget
    where iterating would hardly cost less: up to a smaller dimension of 256, or 30 k. ``method`` says so. A
    self-adjoint operator that is known to go through a smaller space, as Phi = G M G* through the parameters,
    takes as many products as this space has dimensions, and 2 k; of G itself that is the dense solution.

    Args:
        op: any operator.
        k: number of triplets, at most the smaller dimension.
        budget: bound on the number of products, with the operator and its adjoint; None: 40 k + 400.
        tol: largest residual norm of a converged triplet by its own singular value, as in ``eigsh``; None:
            eps^(2/3), 4e-11 in float64 and 2e-5 in float32.
        generator: the source of the first block; None: a new one with seed 0.
        block_size: vectors per step; None: k, at most 32.

    Raises:
        ArgumentError: when k exceeds the smaller dimension or the budget does not suffice for k triplets.
        NonFiniteError: when a product is not finite.

    Sources: Golub, Luk, Overton 1981; Musco, Musco 2015.

    Examples:
        >>> import kpframe, torch
        >>> op = kpframe.MatrixOperator(torch.tensor([[3.0, 0.0], [0.0, -2.0], [0.0, 0.0]]))
        >>> triplets = kpframe.svd(op, k=2)
        >>> triplets.S.round(decimals=3).tolist(), triplets.U.shape, triplets.V.shape
        ([3.0, 2.0], torch.Size([2, 3]), torch.Size([2, 2]))
    """
    check_operator(op)
    k = check_rank(k, op)
    tolerance = Tolerance.of(None if tol is None else check_positive(tol, "tol"), op.dtype)
    block = min(k, 32) if block_size is None else check_count(block_size, "block_size")
    smaller = min(op.domain.dimension, op.codomain.dimension)
    source = agreed(new_generator(generator), op, k=k, budget=budget, tol=tol, block_size=block)
    matvec = Matvecs(op)
    if budget is not None:
        check_count(budget, "budget")
    affordable = max(DENSE, 30 * k) if budget is None else budget
    side = small_side(op)
    if side is not None and side.fits and side.dimension + 2 * k < min(smaller, affordable + 1):
        return _small_svd(op, side, k, tolerance, matvec, source)
    if smaller <= affordable:
        return dense_svd(op, k, tolerance, matvec)
    left_over = (40 * k + 400 if budget is None else budget) - 2 * k
    if left_over < 2 * k:
        least = min(4 * k, smaller)
        raise ArgumentError(mismatch("budget", f"at least {least} products for k={k}", budget))
    flipped = op.codomain.dimension < op.domain.dimension  # the random blocks belong to the smaller side
    run = matvec.T if flipped else matvec
    found = golub_kahan(
        run, k, block=min(block, smaller), budget=left_over, tolerance=tolerance.half, generator=source
    )
    left, right = (found.right, found.left) if flipped else (found.left, found.right)
    if flipped:
        matvec.count += run.count
    method = f"block Golub-Kahan, blocks of {block}"
    values = found.values.to(op.dtype)
    forward, backward = matvec(right), matvec.adjoint(left)
    return triplets(op, left, values, right, forward, backward, tolerance, matvec, method, found.complete)


def dense_svd(op: Operator, k: int, tolerance: Tolerance, matvec: Matvecs) -> SingularTriplets:
    """Return the triplets of the dense matrix."""
    dense = matvec.dense()
    columns, values, rows = torch.linalg.svd(dense, full_matrices=False)
    left, values, right = columns[:, :k].mT, values[:k], rows[:k]
    complete = torch.ones(k, dtype=torch.bool)
    forward, backward = own_rows(right @ dense.mT, op.codomain), own_rows(left @ dense, op.domain)
    left, right = own_rows(left, op.codomain), own_rows(right, op.domain)
    return triplets(op, left, values, right, forward, backward, tolerance, matvec, "dense", complete)


def _small_svd(
    op: Operator,
    side: SmallSide,
    k: int,
    tolerance: Tolerance,
    matvec: Matvecs,
    source: torch.Generator,
) -> SingularTriplets:
    """Return the triplets of a self-adjoint operator from its eigenpairs, ``A v = s (sign v)``."""
    found, rows = side.eigenpairs()
    chosen = found.abs().argsort(descending=True, stable=True)[:k]
    right = rows[chosen]
    if len(right) < k:  # it is zero on what is orthogonal to these
        right = torch.cat([right, null_rows(rows, k - len(right), source, op.domain)])
    values = torch.cat([found[chosen], found.new_zeros(k - len(chosen))])
    left = right * torch.where(values < 0, -1.0, 1.0).to(right.dtype)[:, None]
    forward, backward = matvec(right), matvec.adjoint(left)
    matvec.count += side.dimension
    sizes, complete = (values.abs() / matvec.unit).to(op.dtype), torch.ones(k, dtype=torch.bool)
    method = f"dense, {WHERE}"
    return triplets(op, left, sizes, right, forward, backward, tolerance, matvec, method, complete)


def triplets(
    op: Operator,
    left: torch.Tensor,
    values: torch.Tensor,
    right: torch.Tensor,
    forward: torch.Tensor,  # A v
    backward: torch.Tensor,  # A* u
    tolerance: Tolerance,
    matvec: Matvecs,
    method: str,
    complete: torch.Tensor,
) -> SingularTriplets:
    """Return the triplets with signs fixed and residuals measured."""
    k = len(values)
    first = op.codomain.norms(forward - values[:, None] * left)
    second = op.domain.norms(backward - values[:, None] * right)
    residuals = (first**2 + second**2).sqrt()
    signs = row_signs(left, op.codomain)
    return SingularTriplets(
        (left * signs).reshape(k, *op.codomain.shape),
        matvec.unit * values,
        (right * signs).reshape(k, *op.domain.shape),
        matvec.unit * residuals,
        converged_flags(residuals, tolerance.limits(values, float(values.max())), complete),
        matvec.count,
        method,
    )
