"""The spectral measure of a positive operator: leading eigenvalues, and quadrature for the rest.

With eigenpairs (lambda_i, u_i), i <= k, found and P = I - sum_i u_i u_i*,

    tr f(A) = sum_(i <= k) f(lambda_i) + tr(P f(A) P),

the second term by stochastic Lanczos quadrature (see ``lanczos``) from random vectors in the range of P: the
split of Hutch++ (Meyer, Musco, Musco, Woodruff 2021) for f(A), as the few leading eigenvalues carry most of
the variance. Functionals that are no sums of f, such as ranks, are taken of all nodes and weights together.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from attrs import frozen

from kpframe.spectra._numerics.block_lanczos import block_lanczos
from kpframe.spectra._numerics.convergence import SORT_KEYS, Tolerance
from kpframe.spectra._numerics.lanczos import F64, Tridiagonal, lanczos
from kpframe.spectra._numerics.matvecs import Matvecs
from kpframe.spectra._numerics.probes import random_rows
from kpframe.spectra._numerics.statistics import t_factor

#: A functional of a weighted set of eigenvalues, ``[s], [s] -> number``.
Functional = Callable[[torch.Tensor, torch.Tensor], float]

#: Lanczos steps of each probe, and the accuracy at which an eigenpair is taken out before.
STEPS, ACCURACY = 6, 1e-3


@frozen(eq=False)
class SpectralMeasure:
    """Eigenvalues that are known, and a quadrature for each probe, of all others together."""

    known: torch.Tensor  # [k]
    rest: Tridiagonal
    count: int  # products spent

    def estimate(self, functional: Functional, resolution: Functional | None = None) -> tuple[float, float]:
        """Return a functional of the spectrum and its standard error.

        The error is the jackknife's over the probes (with Student's t), and beside it the change when
        every quadrature is taken one step shorter, for what it is too coarse to see. ``resolution`` may add
        what the finest cannot resolve, as a functional of one probe's quadrature.
        """
        quadratures = self.rest.quadrature()
        value = functional(*self._merge(*quadratures))
        num = len(quadratures[0])
        if num < 2:
            return value, math.inf
        left = [
            functional(*self._merge(*(torch.cat([part[:i], part[i + 1 :]]) for part in quadratures)))
            for i in range(num)
        ]
        middle = sum(left) / num
        random = math.sqrt(sum((x - middle) ** 2 for x in left) * (num - 1) / num) * t_factor(num)
        steps = quadratures[0].shape[1]
        coarse = functional(*self._merge(*self.rest.quadrature(steps - 1))) if steps > 1 else 0.0
        unresolved = 0.0
        if resolution is not None:
            unresolved = (
                sum(resolution(*self._merge(*(part[i : i + 1] for part in quadratures))) for i in range(num))
                / num
            )
        return value, math.hypot(random, coarse - value, unresolved)

    def _merge(self, nodes: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return values and weights of the known part and the mean over the probes."""
        ones = torch.ones_like(self.known)
        return torch.cat([self.known, nodes.flatten()]), torch.cat([ones, weights.flatten() / len(nodes)])


def spectral_measure(matvec: Matvecs, num: int, generator: torch.Generator) -> SpectralMeasure:
    """Return the measure of a positive operator from ``num`` of its products.

    Half of them go into a block Krylov space; the Ritz pairs that have converged are known from then on.
    The rest run the Lanczos recurrence from random directions orthogonal to those.
    """
    op = matvec.op
    space = op.domain
    dimension = space.dimension
    top = num // 2
    known = torch.empty(0, dtype=F64, device=op.device)
    vectors: torch.Tensor | None = None
    if top >= 4:
        ritz = block_lanczos(
            matvec,
            top,
            block=2,
            budget=top,
            tolerance=Tolerance(0.0, 0.0),
            key=SORT_KEYS["largest"],
            generator=generator,
        )
        good = (ritz.bounds <= ACCURACY * ritz.values.abs()) & (ritz.values > 0)
        if good.any():
            known, vectors = ritz.values[good], ritz.vectors[good]
    left = num - matvec.count // matvec.weight
    steps = min(STEPS, left)
    starts = random_rows(op, left // steps, generator, "sphere")
    if vectors is not None:
        for _ in range(2):
            starts = starts - space.inner(starts, vectors) @ vectors
    # On the complement the directions are uniform; their length is set to its dimension.
    lengths = space.norms(starts)[:, None]
    starts = starts * ((dimension - len(known)) ** 0.5 / lengths)
    return SpectralMeasure(known, lanczos(matvec, starts, steps, vectors), matvec.count)
