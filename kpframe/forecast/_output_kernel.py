"""Theta, the tangent operator of the outputs: how the error at one output moves another.

With ``y = W h + b`` and gradient descent on the network and, where it learns, on the readout::

    d theta = -eta G* W* e,   dW = -eta Sum_bt e h^T,   db = -eta Sum_bt e                                (1)
    dy      = W dh + dW h + db = -eta Theta e                                                            (2)
    Theta   = W Phi W* + (h h^T + 1 1^T) (x) I                                                           (3)

``h h^T`` is over pairs of (trial, step); it is there where the readout's weight learns, ``1 1^T`` where its
bias does. (3) is the empirical neural tangent kernel of the outputs (Jacot, Gabriel, Hongler 2018).
"""

from __future__ import annotations

from functools import partial

import torch

from kpframe.errors import (
    ArgumentError,
    DeviceError,
    DtypeError,
    ShapeError,
    mismatch,
    shown,
)
from kpframe.flow._flow import Flow, check_flow
from kpframe.operators._base import Operator
from kpframe.operators._isolation import in_isolation
from kpframe.operators._shards import digest_of
from kpframe.operators._spaces import BATCH, OUTPUT, TIME, Axis, Space
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
        space = Space((Phi.domain[BATCH], Phi.domain[TIME], Axis(OUTPUT, len(weight))))
        super().__init__(space, space, dtype=Phi.dtype, device=Phi.device)
        self.Phi, self.weight, self.read, self.bias = Phi, weight, read, bias

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        moved = self.Phi._apply(q @ self.weight) @ self.weight.mT
        if self.read is not None:
            gradient = self.domain.sum(torch.einsum("...bto,btn->...on", q, self.read))
            moved = moved + torch.einsum("btn,...on->...bto", self.read, gradient)
        if self.bias:
            moved = moved + self.domain.sum(q.sum(dim=(-3, -2), keepdim=True))
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

    Of a flow whose trials ranks share it acts on this rank's, and is that of all trials: a product adds up
    over ranks what reaches the network and what reaches the readout.

    Args:
        flow: of the network.
        readout: its readout. Those of its parameters that require gradients learn, the others are fixed.

    Raises:
        ArgumentError, ShapeError, DtypeError, DeviceError: for a readout that does not fit the flow.
        RankError: for a readout that is not the same on all ranks.

    Source: Jacot, Gabriel, Hongler 2018.
    """
    check_flow(flow)
    flow.P.domain.agree("readout", _described(readout))
    flow.P.domain.together(partial(_check, flow, readout))
    Phi, states = flow.Phi, flow.trajectory.states
    weight = readout.full_weight().detach().clone()
    read = states[..., readout.hidden].clone() if readout.weight.requires_grad else None
    return OutputKernel(Phi, weight, read, readout.bias.requires_grad)


def _described(readout: object) -> str:
    """Return what must be the same of a readout on all ranks."""
    if not isinstance(readout, Readout):
        return shown(readout)
    learned = [name for name, parameter in readout.named_parameters() if parameter.requires_grad]
    weights = " ".join(digest_of(parameter)[:8] for parameter in readout.parameters())
    return f"Readout({readout.extra_repr()}, {readout.weight.dtype}) of {weights}, learning {learned}"


def _check(flow: Flow, readout: object) -> None:
    """Raise unless a readout fits a flow."""
    if not isinstance(readout, Readout):
        raise ArgumentError(mismatch("readout", "a kpframe.Readout", shown(readout)))
    states = flow.trajectory.states
    if readout.hidden_size != states.shape[-1]:
        expected = f"one of the flow's {states.shape[-1]} units"
        raise ShapeError(mismatch("readout", expected, f"one of {readout.hidden_size}"))
    if readout.weight.dtype != states.dtype:
        raise DtypeError(mismatch("readout", f"the flow's dtype {states.dtype}", readout.weight.dtype))
    if readout.weight.device != states.device:
        raise DeviceError(mismatch("readout", f"the flow's device {states.device}", readout.weight.device))
