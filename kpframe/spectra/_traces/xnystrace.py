"""XNysTrace: the leave-one-out Nystrom estimator for positive operators.

E. N. Epperly, J. A. Tropp, R. J. Webber, "XTrace: making the most of every sample in stochastic trace
estimation", SIAM J. Matrix Anal. Appl. 2024. One product a probe; the best choice for positive operators.
"""

from __future__ import annotations

from kpframe.errors import ArgumentError, mismatch
from kpframe.spectra._numerics.nystrom import Sketch, trace_samples
from kpframe.spectra._numerics.products import Sampler
from kpframe.spectra._numerics.statistics import LeaveOneOut, identity


def measure(source: Sampler, budget: int) -> tuple[float, float]:
    """Return the mean of one leave-one-out sample a product; the operator must be positive."""
    if not source.op.positive:
        raise ArgumentError(
            mismatch(
                "method", "xtrace, hutchpp or hutchinson for an operator not known positive", "'xnystrace'"
            )
        )
    probes, products = source.products(budget, "gaussian")
    if not products.any():  # random probes: the operator is zero
        return 0.0, 0.0
    sketch = Sketch.of(probes, products)
    views = sketch.views()
    samples = (trace_samples(view)[..., None] for view in views)
    value, stderr = LeaveOneOut.of(*samples, looks=sketch.looks).estimate(identity)
    return value, max(stderr, sketch.rounding)
