"""XNysTrace: the leave-one-out Nystrom estimator for positive operators.

E. N. Epperly, J. A. Tropp, R. J. Webber, "XTrace: making the most of every sample in stochastic trace
estimation", SIAM J. Matrix Anal. Appl. 45 (2024), the estimator XNysTrace with normalised test vectors. One
product a probe; the best choice for positive operators.
"""

from __future__ import annotations

from kpframe.errors import ArgumentError, mismatch
from kpframe.spectra._numerics.matvecs import Sampler
from kpframe.spectra._numerics.nystrom import Sketch, trace_samples
from kpframe.spectra._numerics.ranks import any_entry
from kpframe.spectra._numerics.statistics import LeaveOneOut, only_mean


def xnystrace(source: Sampler, budget: int) -> tuple[float, float]:
    """Return the mean of one leave-one-out sample a product; the operator must be positive."""
    if not source.op.positive:
        raise ArgumentError(
            mismatch(
                "method", "xtrace, hutchpp or hutchinson for an operator not known positive", "'xnystrace'"
            )
        )
    probes, products = source.products(budget, "gaussian")
    space = source.op.domain
    if not any_entry(products, space):  # random probes: the operator is zero
        return 0.0, 0.0
    # tr A = tr N_i + tr R_i, with N_i the Nystrom approximation from all probes but i, and what it misses,
    # R_i = A - N_i, sampled by probe i, which is independent of N_i: each of the samples is unbiased.
    sketch = Sketch.of(probes, products, space)
    samples = (trace_samples(each)[..., None] for each in sketch.approximations())
    value, stderr = LeaveOneOut.of(*samples, correlation=sketch.correlation).estimate(only_mean)
    return value, max(stderr, sketch.rounding)
