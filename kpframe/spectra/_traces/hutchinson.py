"""Hutchinson's estimator: the mean of <z, A z> over random signs.

M. F. Hutchinson, "A stochastic estimator of the trace of the influence matrix for Laplacian smoothing
splines", Communications in Statistics 1990. For any square operator; the error falls as 1/sqrt(budget)
whatever the spectrum, so the others are better where eigenvalues decay.
"""

from __future__ import annotations

import torch

from kpframe.spectra._numerics.products import Sampler
from kpframe.spectra._numerics.statistics import mean


def measure(source: Sampler, budget: int) -> tuple[float, float]:
    """Return the mean of one sample a product."""
    probes, products = source.products(budget, "rademacher")
    return mean((probes * products).sum(1, dtype=torch.float64))
