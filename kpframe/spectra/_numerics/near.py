"""Eigenpairs of a self-adjoint operator from vectors that are near its eigenvectors, and what proves them.

Vectors such as the eigenvectors at the step before of a training need few products to become eigenvectors
again, but say nothing of what they leave out. So two things are done with the products. *Refining*: the Ritz
pairs of the vectors, and of their residuals, until these are within the tolerance. *Searching*: block Lanczos
from random vectors on ``A' = A`` outside of the space Q that is known, of which follows how large the largest
eigenvalue m of A' may be (``overlooked``, but for a probability of ``RISK``). With the Ritz values theta_j of
A on Q, their residuals S in coordinates outside of Q, and any i - 1 vectors left out, the i-th eigenvalue is

    lambda_i <= max over the unit vectors orthogonal to y_1 .. y_(i-1) of <v, A v>
             <= largest eigenvalue of [[diag(theta_i ..), S_i], [S_i*, m I]]

(the minimax principle, Horn & Johnson 2013, Matrix Analysis, 4.2.6), whatever the multiplicities. It is below
u where ``m <= u - largest eigenvalue of S_i* (u - Theta)^-1 S_i``. A pair is complete where this shows that
lambda_i is at most the ``gap`` beyond its own value. Where the search meets an eigenvalue that rules it out,
what it found joins Q, and another search begins with other random vectors.
"""

from __future__ import annotations

import math

import torch

from kpframe.operators import Operator
from kpframe.spectra._numerics.block_lanczos import Ritz, best, keeps_products
from kpframe.spectra._numerics.convergence import RISK, SortKey, Tolerance
from kpframe.spectra._numerics.linalg import Basis, gram_matrix, remainder_of, symmetric_eigen
from kpframe.spectra._numerics.matvecs import Matvecs
from kpframe.spectra._numerics.probes import random_rows

#: Random vectors of a search: with more, each is cheaper to multiply, and more of them are needed.
WIDTH = 2


def can_start(op: Operator, which: str, budget: int) -> bool:
    """Whether vectors that are near help: the order is one of values, and all products can be kept."""
    return (which != "magnitude" or op.positive) and keeps_products(op, budget)


def eigenpairs_near(
    matvec: Matvecs,
    k: int,
    near: torch.Tensor,
    *,
    budget: int,
    tolerance: Tolerance,
    key: SortKey,
    generator: torch.Generator,
) -> Ritz:
    """Return the ``k`` Ritz pairs with the highest sort keys, from at most ``budget`` products.

    Args:
        matvec: the operator; its products are kept.
        k: number of pairs.
        near: ``[s, n]``, in whose span they are nearly.
        budget: bound on the products.
        tolerance: of residuals, and how far beyond a value another may be missing.
        key: of values, linear.
        generator: of the random vectors, which must not have been used to find ``near``.
    """
    known = _Known(matvec, k, budget, tolerance, key, generator)
    known.add(near[: min(len(near), budget)])
    if known.size < k:
        known.add(known.draw(k - known.size))
    complete = torch.zeros(k, dtype=torch.bool)
    while True:
        known.refine()
        if known.whole:
            complete = torch.ones(k, dtype=torch.bool)
        if bool(complete.all()) or known.left < WIDTH:
            return known.ritz(complete)
        complete = known.search()


class _Known:
    """The space Q that is known, its products and Ritz values; rows of vectors throughout."""

    def __init__(
        self,
        matvec: Matvecs,
        k: int,
        budget: int,
        tolerance: Tolerance,
        key: SortKey,
        generator: torch.Generator,
    ) -> None:
        self.matvec, self.k, self.budget, self.tolerance, self.key = matvec, k, budget, tolerance, key
        self.op, self.space, self.generator = matvec.op, matvec.op.domain, generator
        self.start = matvec.count
        self.eps = torch.finfo(self.op.dtype).eps
        like = torch.empty(0, self.space.size, dtype=self.op.dtype, device=self.op.device)
        self.basis, self.products = Basis(like, self.space), like
        self.matrix = torch.zeros(0, 0, dtype=torch.float64, device=self.op.device)  # Q* A Q

    @property
    def size(self) -> int:
        """The dimension of Q."""
        return self.basis.size

    @property
    def whole(self) -> bool:
        """Whether Q is all of the space."""
        return self.size == self.space.dimension

    @property
    def left(self) -> int:
        """How many vectors may still be multiplied."""
        spent = (self.matvec.count - self.start) // self.matvec.weight
        return min(self.budget - spent, self.space.dimension - self.size)

    def draw(self, num: int) -> torch.Tensor:
        """Return random vectors."""
        return random_rows(self.op, num, self.generator)

    def add(self, rows: torch.Tensor, floor: float = 0.0) -> torch.Tensor:
        """Multiply what vectors bring that is new, and return the products with it."""
        before = self.size
        new = self.basis.extend(rows, floor)
        images = self.matvec(new) if len(new) else new
        self.products = torch.cat([self.products, images])
        columns = self.space.inner(self.basis.rows, images).double()  # [size, b]
        matrix = self.matrix.new_zeros(self.size, self.size)
        matrix[:before, :before] = self.matrix
        matrix[:, before:] = columns
        matrix[before:, :before] = columns[:before].mT
        matrix[before:, before:] = (columns[before:] + columns[before:].mT) / 2
        self.matrix = matrix
        return images

    def pairs(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
        """Return the best k Ritz values, vectors and their products, and the largest magnitude."""
        values, vectors = symmetric_eigen(self.matrix)
        chosen = best(self.key(values), self.k)
        mix = vectors[:, chosen].mT.to(self.op.dtype)
        return values[chosen], mix @ self.basis.rows, mix @ self.products, float(values.abs().max())

    def refine(self) -> None:
        """Multiply residuals until all are within the tolerance, or nothing is left to spend."""
        while True:
            values, rows, products, scale = self.pairs()
            rest = products - values.to(rows.dtype)[:, None] * rows
            far = self.space.norms(rest).double() > self.tolerance.limits(values, scale)
            if not bool(far.any()) or self.left <= 0:
                return
            if not len(self.add(rest[far][: self.left], 8 * self.eps * scale)):
                self.add(self.draw(min(self.k, self.left)))

    def ritz(self, complete: torch.Tensor) -> Ritz:
        """Return the best k pairs."""
        values, rows, products, scale = self.pairs()
        bounds = self.space.norms(products - values.to(rows.dtype)[:, None] * rows)
        return Ritz(values, rows, bounds, scale, complete, products)

    def search(self) -> torch.Tensor:  # [k], bool
        """Return which pairs are proved by what random vectors see outside of Q, which they join.

        It ends when all are, when what it finds rules one out, or when nothing is left to spend.
        """
        fixed, proved = self.size, torch.zeros(self.k, dtype=torch.bool)
        values, vectors = symmetric_eigen(self.matrix)
        order = best(self.key(values), fixed)
        inner = self.key(values[order])
        residuals = gram_matrix(self.space, self.basis.outside(self.products))
        coupling = vectors[:, order].mT @ residuals @ vectors[:, order]  # S S*
        rest, scale = self.draw(WIDTH), float(values.abs().max())
        while 0 < len(rest) <= self.left:
            before = self.size
            images = self.add(rest, 8 * self.eps * scale if before > fixed else 0.0)
            if not len(images):
                return proved
            rest = self.basis.outside(images)
            mine, own = symmetric_eigen(self.matrix[fixed:, fixed:])
            last = remainder_of(rest, self.space) @ own[before - fixed :]
            found = symmetric_eigen(self.matrix)[0]
            chosen = found[best(self.key(found), self.k)]
            levels = self._levels(chosen, scale, inner, coupling)
            beyond = self.key(mine)
            proved = (beyond.max() < levels) & (self._risks(levels, beyond, own[:WIDTH], last) <= RISK)
            if bool(proved.all()) or not bool((beyond.max() < levels).all()):
                break
        return proved.cpu()

    def _levels(
        self, chosen: torch.Tensor, scale: float, inner: torch.Tensor, coupling: torch.Tensor
    ) -> torch.Tensor:  # [k]
        """Return below which level all eigenvalues outside must be, to prove each pair."""
        limits = self.key(chosen) + self.tolerance.gaps(chosen, scale)
        levels = []
        for place, limit in enumerate(limits):
            root = (limit - inner[place:]).clamp(min=torch.finfo(limit.dtype).tiny).rsqrt()
            lost = torch.linalg.eigvalsh(root[:, None] * coupling[place:, place:] * root)[-1]
            levels.append(limit - lost.clamp(min=0))
        return torch.stack(levels)

    def _risks(
        self, levels: torch.Tensor, values: torch.Tensor, first: torch.Tensor, last: torch.Tensor
    ) -> torch.Tensor:  # [k], [m], [b, m], [c, m] -> [k]
        """Return how likely random vectors are to miss an eigenvalue at each level; see ``overlooked``."""
        distance = levels[:, None] - values
        share = (first / distance[:, None]) @ last.mT  # [k, b, c]
        share = share.nan_to_num(1e100, 1e100, -1e100)
        dimension = self.space.dimension
        seen = ((2 * dimension / math.pi) ** 0.5 * torch.linalg.svdvals(share)).clamp(max=1)
        risk: torch.Tensor = seen.prod(-1) * (first.shape[0] <= last.shape[0])
        return risk
