"""The spectral measure of a positive operator: leading eigenvalues, and quadrature for the rest."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from attrs import frozen

from kpframe.spectra._eigsh import SCORES
from kpframe.spectra._numerics.convergence import Tolerance
from kpframe.spectra._numerics.krylov import block_lanczos
from kpframe.spectra._numerics.lanczos import F64, Tridiagonal, lanczos
from kpframe.spectra._numerics.products import Products
from kpframe.spectra._numerics.rng import random_rows
from kpframe.spectra._numerics.statistics import widen

#: A functional of a weighted set of eigenvalues, ``[s], [s] -> number``.
Functional = Callable[[torch.Tensor, torch.Tensor], float]

#: Lanczos steps of each probe, and the accuracy at which an eigenpair is taken out before.
STEPS, ACCURACY = 6, 1e-3


@frozen(eq=False)
class SpectralMeasure:
    """Eigenvalues that are known, and one quadrature rule a probe for all others together."""

    known: torch.Tensor  # [k]
    rest: Tridiagonal
    count: int  # products spent

    def estimate(self, functional: Functional, resolution: Functional | None = None) -> tuple[float, float]:
        """Return a functional of the spectrum and its standard error.

        The error is the jackknife's over the probes (with Student's t), and beside it the change when
        every rule is taken one step shorter, for what the rules are too coarse to see. ``resolution`` may
        add what the finest rule cannot resolve, as a functional of one probe's rule.
        """
        rule = self.rest.rule()
        value = functional(*self._merge(*rule))
        num = len(rule[0])
        if num < 2:
            return value, math.inf
        left = [
            functional(*self._merge(*(torch.cat([part[:i], part[i + 1 :]]) for part in rule)))
            for i in range(num)
        ]
        middle = sum(left) / num
        random = math.sqrt(sum((x - middle) ** 2 for x in left) * (num - 1) / num) * widen(num)
        steps = rule[0].shape[1]
        coarse = functional(*self._merge(*self.rest.rule(steps - 1))) if steps > 1 else 0.0
        unresolved = 0.0
        if resolution is not None:
            unresolved = (
                sum(resolution(*self._merge(*(part[i : i + 1] for part in rule))) for i in range(num)) / num
            )
        return value, math.hypot(random, coarse - value, unresolved)

    def _merge(self, nodes: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return values and weights of the known part and the mean over the probes."""
        ones = torch.ones_like(self.known)
        return torch.cat([self.known, nodes.flatten()]), torch.cat([ones, weights.flatten() / len(nodes)])


def spectral_measure(product: Products, num: int, generator: torch.Generator) -> SpectralMeasure:
    """Return the measure of a positive operator from ``num`` of its products.

    Half of them go into a block Krylov space; the Ritz pairs that have converged are known from then on.
    The rest run the Lanczos recurrence from random directions orthogonal to those.
    """
    op = product.op
    dimension = op.domain.size
    top = num // 2
    known = torch.empty(0, dtype=F64, device=op.device)
    vectors: torch.Tensor | None = None
    if top >= 4:
        ritz = block_lanczos(
            product,
            top,
            block=2,
            room=top,
            tolerance=Tolerance(0.0, 0.0),
            score=SCORES["largest"],
            generator=generator,
        )
        good = (ritz.bounds <= ACCURACY * ritz.values.abs()) & (ritz.values > 0)
        if good.any():
            known, vectors = ritz.values[good], ritz.vectors[good]
    left = num - product.count // product.weight
    steps = min(STEPS, left)
    starts = random_rows(op, left // steps, generator, "sphere")
    if vectors is not None:
        for _ in range(2):
            starts = starts - (starts @ vectors.mT) @ vectors
    # On the complement the directions are uniform; their length is set to its dimension.
    lengths = torch.linalg.vector_norm(starts, dim=1, keepdim=True)
    starts = starts * ((dimension - len(known)) ** 0.5 / lengths)
    return SpectralMeasure(known, lanczos(product, starts, steps, vectors), product.count)
