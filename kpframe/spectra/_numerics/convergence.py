"""When a pair may be called converged: its residual is small, and no pair is missing before it.

For a unit vector v and a number theta some eigenvalue is within |A v - theta v| of theta (Parlett, "The
symmetric eigenvalue problem", 1998, section 4.5), but the residual does not say which: the pair may be the
third where the second was never found. That happens to repeated eigenvalues. From b random start vectors
a Krylov space holds at most b vectors of each eigenspace, those that the start vectors have a part in. An
eigenvalue found fewer than b times was so found in full; one found b times may have more copies, which come
before every pair below it (``MultiplicityDoubts``). The eigenvectors that are missing are orthogonal to all
that was found, so that Lanczos from a random vector of that complement sees them (``exists_above``).

Where a tolerance is loose, a pair may also pass for one that it is not because the start vectors happen to
have little of an eigenvector: how little they would need to have is known (``overlooked``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum

import torch
from attrs import evolve, frozen

from kpframe.operators import Operator
from kpframe.operators._spaces import Space
from kpframe.spectra._numerics.linalg import outside

#: Probability with which ``exists_above`` may overlook an eigenvalue.
RISK = 1e-3

#: Residuals of so many roundings of the largest value are taken for zero.
ROUNDING = 128

#: How far beyond a value, relative to it, another one may be missing only with probability ``RISK``.
RESOLUTION = 1e-2

#: Which eigenvalues are wanted: those with the highest keys.
SortKey = Callable[[torch.Tensor], torch.Tensor]

#: The ends of a spectrum by name.
SORT_KEYS: dict[str, SortKey] = {
    "largest": lambda values: values,
    "smallest": torch.neg,
    "magnitude": torch.abs,
}


class Answer(Enum):
    """Whether an eigenvalue is missing; unknown where the budget did not suffice to tell."""

    YES, NO, UNKNOWN = "yes", "no", "unknown"


@frozen
class Tolerance:
    """How large the residual of a converged pair may be: ``tol`` times the magnitude of its own value.

    But not less than rounding: a product is known to about eps times the operator's norm, so that no residual
    can be told from zero below ``ROUNDING`` eps times the largest value (or ``tol`` times that, if less).
    """

    tol: float
    eps: float
    factor: float = 1.0

    def limits(self, values: torch.Tensor, scale: float) -> torch.Tensor:  # [k] -> [k]
        """Return the largest residual of each pair that counts as converged."""
        least = min(self.tol, ROUNDING * self.eps) * scale
        return self.factor * (self.tol * values.abs()).clamp(min=least)

    def gaps(self, values: torch.Tensor, scale: float) -> torch.Tensor:  # [k] -> [k]
        """Return how far beyond each value another one counts as missing, see ``overlooked``.

        A residual within the limit rules out what lies beyond it by 1 / ``RISK`` times as much; where that
        says little, for a loose tolerance, it is ``RESOLUTION`` that counts.
        """
        limits = self.limits(values, scale)
        near = torch.minimum(4 / RISK * limits, torch.maximum(limits, RESOLUTION * values.abs()))
        return near.clamp(min=4 / RISK * ROUNDING * self.eps * scale)

    @property
    def half(self) -> Tolerance:
        """A stricter one for a recurrence, whose residuals are a little smaller than the measured ones."""
        return evolve(self, factor=0.5)

    @classmethod
    def of(cls, tol: float | None, dtype: torch.dtype) -> Tolerance:
        """Return the tolerance, eps^(2/3) where none is asked for."""
        eps = torch.finfo(dtype).eps
        return cls(eps ** (2 / 3) if tol is None else tol, eps)


@frozen(eq=False)
class MultiplicityDoubts:
    """Which pairs may have others missing before them, copies of an eigenvalue that was not found in full.

    Attributes:
        pairs: ``[k]``, bool; the pairs in doubt.
        causes: ``[k]``, bool; the pairs of which there may be more copies, none where nothing is in doubt.
        level: missing copies have keys above this; None where nothing is in doubt.
    """

    pairs: torch.Tensor
    causes: torch.Tensor
    level: float | None

    @classmethod
    def none(cls, k: int) -> MultiplicityDoubts:
        """Return no doubts about k pairs."""
        nothing = torch.zeros(k, dtype=torch.bool)
        return cls(nothing, nothing, None)

    @classmethod
    def of(
        cls, keys: torch.Tensor, limits: torch.Tensor, width: int, groups: torch.Tensor | None = None
    ) -> MultiplicityDoubts:  # [k] each, keys descending
        """Return the doubts about the first pairs found from ``width`` random start vectors, in each group.

        A pair is in doubt where ``width`` values that agree within their limits lie clearly before it: they
        may be one eigenvalue, found as often as it can be.
        """
        apart = keys[:, None] - keys
        near = apart.abs() <= limits[:, None]
        if groups is not None:
            near = near & (groups[:, None] == groups)
        crowded = near.sum(1) >= width  # values that may have more copies
        below = crowded[:, None] & (apart > limits[:, None])
        causes = below.any(1)
        level = float((keys - limits)[causes].min()) if bool(causes.any()) else None
        return cls(below.any(0), causes, level)


def converged_flags(
    residuals: torch.Tensor, limits: torch.Tensor, complete: torch.Tensor
) -> torch.Tensor:  # [k]
    """Return the flags of pairs in order: each one's residual is small, and so are all before it."""
    return (residuals <= limits).long().cummin(0).values.bool() & complete.to(residuals.device)


def overlooked(
    keys: torch.Tensor,
    gaps: torch.Tensor,
    values: torch.Tensor,
    first: torch.Tensor,
    last: torch.Tensor,
    key: SortKey,
    dimension: int,
) -> torch.Tensor:  # [k], [k], [..., m], [..., b, m], [..., c, m] -> [k], bool
    """Say which of the pairs with the given sort keys an eigenvalue beyond may have been missed before.

    With the Ritz pairs (theta_j, y_j) of a block Krylov space and an eigenvector u of value lambda,

        (lambda - theta_j) <u, y_j> = <u, A y_j - theta_j y_j> = <w, l_j>,    w = W* u,  |w| <= 1,

    with W an orthonormal basis of what the newest products leave outside the space, in which l_j are the
    residuals. The b orthonormal start vectors Q_1 = sum_j y_j f_j* hence see of u

        Q_1* u = G w,    G = sum_j f_j l_j* / (lambda - theta_j),

    no more than the singular values of G. The start vectors were random, so that each part of a given u is
    about normal with variance 1 / n, and for all of them to be so small has a probability of at most about
    ``prod_i min(1, sqrt(2 n / pi) sigma_i(G))``. Where that is above ``RISK`` at the ends of a gap between
    two found values, an eigenvalue there may have been overlooked.

    Args:
        keys: of the chosen pairs, descending.
        gaps: how far beyond a key another one counts as missing.
        values: theta, all of them; leading dimensions are blocks of the operator.
        first: f, the Ritz vectors' parts in the start vectors.
        last: l, their residuals in W.
        key: the sort key.
        dimension: n.
    """

    def risk(ends: torch.Tensor) -> torch.Tensor:
        worst = torch.zeros_like(ends)
        for level in (ends, -ends):
            distance = level.reshape(-1, *(1 for _ in values.shape)) - values  # [k, ..., m]
            share = (first / distance.unsqueeze(-2)) @ last.mT  # G
            found = unseen(share, dimension**-0.5).reshape(len(keys), -1).amax(1)
            worst = torch.maximum(worst, torch.where(key(level) == ends, found, 0.0))
        return worst

    return doubted(keys, gaps, risk)


def unseen(share: torch.Tensor, spread: float) -> torch.Tensor:  # [..., b, c] -> [...]
    """Return a bound on the probability that b random start vectors have no more than G w of a vector.

    Args:
        share: G, w being of length 1 at most.
        spread: the standard deviation of a start vector's part in a given direction.
    """
    sizes = torch.linalg.svdvals(share.nan_to_num(1e100, 1e100, -1e100))
    parts: torch.Tensor = ((2 / math.pi) ** 0.5 / spread * sizes).clamp(max=1)
    if share.shape[-2] > share.shape[-1]:
        return parts.new_zeros(parts.shape[:-1])
    return parts.prod(-1)


def doubted(
    keys: torch.Tensor, gaps: torch.Tensor, risk: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:  # [k], [k] -> [k], bool
    """Say which pairs come after a gap, of the keys found, in which one may have been missed.

    Args:
        keys: descending.
        gaps: how far beyond a key another one counts as missing.
        risk: the probability with which one at given keys ``[k]``, either end of the gaps, was missed.
    """
    before = torch.cat([keys.new_full((1,), math.inf), (keys - gaps)[:-1]])
    wide = before >= keys + gaps
    found = torch.zeros_like(wide)
    for end in (keys + gaps, torch.where(torch.isinf(before), keys + gaps, before)):
        found |= wide & (risk(end) > RISK)
    return found.long().cummax(0).values.bool()


def to_deflate(
    keys: torch.Tensor, residuals: torch.Tensor, taken: torch.Tensor, level: float, low: float
) -> tuple[torch.Tensor, float]:  # [..., m] each -> [..., m], bool
    """Return which Ritz vectors to deflate in the search for eigenvalues above ``level``, and a lower level.

    Those ``taken`` as converged, and those that have hardly a part in an eigenvector above the level: with a
    Ritz vector y of value theta and residual r, and an eigenvector u of value lambda > level,
    ``(lambda - theta) <u, y> = <u, A y - theta y>``, hence |<u, y>| <= |r| / (level - theta). Deflating these
    takes up to the sum of the squares from u, and as much of its Rayleigh quotient's distance from ``low``.
    """
    share = residuals / (level - keys).clamp(min=torch.finfo(keys.dtype).tiny)
    out = taken | ((keys < level) & (share <= 0.01))
    lost = float((share.where(out & ~taken, share.new_zeros(()))).square().sum(-1).max())
    return out, level - lost * (level - low)


def lowest_key(op: Operator, key: SortKey, scale: float) -> float:
    """Return a bound from below on the keys of an operator of norm ``scale``."""
    return float(key(torch.tensor([0.0, scale])).min()) if op.positive else -scale


def exists_above(
    matvec: Callable[[torch.Tensor], torch.Tensor],
    starts: torch.Tensor,
    key: SortKey,
    level: float,
    low: float,
    budget: int,
    space: Space,
    dimension: int,
) -> Answer:  # starts: [U, n]
    """Say whether any of U self-adjoint operators has an eigenvalue with a key above ``level``.

    ``space`` says how rows are shared by ranks; each operator has the ``dimension`` n. ``matvec`` multiplies
    a row for each operator, in at most ``budget`` calls. Lanczos runs from the random ``starts``; a Ritz
    value above the level proves that there is one. For the other answer, suppose there is one, with the
    eigenvector u. A random unit vector v has a part <u, v>^2 >= w = ``RISK^2 / n`` in it, but for a
    probability below RISK. Let c be the largest Ritz value, ``low`` a bound from below on all eigenvalues,
    and p the Chebyshev polynomial T_j of degree j on [low, c], where |p| <= 1. As p(A) v lies in the Krylov
    space, its Rayleigh quotient is at most c, hence

        0 >= <p(A) v, (A - c) p(A) v> >= (level - c) w p(level)^2 - (c - low)

    (other eigenvalues above c only add to it), with g = (level - c) / (c - low) and p(level) =
    T_j(1 + 2 g) = cosh(j arcosh(1 + 2 g)). So there is none once ``w p(level)^2 > 1 / g``, that is
    ``j arcosh(1 + 2 g) > arcosh(sqrt(n / g) / RISK)``. (For the smallest eigenvalues this is said of -A, for
    the magnitude of A and of -A.)

    Source: J. Kuczynski, H. Wozniakowski, "Estimating the largest eigenvalue by the power and Lanczos
    algorithms with a random start", SIAM J. Matrix Anal. Appl. 1992, for the argument.
    """
    count = len(starts)
    eps = torch.finfo(starts.dtype).eps
    lengths = space.norms(starts)[:, None]
    if not bool((lengths > 0).any()):
        return Answer.NO
    current = starts / lengths.clamp(min=torch.finfo(starts.dtype).tiny)
    basis = current[:, None]  # [U, steps, n]
    matrix = torch.zeros(count, 0, 0, dtype=torch.float64, device=starts.device)
    live = lengths > 0
    for step in range(min(budget, dimension)):
        images = matvec(current)
        column = space.sum(basis @ images[..., None]).double()
        matrix = torch.nn.functional.pad(matrix, (0, 1, 0, 1))
        matrix[:, :, -1:], matrix[:, -1:, :] = column, column.mT
        ended = ~live[:, 0]
        matrix[ended, -1, -1] = matrix[ended, 0, 0]  # of zeros, which should not count
        top = float(key(torch.linalg.eigvalsh(matrix)).max())
        if top >= level:
            return Answer.YES
        if top <= low:
            return Answer.NO
        # After step + 1 products the Krylov space holds p(A) v for polynomials of degree j = step.
        gain = (level - top) / (top - low)
        needed = math.acosh(max(1.0, (dimension / gain) ** 0.5 / RISK))
        if step * math.acosh(1 + 2 * gain) >= needed:
            return Answer.NO
        rest = outside(images[:, None], basis, space)[:, 0]
        lengths = space.norms(rest)[:, None]
        scale = float(matrix.abs().max())
        live = live & (lengths > 8 * eps * dimension**0.5 * scale)
        if not bool(live.any()):  # invariant subspaces, which hold a part of every eigenspace
            return Answer.NO
        current = torch.where(live, rest / lengths.clamp(min=torch.finfo(rest.dtype).tiny), 0.0)
        basis = torch.cat([basis, current[:, None]], dim=1)
    return Answer.NO if dimension <= budget else Answer.UNKNOWN
