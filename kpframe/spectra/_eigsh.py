"""Leading eigenpairs of a self-adjoint operator."""

from __future__ import annotations

from functools import partial

import torch
from attrs import frozen

from kpframe.errors import ArgumentError, mismatch
from kpframe.operators import Operator
from kpframe.operators._finite import check_finite
from kpframe.operators._isolation import in_isolation
from kpframe.spectra._arguments import (
    check_count,
    check_name,
    check_positive,
    check_rank,
    check_square,
    check_symmetric,
    probe_symmetry,
)
from kpframe.spectra._numerics.block_diagonal import block_diagonal_lanczos, diagonal_blocks
from kpframe.spectra._numerics.block_lanczos import best, block_lanczos, residual_norms
from kpframe.spectra._numerics.convergence import SORT_KEYS, Tolerance, converged_flags
from kpframe.spectra._numerics.linalg import row_signs, symmetric_eigen
from kpframe.spectra._numerics.matvecs import Matvecs
from kpframe.spectra._numerics.near import can_start, eigenpairs_near
from kpframe.spectra._numerics.probes import agreed, new_generator
from kpframe.spectra._numerics.ranks import own_rows
from kpframe.spectra._numerics.small_side import WHERE, null_rows, small_side

#: Without a budget, operators up to this dimension are solved densely.
DENSE = 256


@frozen(eq=False)
class EigenPairs:
    """Eigenpairs, from the wanted end.

    A residual norm shows that an eigenvalue is that near. ``converged`` says more: it is within the
    tolerance, so is that of every pair before, and no eigenvalue is missing among these, so that pair i is
    the i-th. Where that has not been shown within the budget, the flag is False.

    Attributes:
        eigenvalues: ``[k]``.
        eigenvectors: ``[k, *domain]``, orthonormal, the largest entry positive; this rank's part.
        residual_norms: ``[k]``, |A v - lambda v|.
        converged: ``[k]`` bool.
        num_matvecs: operator products taken.
        method: how they were found.
    """

    eigenvalues: torch.Tensor  # [k]
    eigenvectors: torch.Tensor  # [k, *domain], orthonormal, largest entry positive; this rank's part
    residual_norms: torch.Tensor  # [k]
    converged: torch.Tensor  # [k], bool
    num_matvecs: int
    method: str


@in_isolation
def eigsh(
    op: Operator,
    *,
    k: int = 6,
    budget: int | None = None,
    tol: float | None = None,
    which: str = "largest",
    generator: torch.Generator | None = None,
    block_size: int | None = None,
    near: torch.Tensor | None = None,
) -> EigenPairs:
    """Return ``k`` eigenpairs from one end of a self-adjoint operator's spectrum.

    Block Lanczos with full reorthogonalisation: each step multiplies a block of vectors in one batched
    call, and ends when all pairs have converged or the budget is spent. ``residual_norms`` are measured from
    the products so far, or where these are too large to be kept (128 MiB) with ``k`` further ones. The dense
    solution, for as many products as the dimension, is taken where a budget pays for it, or without a budget
    where iterating would hardly cost less: up to a dimension of 256, or 30 k. ``method`` says so. Where the
    operator is known to go through a smaller space, as Phi = G M G* through the parameters, that takes as
    many products as this space has dimensions, and k. An operator that names its blocks (``block_labels``,
    as K of a cell whose parameters act on one unit each) is solved within each of them, all in the same
    products.

    A recurrence finds a repeated eigenvalue at most as often as it has start vectors. Where it has found one
    that often and others come after it, a random vector looks for more of it outside the space found; what
    that finds joins the recurrence, and what it rules out is ruled out with a probability of 0.999.

    Args:
        op: a self-adjoint operator; where that is not provable, two products test it.
        k: number of eigenpairs, at most the dimension.
        budget: bound on the number of operator products; None: 20 k + 200, or where the dimension is no more
            than that, as many as make the space whole.
        tol: largest residual norm of a converged pair by its own eigenvalue's magnitude; None: eps^(2/3),
            4e-11 in float64 and 2e-5 in float32. A residual of 128 eps times the largest magnitude is
            rounding, however small the eigenvalue.
        which: ``largest`` or ``smallest`` (algebraically), or ``magnitude`` (largest first).
        generator: the source of the first block; None: a new one with seed 0.
        block_size: vectors per step, blocks of the operator disregarded; None: k, at most 32.
        near: ``[s, *domain]``, vectors in whose span the eigenvectors nearly are, such as those of the same
            operator at the step before of a training: the nearer, the fewer products. ``generator`` must not
            be one that they were found with: from its random vectors follows what they leave out, and flags
            mean what they mean without. They are not used where the operator is solved densely or names its
            blocks, for the largest magnitudes of one not known to be positive, and where the products are too
            large to be kept.

    Raises:
        ArgumentError: when k exceeds the dimension, the budget does not suffice for k pairs, or the operator
            is not self-adjoint.
        SpaceMismatchError: when the operator is not square.
        NonFiniteError: when a product is not finite.

    Sources: Golub, Underwood 1977; Musco, Musco 2015.

    Examples:
        >>> import kpframe, torch
        >>> pairs = kpframe.eigsh(kpframe.DiagonalOperator(torch.arange(100.0)), k=2)
        >>> pairs.eigenvalues.round(decimals=3).tolist(), pairs.converged.tolist()
        ([99.0, 98.0], [True, True])
        >>> pairs.eigenvectors.shape
        torch.Size([2, 100])
    """
    check_square(op, "eigsh")
    k = check_rank(k, op)
    check_name(which, tuple(SORT_KEYS), "which")
    space = op.domain
    dimension = space.dimension
    tolerance = Tolerance.of(None if tol is None else check_positive(tol, "tol"), op.dtype)
    block = min(k, 32) if block_size is None else check_count(block_size, "block_size")
    lead = None if near is None else list(getattr(near, "shape", ()))[: -len(space.axes)]
    settings = {"k": k, "budget": budget, "tol": tol, "which": which, "block_size": block, "near": lead}
    source = agreed(new_generator(generator), op, **settings)
    if near is not None:
        space.together(partial(_check_near, near, op))
    matvec = Matvecs(op)
    if budget is not None:
        check_count(budget, "budget")
    blocks = diagonal_blocks(op) if block_size is None else None
    iterated = DENSE if blocks is not None else max(DENSE, 30 * k)  # from here on that is cheaper
    side = small_side(op)
    affordable = iterated if budget is None else budget
    through = side is not None and side.fits and side.dimension + k < min(dimension, affordable + 1)
    if side is not None and through and (blocks is None or dimension <= affordable):
        found, rows = side.eigenpairs()
        every = torch.cat([found, found.new_zeros(dimension - len(found))])  # the zeros that it has besides
        chosen = best(SORT_KEYS[which](every), k)
        inside = chosen < len(found)
        vectors = torch.empty(k, space.size, dtype=op.dtype, device=op.device)
        vectors[inside] = rows[chosen[inside]]
        vectors[~inside] = null_rows(rows, int((~inside).sum()), source, space)
        images = matvec(vectors)
        values = (every[chosen] / matvec.unit).to(op.dtype)
        residuals = residual_norms(images, values, vectors, space)
        matvec.count += side.dimension
        scale, method = float(every.abs().max()) / matvec.unit, f"dense, {WHERE}"
        complete = torch.ones(k, dtype=torch.bool)
    elif dimension <= affordable:
        dense = matvec.dense()
        check_symmetric(op, float((dense - dense.mT).abs().max()), float(dense.abs().max()))
        values, columns = symmetric_eigen((dense + dense.mT) / 2)
        chosen = best(SORT_KEYS[which](values), k)
        values, vectors = values[chosen], columns[:, chosen].mT
        residuals = torch.linalg.vector_norm(vectors @ dense.mT - values[:, None] * vectors, dim=1)
        vectors = own_rows(vectors, space)
        scale, method = float(dense.abs().max()), "dense"
        complete = torch.ones(k, dtype=torch.bool)
    else:
        spent = 0 if op.self_adjoint else 2
        if budget is None:
            budget = 20 * k + 200
            budget = budget if dimension > budget else dimension + k + spent  # the space may become whole
        left_over = budget - k - spent
        if left_over < k:
            least = min(2 * k + spent, dimension)
            raise ArgumentError(mismatch("budget", f"at least {least} products for k={k}", budget))
        if spent:
            probe_symmetry(op, matvec, source)
        given = None if near is None or blocks is not None or not can_start(op, which, budget) else near
        find = (
            partial(eigenpairs_near, matvec, k, given.reshape(-1, space.size))
            if given is not None
            else partial(block_lanczos, matvec, k, block=min(block, dimension))
            if blocks is None
            else partial(block_diagonal_lanczos, matvec, k, blocks)
        )
        ritz = find(budget=left_over, tolerance=tolerance, key=SORT_KEYS[which], generator=source)
        values, vectors = ritz.values.to(op.dtype), ritz.vectors
        images = matvec(vectors) if ritz.images is None else ritz.images
        residuals = residual_norms(images, values, vectors, space)
        scale, complete = ritz.scale, ritz.complete
        method = (
            "Lanczos from vectors that are near"
            if given is not None
            else f"block Lanczos, blocks of {block}"
            if blocks is None
            else f"Lanczos within {blocks.count} blocks of the operator"
        )
    scale = max(scale, float(values.abs().max()))
    return EigenPairs(
        matvec.unit * values,
        (vectors * row_signs(vectors, space)).reshape(k, *space.shape),
        matvec.unit * residuals,
        converged_flags(residuals, tolerance.limits(values, scale), complete),
        matvec.count,
        method,
    )


def _check_near(near: torch.Tensor, op: Operator) -> None:
    """Raise for vectors that are not of the operator's domain, or not finite."""
    op.domain.check(near, "near", dtype=op.dtype, device=op.device)
    check_finite(near, "near", op.domain)
