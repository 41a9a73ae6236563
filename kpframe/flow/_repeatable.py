"""Whether a scan can be recorded once and replayed: an open function of the step Jacobian."""

from __future__ import annotations

from functools import singledispatch

from kpframe.flow._step_jacobian import (
    CombinedStepJacobian,
    DenseStepJacobian,
    DiagonalStepJacobian,
    EntryStepJacobian,
    ScaledStepJacobian,
    StepJacobian,
)
from kpframe.operators._scale import is_far


@singledispatch
def repeatable(A: StepJacobian) -> bool:
    """Return whether a scan of A is the same operations on the same memory each time, and reads no number.

    Such a scan can be recorded once and replayed, as the propagator ``cuda_graph`` does. False unless it is
    registered for the class of a step Jacobian: ``@repeatable.register``.

    Args:
        A: the step Jacobian.
    """
    return False


@repeatable.register
def _(A: DenseStepJacobian | DiagonalStepJacobian | EntryStepJacobian) -> bool:
    return True


@repeatable.register
def _(A: CombinedStepJacobian) -> bool:
    return all(map(repeatable, A.parts))


@repeatable.register
def _(A: ScaledStepJacobian) -> bool:
    return repeatable(A.inner) and not is_far(A.scalar)  # for such a number a product looks how large it is
