"""The quantities that the core offers to studies: names, settings and factories; imports no torch."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import frozen

from kpframe.plugin._settings import setting
from kpframe.plugin._specs import QuantitySpec

_ROOM = "kpframe.study._quantities"


@frozen
class SpectrumSettings:
    """How many singular values, and how well."""

    k: int = setting(16, ge=1, help="leading singular values kept")
    tolerance: float = setting(1e-2, gt=0, help="residual of a singular vector, relative to its own value")


_OPERATORS = (
    ("effective_rank", "_ranks:EffectiveRank", None, "effective ranks of the operators"),
    ("trace", "_ranks:Trace", None, "traces of the operators"),
    ("norm", "_ranks:Norm", None, "Frobenius norms of the operators"),
    ("spectrum", "_spectra:Spectrum", SpectrumSettings, "leading singular values of the operators"),
    ("time_kernel", "_views:TimeKernel", None, "the operators over time: kernels and eigenfunctions"),
    ("trial_kernel", "_views:TrialKernel", None, "the operators over trials: kernels"),
    ("rules", "_rules:Rules", None, "learning rules beside the exact gradient"),
)
_NETWORK = (("scores", "_scores:Scores", None, "loss and accuracy, or R^2, on test trials"),)


def quantities() -> Iterator[QuantitySpec]:
    """Yield the core's quantities."""
    for name, factory, settings, summary in (*_NETWORK, *_OPERATORS):
        yield QuantitySpec(name, f"{_ROOM}.{factory}", settings=settings, summary=summary)
