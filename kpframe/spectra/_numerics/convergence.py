"""When a pair may be called converged: a small residual, and no pair missing before it.

A residual says that *some* eigenvalue is near, not which. From b random start vectors a Krylov space holds at
most b vectors of each eigenspace, and once converged all of them if there are fewer; so an eigenvalue found
b times may occur more often than it was found (``doubts``). The missing vectors are orthogonal to all
that was found. Whether there are any is asked of a random vector there (``nothing_above``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum

import torch
from attrs import evolve, frozen

from kpframe.operators import Operator
from kpframe.spectra._numerics.linalg import outside

#: Probability with which ``nothing_above`` may overlook an eigenvalue.
RISK = 1e-3

#: Residuals of so many roundings of the largest value are taken for zero.
ROUNDING = 128

#: Which eigenvalues are wanted: the highest scores.
Score = Callable[[torch.Tensor], torch.Tensor]


class Answer(Enum):
    """Whether something is missing."""

    YES, NO, UNKNOWN = "yes", "no", "unknown"


@frozen
class Tolerance:
    """How large a residual may be: ``tol`` times the pair's own value, or what rounding hides anyway.

    Rounding of products with the whole operator, ``ROUNDING`` eps times the largest value, leaves nothing to
    be told of values below that (``tol`` times the largest where that is less).
    """

    tol: float
    eps: float
    factor: float = 1.0

    def limits(self, values: torch.Tensor, scale: float) -> torch.Tensor:  # [k] -> [k]
        """Return the largest residual of each pair that counts as converged."""
        least = min(self.tol, ROUNDING * self.eps) * scale
        return self.factor * (self.tol * values.abs()).clamp(min=least)

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
class Doubts:
    """Which pairs may have others missing before them, and above which score these would lie."""

    pairs: torch.Tensor  # [k], bool
    level: float | None  # None: none are missing

    @classmethod
    def none(cls, k: int) -> Doubts:
        """Return no doubts about k pairs."""
        return cls(torch.zeros(k, dtype=torch.bool), None)

    @classmethod
    def of(
        cls, scores: torch.Tensor, limits: torch.Tensor, width: int, groups: torch.Tensor | None = None
    ) -> Doubts:  # [k] each, scores descending
        """Return the doubts about the best pairs found from ``width`` random start vectors, in each group.

        A pair is in doubt where ``width`` values that cannot be told from each other lie clearly before it.
        """
        apart = scores[:, None] - scores
        near = apart.abs() <= limits[:, None]
        if groups is not None:
            near = near & (groups[:, None] == groups)
        crowded = near.sum(1) >= width
        below = crowded[:, None] & (apart > limits[:, None])
        causes = below.any(1)
        level = float((scores - limits)[causes].min()) if bool(causes.any()) else None
        return cls(below.any(0), level)


def earned(residuals: torch.Tensor, limits: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:  # [k]
    """Return the flags of pairs in order: each one's residual is small, and so are all before it."""
    return (residuals <= limits).long().cummin(0).values.bool() & counted.to(residuals.device)


def known(
    scores: torch.Tensor, residuals: torch.Tensor, taken: torch.Tensor, level: float, low: float
) -> tuple[torch.Tensor, float]:  # [..., m] each -> [..., m], bool
    """Return which Ritz vectors to take out of the space in which something above ``level`` is looked for.

    Those ``taken`` as converged, and those that can hardly share a direction with an eigenvector above the
    level: by no more than their residual over their distance from it. Also returns the level, less what
    taking these out can cost such an eigenvector.
    """
    share = residuals / (level - scores).clamp(min=torch.finfo(scores.dtype).tiny)
    out = taken | ((scores < level) & (share <= 0.01))
    lost = float((share.where(out & ~taken, share.new_zeros(()))).square().sum(-1).max())
    return out, level - lost * (level - low)


def lowest(op: Operator, score: Score, scale: float) -> float:
    """Return a bound from below on the scores of an operator of norm ``scale``."""
    return float(score(torch.tensor([0.0, scale])).min()) if op.positive else -scale


def nothing_above(
    product: Callable[[torch.Tensor], torch.Tensor],
    starts: torch.Tensor,
    score: Score,
    level: float,
    low: float,
    room: int,
) -> Answer:  # starts: [U, n]
    """Say whether any of U self-adjoint operators has an eigenvalue whose score is above ``level``.

    ``product`` multiplies a row for each operator, in at most ``room`` calls. Lanczos from the random
    ``starts``: an eigenvalue at or above ``level`` has a share of at least w = ``RISK^2 / n`` in its start,
    but for a probability RISK. Let c be the largest Ritz value after j steps. The Chebyshev polynomial of
    degree j that is at most 1 in size between ``low`` (a bound from below) and c is at ``level``
    T = T_j(1 + 2 (level - c) / (c - low)). Where w T^2 exceeds (c - low) / (level - c), the share would have
    lifted the largest Ritz value above c; so there is no such eigenvalue.

    Source: Kuczynski, Wozniakowski 1992, for the argument.
    """
    count, size = starts.shape
    eps = torch.finfo(starts.dtype).eps
    lengths = torch.linalg.vector_norm(starts, dim=1, keepdim=True)
    if not bool((lengths > 0).any()):
        return Answer.NO
    current = starts / lengths.clamp(min=torch.finfo(starts.dtype).tiny)
    basis = current[:, None]  # [U, steps, n]
    matrix = torch.zeros(count, 0, 0, dtype=torch.float64, device=starts.device)
    live = lengths > 0
    for step in range(min(room, size)):
        images = product(current)
        column = (basis @ images[..., None]).double()
        matrix = torch.nn.functional.pad(matrix, (0, 1, 0, 1))
        matrix[:, :, -1:], matrix[:, -1:, :] = column, column.mT
        ended = ~live[:, 0]
        matrix[ended, -1, -1] = matrix[ended, 0, 0]  # of zeros, which should not count
        top = float(score(torch.linalg.eigvalsh(matrix)).max())
        if top >= level:
            return Answer.YES
        if top <= low:
            return Answer.NO
        gain = (level - top) / (top - low)
        needed = math.acosh(max(1.0, (size / gain) ** 0.5 / RISK))
        if step * math.acosh(1 + 2 * gain) >= needed:
            return Answer.NO
        rest = outside(images[:, None], basis)[:, 0]
        lengths = torch.linalg.vector_norm(rest, dim=1, keepdim=True)
        scale = float(matrix.abs().max())
        live = live & (lengths > 8 * eps * size**0.5 * scale)
        if not bool(live.any()):  # invariant subspaces, which hold a part of every eigenspace
            return Answer.NO
        current = torch.where(live, rest / lengths.clamp(min=torch.finfo(rest.dtype).tiny), 0.0)
        basis = torch.cat([basis, current[:, None]], dim=1)
    return Answer.NO if size <= room else Answer.UNKNOWN
