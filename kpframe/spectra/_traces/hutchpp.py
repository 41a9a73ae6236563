"""Hutch++: the trace on a sketched range exactly, the rest by Hutchinson.

R. A. Meyer, C. Musco, C. Musco, D. P. Woodruff, "Hutch++: optimal stochastic trace estimation", SOSA 2021.
For any square operator; a third of the budget each for the range, the trace on it and the rest.
"""

from __future__ import annotations

import torch

from kpframe.spectra._numerics.linalg import orthonormal_rows
from kpframe.spectra._numerics.products import Sampler
from kpframe.spectra._numerics.statistics import mean
from kpframe.spectra._traces import hutchinson


def measure(source: Sampler, budget: int) -> tuple[float, float]:
    """Return the trace on the sketched range plus the mean of the samples of the rest."""
    third = budget // 3
    rest = budget - 2 * third
    if third == 0:
        return hutchinson.measure(source, budget)
    probes = source.probes(rest + third, "rademacher")
    range_ = orthonormal_rows(source.product(probes[rest:]))  # [r, n]
    inside = (range_ * source.product(range_)).sum(dtype=torch.float64)
    outside = probes[:rest] - (probes[:rest] @ range_.mT) @ range_
    return mean(inside + (outside * source.product(outside)).sum(1, dtype=torch.float64))
