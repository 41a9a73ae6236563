"""The curvature of a loss as an operator on the state space."""

from __future__ import annotations

import torch

from kpframe import Flow, Operator, Readout, Space
from kpframe.errors import ArgumentError, DeviceError, DtypeError, ShapeError, mismatch
from kpframe.operators import SelfAdjointOperator

LOSSES = ("mse", "cross_entropy")


class OutputCurvature(SelfAdjointOperator):
    """``C = W^T H W`` at each step: the Hessian of a loss by the states, through a linear readout.

    H, the Hessian by the outputs, is ``diag(a) - p p^T`` at each step.

    Args:
        weight: ``[O, H]``, the readout's.
        a: ``[B, T, O]``.
        p: ``[B, T, O]``, or None for zero.
        space: the state space.
    """

    name = "C"

    def __init__(self, weight: torch.Tensor, a: torch.Tensor, p: torch.Tensor | None, space: Space) -> None:
        super().__init__(space, space, dtype=weight.dtype, device=weight.device)
        self.weight, self.a, self.p = weight, a, p

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        y = q @ self.weight.mT
        bent = self.a * y
        if self.p is not None:
            bent = bent - self.p * (self.p * y).sum(dim=-1, keepdim=True)
        return bent @ self.weight

    @property
    def positive(self) -> bool:
        """Always true: both losses are convex in the outputs."""
        return True


def loss_curvature(
    flow: Flow, readout: Readout, kind: str, scored: torch.Tensor | None = None
) -> OutputCurvature:
    """Return the Hessian of the loss by the states, ``W^T H W``, along a flow's trajectory.

    With n scored steps and O outputs: ``H = 2 I / (n O)`` for ``"mse"`` and ``(diag(p) - p p^T) / n`` with
    ``p = softmax(y)`` for ``"cross_entropy"``, as ``kpframe.readout.task_loss`` has them; zero elsewhere.
    Both are the Fisher matrix of the outputs' distribution, too: normal with variance n O / 2, and
    categorical.

    Args:
        flow: its trajectory's states are where the outputs are taken.
        readout: from the states to the outputs.
        kind: ``"mse"`` or ``"cross_entropy"``.
        scored: bool ``[B, T]``, the steps that the loss counts; None for all that are not padded.

    Raises:
        ArgumentError: for an unknown kind, or no scored step.
        ShapeError, DtypeError, DeviceError: for another mask, or a readout that does not fit the states.
    """
    if kind not in LOSSES:
        raise ArgumentError(mismatch("kind", "'mse' or 'cross_entropy'", repr(kind)))
    states, space = flow.trajectory.states, flow.P.domain
    with torch.no_grad():
        outputs = readout(states)
    mask = flow.trajectory.mask if scored is None else scored
    if mask is None:
        mask = torch.ones(space.shape[:2], dtype=torch.bool, device=states.device)
    if tuple(mask.shape) != space.shape[:2]:
        raise ShapeError(mismatch("scored", f"shape {list(space.shape[:2])}", list(mask.shape)))
    if mask.dtype != torch.bool:
        raise DtypeError(mismatch("scored", "dtype torch.bool", mask.dtype))
    if mask.device != states.device:
        raise DeviceError(mismatch("scored", f"device {states.device}", mask.device))
    count = int(space.sum(mask.sum()))
    if count == 0:
        raise ArgumentError(mismatch("scored", "at least one scored step", "none"))
    on = mask.unsqueeze(-1).to(states)
    weight = readout.full_weight().detach()
    if kind == "mse":
        return OutputCurvature(weight, (2 / (count * len(weight)) * on).expand_as(outputs), None, space)
    p = outputs.softmax(dim=-1) * on
    return OutputCurvature(weight, p / count, p / count**0.5, space)


def check_curvature(C: Operator, space: Space) -> None:
    """Raise ``ArgumentError`` unless an operator is a positive one on the state space."""
    if (C.domain, C.codomain) != (space, space):
        raise ArgumentError(mismatch("curvature", f"an operator on ({space})", f"one from ({C.domain})"))
    if not C.positive:
        raise ArgumentError(mismatch("curvature", "an operator tagged positive", f"{C!r}"))
