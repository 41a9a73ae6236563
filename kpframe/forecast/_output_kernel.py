"""Theta, the tangent operator of the outputs: how the error at one output moves another.

With ``y = W h + b`` and gradient descent on the network and, where it learns, on the readout::

    d theta = -eta G* W* e,   dW = -eta Sum_bt e h^T,   db = -eta Sum_bt e                                (1)
    dy      = W dh + dW h + db = -eta Theta e                                                            (2)
    Theta   = W Phi W* + (h h^T + 1 1^T) (x) I                                                           (3)

``h h^T`` is over pairs of (trial, step); it is there where the readout's weight learns, ``1 1^T`` where its
bias does. (3) is the empirical neural tangent kernel of the outputs (Jacot, Gabriel, Hongler 2018).
"""

from __future__ import annotations

import torch

from kpframe.errors import (
    ArgumentError,
    DeviceError,
    DtypeError,
    ShapeError,
    UnsupportedError,
    mismatch,
    shown,
)
from kpframe.flow._flow import Flow, check_flow
from kpframe.operators._base import Operator
from kpframe.operators._isolation import in_isolation
from kpframe.operators._spaces import Space
from kpframe.tasks._readout import Readout


class OutputKernel(Operator):
    """``Theta = W Phi W* + (h h^T + 1 1^T) (x) I`` on ``(batch, time, output)``.

    Args:
        Phi: on the states.
        weight: ``[O, H]``, W.
        read: ``[B, T, n]``, the states that the readout reads, where its weight learns; None where not.
        bias: whether the readout's bias learns.
    """

    def __init__(self, Phi: Operator, weight: torch.Tensor, read: torch.Tensor | None, bias: bool) -> None:
        batch, time, _ = Phi.domain.shape
        space = Space.of(batch=batch, time=time, output=len(weight))
        super().__init__(space, space, dtype=Phi.dtype, device=Phi.device)
        self.Phi, self.weight, self.read, self.bias = Phi, weight, read, bias

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        moved = self.Phi._apply(q @ self.weight) @ self.weight.mT
        if self.read is not None:
            gradient = torch.einsum("...bto,btn->...on", q, self.read)
            moved = moved + torch.einsum("btn,...on->...bto", self.read, gradient)
        if self.bias:
            moved = moved + q.sum(dim=(-3, -2), keepdim=True)
        return moved

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return self._apply(r)

    @property
    def self_adjoint(self) -> bool:
        """Whether it is self-adjoint, as Phi is."""
        return self.Phi.self_adjoint

    @property
    def positive(self) -> bool:
        """Whether it is positive, as Phi is."""
        return self.Phi.positive

    def _formula(self) -> tuple[str, int]:
        return "Theta", 3


@in_isolation
def output_kernel(flow: Flow, readout: Readout) -> OutputKernel:
    """Return Theta, by which gradient descent moves the outputs: ``dy = -eta Theta e``.

    Args:
        flow: of the network.
        readout: its readout. Those of its parameters that require gradients learn, the others are fixed.

    Raises:
        ArgumentError, ShapeError, DtypeError, DeviceError: for a readout that does not fit the flow.
        UnsupportedError: for a flow whose trials ranks share: a loss is not yet that of all of them here.
    """
    check_flow(flow)
    shards = flow.P.domain.shards
    if shards is not None:
        raise UnsupportedError(
            mismatch("flow", "one whose trials one process holds", f"one of {shards}")
            + "; linearize(model, trials.inputs) without group= makes one"
        )
    if not isinstance(readout, Readout):
        raise ArgumentError(mismatch("readout", "a kpframe.Readout", shown(readout)))
    Phi, states = flow.Phi, flow.trajectory.states
    if readout.hidden_size != states.shape[-1]:
        expected = f"one of the flow's {states.shape[-1]} units"
        raise ShapeError(mismatch("readout", expected, f"one of {readout.hidden_size}"))
    if readout.weight.dtype != Phi.dtype:
        raise DtypeError(mismatch("readout", f"the flow's dtype {Phi.dtype}", readout.weight.dtype))
    if readout.weight.device != Phi.device:
        raise DeviceError(mismatch("readout", f"the flow's device {Phi.device}", readout.weight.device))
    weight = readout.full_weight().detach().clone()
    read = states[..., readout.hidden].clone() if readout.weight.requires_grad else None
    return OutputKernel(Phi, weight, read, readout.bias.requires_grad)
