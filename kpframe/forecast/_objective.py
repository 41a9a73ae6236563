"""A loss as a function of the scored outputs: its value, slope and curvature, in float64.

For n scored steps, of all ranks, and O outputs (see ``kpframe.readout`` for the losses)::

    mse              e = c (y - target),   H = c I,                          c = 2 / (n O)               (1)
    cross entropy    e = (p - onehot) / n, H = (diag p - p p^T) / n at each step, p = softmax(y)         (2)

H is positive, and ``H = F F^T`` with ``F = (diag sqrt p - p sqrt(p)^T) / sqrt n`` for (2).
"""

from __future__ import annotations

import math
from functools import partial

import torch
from attrs import frozen

from kpframe.errors import ArgumentError, NonFiniteError, mismatch, shown
from kpframe.flow._flow import Dynamics, Flow, check_flow
from kpframe.operators._base import Operator
from kpframe.operators._spaces import Space
from kpframe.tasks._error import loss_part, output_error
from kpframe.tasks._readout import Readout
from kpframe.tasks._task import Loss, Trials

F64 = torch.float64


@frozen(eq=False)
class Objective:
    """The loss of outputs of a flow's trials.

    Attributes:
        kind: ``mse`` or ``cross_entropy``.
        trials: in float64.
        outputs: ``[B, T, O]``, of the network as it is, in float64.
        space: of the states; where ranks share its trials, each has its own here.
        count: number n of scored steps, of all ranks.
    """

    kind: Loss
    trials: Trials
    outputs: torch.Tensor
    space: Space
    count: int

    @classmethod
    def of(cls, flow: Flow, readout: Readout, trials: Trials, loss: Loss) -> Objective:
        """Return the loss of a flow's own trials.

        Raises:
            ArgumentError: for other trials than those the flow was made along, and as ``task_loss``.
        """
        check_flow(flow)
        space = flow.P.domain
        space.together(partial(_check_own, flow, trials))
        with torch.no_grad():
            outputs = readout(flow.trajectory.states)
        output_error(outputs, trials, loss, space)  # which checks them all
        count = int(space.sum(trials.scored.sum()))
        return cls(loss, trials.to(dtype=F64), outputs.to(F64), space, count)

    @property
    def start(self) -> torch.Tensor:  # [n, O]
        """The scored outputs of the network as it is."""
        return self.outputs[self.trials.scored]

    @property
    def targets(self) -> torch.Tensor:  # [n, O] numbers, [n] classes
        """The targets at scored steps."""
        return self.trials.targets[self.trials.scored]

    @property
    def curvature(self) -> float:
        """``c`` of the squared error, whose H is ``c I``."""
        return 2 / (self.count * self.outputs.shape[2])

    def loss(self, outputs: torch.Tensor) -> float:
        """Return the loss of outputs ``[B, T, O]``, of all ranks' trials."""
        return float(self.space.sum(loss_part(outputs, self.trials, self.kind, self.count)))

    def placed(self, scored: torch.Tensor) -> torch.Tensor:  # [..., n, O] -> [..., B, T, O]
        """Return values at scored steps at their places, zero elsewhere."""
        full = scored.new_zeros(*scored.shape[:-2], *self.outputs.shape)
        full[..., self.trials.scored, :] = scored
        return full

    def root(self, like: Operator) -> Operator:
        """Return F on the outputs, zero where nothing is scored, of the dtype of an operator."""
        scored = self.trials.scored.to(F64)[..., None]
        if self.kind == "mse":
            return _Root((scored * self.curvature**0.5).to(like.dtype), None, like)
        row = self.outputs.softmax(dim=2).sqrt()
        return _Root((row * scored / math.sqrt(self.count)).to(like.dtype), row.to(like.dtype), like)


class _Root(Operator):
    """``F q = s q - s r <r, q>``: s and r are ``[B, T, O]``, r with rows of length 1, or None for none."""

    def __init__(self, sizes: torch.Tensor, row: torch.Tensor | None, like: Operator) -> None:
        space: Space = like.domain
        super().__init__(space, space, dtype=like.dtype, device=like.device)
        self.sizes, self.row = sizes, row

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return self.sizes * self._across(q)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return self._across(self.sizes * r)

    def _across(self, q: torch.Tensor) -> torch.Tensor:
        if self.row is None:
            return q
        return q - self.row * (self.row * q).sum(dim=-1, keepdim=True)


def _check_own(flow: Flow, trials: Trials) -> None:
    """Raise unless trials are those that a flow was made along."""
    if not isinstance(trials, Trials):
        raise ArgumentError(mismatch("trials", "kpframe.Trials", shown(trials)))
    own = flow.trajectory
    expected = "the trials that the flow was made along"
    if own.inputs.shape != trials.inputs.shape:
        got = f"inputs of shape {list(trials.inputs.shape)} for {list(own.inputs.shape)}"
        raise ArgumentError(mismatch("trials", expected, got))
    if own.inputs.device != trials.inputs.device or own.inputs.dtype != trials.inputs.dtype:
        got = f"inputs on {trials.inputs.device} in {trials.inputs.dtype}"
        raise ArgumentError(
            mismatch("trials", f"{expected}, on {own.inputs.device} in {own.inputs.dtype}", got)
        )
    exist = torch.ones_like(trials.mask) if own.mask is None else own.mask
    if not torch.equal(exist, trials.mask):
        remedy = "; linearize(model, trials.inputs, mask=trials.mask) makes one"
        raise ArgumentError(mismatch("trials", expected, "another mask") + remedy)
    if not torch.equal(own.inputs[exist], trials.inputs[exist]):
        raise ArgumentError(mismatch("trials", expected, "other inputs"))


def check_finite_outputs(outputs: torch.Tensor, rate: float, stable: float, space: Space) -> None:
    """Raise ``NonFiniteError`` where a forecast has left the range of numbers."""
    if space.any(not bool(outputs.isfinite().all())):
        raise NonFiniteError(
            f"learning_rate: expected at most the largest stable one, about {stable:.4g}, for so many "
            f"updates, got {rate:.4g}, with which the forecast diverges beyond the range of numbers"
        )


def learned(model: Dynamics, readout: Readout) -> list[torch.nn.Parameter]:
    """Return what learns, of the network and of the readout."""
    return [*model.trainable().values(), *(p for p in readout.parameters() if p.requires_grad)]
