"""Hutchinson's estimator: the mean of <z, A z> over random signs.

M. F. Hutchinson, "A stochastic estimator of the trace of the influence matrix for Laplacian smoothing
splines", Communications in Statistics 1990. For any square operator; the error falls as 1/sqrt(budget)
whatever the spectrum, so the others are better where eigenvalues decay.
"""

from __future__ import annotations

from kpframe.spectra._numerics.matvecs import Sampler
from kpframe.spectra._numerics.ranks import row_dots
from kpframe.spectra._numerics.statistics import mean


def hutchinson(source: Sampler, budget: int) -> tuple[float, float]:
    """Return the mean of one sample a product."""
    # E[z z*] = I gives E <z, A z> = tr(A E[z z*]) = tr A. For signs z_i^2 = 1 adds no noise: with S the
    # symmetric part of A, the variance of a sample is 2 (|S|_F^2 - sum_i S_ii^2), for Gaussian z 2 |S|_F^2.
    probes, products = source.products(budget, "rademacher")
    return mean(row_dots(probes, products, source.op.domain))
