"""Hutch++: the trace on a sketched range exactly, the rest by Hutchinson.

R. A. Meyer, C. Musco, C. Musco, D. P. Woodruff, "Hutch++: optimal stochastic trace estimation", SOSA 2021,
Algorithm 1. For any square operator; a third of the budget each for the range, the trace on it and the rest.
"""

from __future__ import annotations

import torch

from kpframe.spectra._numerics.linalg import orthonormal_rows
from kpframe.spectra._numerics.matvecs import Sampler
from kpframe.spectra._numerics.ranks import row_dots
from kpframe.spectra._numerics.statistics import mean
from kpframe.spectra._traces.hutchinson import hutchinson


def hutchpp(source: Sampler, budget: int) -> tuple[float, float]:
    """Return the trace on the sketched range plus the mean of the samples of the rest."""
    third = budget // 3
    rest = budget - 2 * third
    if third == 0:
        return hutchinson(source, budget)
    space = source.op.domain
    probes = source.probes(rest + third, "rademacher")
    # With Q an orthonormal basis of the range of A S for random signs S, and P = I - Q Q*,
    #     tr A = tr(Q* A Q) + tr(P A P),
    # the first term from r products, the second, small where eigenvalues decay, as the mean of <P z, A P z>.
    range_ = orthonormal_rows(source.matvec(probes[rest:]), space)  # Q*, [r, n]
    inside = space.sum((range_ * source.matvec(range_)).sum(dtype=torch.float64))
    outside = probes[:rest] - space.inner(probes[:rest], range_) @ range_  # (P z)*
    return mean(inside + row_dots(outside, source.matvec(outside), space))
