"""Randomised singular value decomposition: a few passes over an operator, all in large batches.

N. Halko, P. G. Martinsson, J. A. Tropp, "Finding structure with randomness: probabilistic algorithms for
constructing approximate matrix decompositions", SIAM Review 2011, Algorithms 4.4
(subspace iteration) and 5.1 (the decomposition of the small matrix).
"""

from __future__ import annotations

import math
from functools import partial

import torch
from attrs import frozen

from kpframe.operators import Operator
from kpframe.operators._isolation import in_isolation
from kpframe.operators._spaces import Space
from kpframe.spectra._arguments import check_count, check_operator, check_positive, check_rank
from kpframe.spectra._numerics.convergence import MultiplicityDoubts, Tolerance, doubted, unseen
from kpframe.spectra._numerics.linalg import completed, orthonormal_rows, remainder_of, tall_qr
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
    ``k + oversample`` reaches the smaller dimension, the dense solution is taken. Few random directions may
    hardly see a singular vector, so that another passes for it: a triplet is called converged only where they
    would see so little of one before it with a probability below 0.001. Without ``oversample`` that takes
    values that fall steeply, or many power steps.

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
    source = agreed(new_generator(generator), op, k=k, oversample=width - k, power=power)
    domain, codomain = op.domain, op.codomain
    matvec = Matvecs(op)
    if width >= min(domain.dimension, codomain.dimension):
        return dense_svd(op, k, tolerance, matvec)
    # The range of (A A*)^power A Omega leans towards the leading left singular vectors as
    # sigma_j^(2 power + 1); with Q its orthonormal basis, A ~ Q (Q* A), whose SVD is small.
    starts = random_rows(op, width, source)
    right = orthonormal_rows(starts, domain)
    seen = _Starts(domain.inner(right, starts))
    left, turn = _orthonormal(matvec(right), codomain)
    for _ in range(power):
        right, back = _orthonormal(matvec.adjoint(left), domain)
        seen = seen.moved(turn).moved(back)
        left, turn = _orthonormal(matvec(right), codomain)
    images = matvec.adjoint(left)  # (A* Q)*, [r, n]
    ritz = _Ritz.of(left, right, turn, images, domain)
    columns, values, rows = _svd_of_rows(images, domain)
    found = min(k, len(values))
    rotation = columns[:, :found].mT
    backward = torch.cat([rotation @ images, images.new_zeros(k - found, images.shape[1])])
    right = completed(rows[:found], k, source, domain)
    values = torch.cat([values[:found], values.new_zeros(k - found)])
    left = completed(rotation @ left, k, source, codomain)
    method = f"randomised, {power} power steps"
    keys, scale = values.double(), float(values.max())
    crowded = MultiplicityDoubts.of(values, tolerance.limits(values, scale), width).pairs
    passed_over = doubted(keys, tolerance.gaps(keys, scale), partial(ritz.risk, seen, power))
    complete = ~(crowded.cpu() | passed_over.cpu())
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


def _orthonormal(rows: torch.Tensor, space: Space) -> tuple[torch.Tensor, torch.Tensor]:
    """Return an orthonormal basis ``[r, n]`` of rows ``[m, n]``, and their parts in it, ``[r, m]``."""
    basis = orthonormal_rows(rows, space)
    return basis, space.inner(basis, rows)


@frozen(eq=False)
class _Starts:
    """``(A* A)^p`` of the start vectors, by their parts in the basis that the iteration has got to.

    Attributes:
        parts: ``[r, b]``, divided by ``exp(log_unit)``: powers of values would leave the range of numbers.
        log_unit: so that they do not.
    """

    parts: torch.Tensor
    log_unit: float = 0.0

    def moved(self, turn: torch.Tensor) -> _Starts:  # [r', r]
        """Return them after a product, of which ``turn`` has the parts of each basis vector's in the next."""
        parts = turn.double() @ self.parts.double()
        largest = float(parts.abs().max()) if parts.numel() else 0.0
        if not largest:
            return _Starts(parts, self.log_unit)
        return _Starts(parts / largest, self.log_unit + math.log(largest))


@frozen(eq=False)
class _Ritz:
    """Ritz triplets ``A v_i = s_i u_i`` with the v_i in the span R of the last right basis, and what is left.

    With ``g_i = A* u_i - s_i v_i`` and a singular triplet ``A v = sigma u`` there is, of ``<v, g_i> = sigma
    <u, u_i> - s_i <v, v_i>`` and ``s_i <u, u_i> = sigma <v, v_i>``,

        <v, v_i> = s_i <v, g_i> / (sigma^2 - s_i^2) = s_i <w, l_i> / (sigma^2 - s_i^2),    |w| <= 1,

    with l_i the g_i in an orthonormal basis. The start vectors Omega, with ``(A* A)^p Omega = R L``, hence
    have of v

        Omega* v = sigma^(-2 p) L* R* v = G w,
        G = sigma^(-2 p) Sum_i (s_i L* y_i) l_i* / (sigma^2 - s_i^2),

    y_i being v_i in R. How improbable that is says ``convergence.unseen``.

    Attributes:
        values: s, ``[m]``.
        turned: y, ``[m, r]``.
        left_over: l, ``[c, m]``.
    """

    values: torch.Tensor
    turned: torch.Tensor
    left_over: torch.Tensor

    @classmethod
    def of(
        cls, left: torch.Tensor, right: torch.Tensor, turn: torch.Tensor, images: torch.Tensor, space: Space
    ) -> _Ritz:
        """Return them from ``A R* = Q* turn``, with Q, R ``[r, n]`` in rows, and ``(A* Q)*``."""
        columns, values, turned = torch.linalg.svd(turn, full_matrices=False)
        rest = columns.mT @ images - values[:, None] * (turned @ right)
        return cls(values.double(), turned.double(), remainder_of(rest, space))

    def risk(self, starts: _Starts, power: int, levels: torch.Tensor) -> torch.Tensor:  # [k] -> [k]
        """Return with which probability the starts hardly saw a singular vector of a value at each level."""
        seen = (self.turned @ starts.parts.double()).mT * self.values  # [b, m]
        squares = levels.square()[:, None, None]
        share = (seen / (squares - self.values.square())) @ self.left_over.mT
        decay = torch.exp(starts.log_unit - 2 * power * levels.log())
        return unseen(share * decay[:, None, None], 1.0)
