"""``A``, the step Jacobian: block diagonal over trials and steps, ``A_t = df/dh_{t-1}``."""

from kpframe.step_jacobian.base import FORMS, StepJacobian
from kpframe.step_jacobian.changed import (
    MaskedStepJacobian,
    ScaledStepJacobian,
    SumStepJacobian,
    SwitchedStepJacobian,
)
from kpframe.step_jacobian.forms import DenseStepJacobian, DiagonalStepJacobian, EntryStepJacobian

FORMS.update(
    diagonal=DiagonalStepJacobian,
    entries=EntryStepJacobian,
    masked=MaskedStepJacobian,
    switched=SwitchedStepJacobian,
    sum=SumStepJacobian,
    scaled=ScaledStepJacobian,
)

__all__ = [
    "DenseStepJacobian",
    "DiagonalStepJacobian",
    "EntryStepJacobian",
    "MaskedStepJacobian",
    "ScaledStepJacobian",
    "StepJacobian",
    "SumStepJacobian",
    "SwitchedStepJacobian",
]
