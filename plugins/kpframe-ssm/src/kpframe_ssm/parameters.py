"""J of linear modes: ``dz' = dlambda o z + dBbar x``, with ``dlambda`` and ``dBbar`` by the chain rule.

What the parameters make of lambda and Bbar (a discretisation, a normalisation) is a small graph over
modes, recorded once. Along time there are elementwise products and two matrix products with the inputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Protocol

import torch
from attrs import frozen

from kpframe import Trajectory
from kpframe.flow import ParameterJacobian
from kpframe.models import Linearization
from kpframe.operators import Space
from kpframe_ssm.drives import Drive
from kpframe_ssm.modes import probes_first, time_outermost, turned, unflatten
from kpframe_ssm.step import ModeStepJacobian


@frozen(eq=False)
class Coefficients:
    """What one step ``z' = decay o z + drive(x)`` is made of, as functions of the parameters.

    Attributes:
        decay: lambda, complex ``[n]``.
        drive: what the inputs add.
    """

    decay: torch.Tensor
    drive: Drive

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """All of it in real numbers: lambda as ``[2, n]``, then what the drive is made of."""
        return (torch.stack([self.decay.real, self.decay.imag]), *self.drive.tensors)


class Modes(Protocol):
    """A model of linear modes."""

    def coefficients(self) -> Coefficients:
        """Return lambda and the drive, as functions of the parameters."""

    def trainable(self) -> dict[str, torch.nn.Parameter]:
        """Return the parameters by name."""


class ModeParameterJacobian(ParameterJacobian):
    """``J`` of linear modes, for the parameters theta of a model.

    Args:
        model: what makes lambda and the drive of its parameters; those that they do not depend on have zero
            columns.
        domain: the parameter space.
        trajectory: the roll-out.
        A: the step Jacobian.
        start: whether the initial state is the parameter ``h0``, which enters the first step through ``A``.
    """

    method = "modes"

    def __init__(
        self,
        model: Modes,
        domain: Space,
        trajectory: Trajectory,
        A: ModeStepJacobian,
        start: bool,
    ) -> None:
        super().__init__(domain, trajectory.space, dtype=A.dtype, device=A.device)
        self.A = A
        self._parts = {part.name: part for part in domain.axes[0].parts}
        self._names = [name for name in self._parts if name != "h0"]
        self._start = start
        with torch.no_grad():
            coefficients = model.coefficients()
        tensors = coefficients.tensors
        self._shapes = [tensor.shape for tensor in tensors]
        self._graph = Linearization.of(partial(_record, model, tuple(self._names)), self.device)
        self.drive = type(coefficients.drive)(*tensors[1:])
        self._x = trajectory.inputs.detach().transpose(0, 1).contiguous()  # zero at masked steps
        previous = trajectory.previous.detach().transpose(0, 1)
        if trajectory.mask is not None:
            previous = previous * trajectory.mask.T.unsqueeze(-1)
        self._previous = previous.unsqueeze(1).contiguous()  # [T, 1, B, 2 n]
        self._turned = turned(self._previous)

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        probes = q.shape[:-1]
        rows = q.reshape(math.prod(probes), q.shape[-1])
        flat = self._graph.jvp([self._part(rows, name) for name in self._names]).expand(len(rows), -1)
        pieces = torch.split(flat, [shape.numel() for shape in self._shapes], dim=1)
        decay, *drive = [unflatten(p, *shape) for p, shape in zip(pieces, self._shapes, strict=True)]
        out = self.drive.push(drive, self._x)
        out.addcmul_(decay[:, None, 0].repeat(1, 1, 2), self._previous)
        out.addcmul_(decay[:, None, 1].repeat(1, 1, 2), self._turned)
        out = probes_first(out, probes)
        if self._start:
            start = q[..., self._parts["h0"].slice].unsqueeze(-2)
            batch = self.codomain.shape[0]
            out[..., 0, :] += self.A.step(0, start.expand(*probes, batch, -1))
        return out

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        probes = r.shape[:-3]
        moved = time_outermost(r)
        decay = [unflatten((moved * h).sum((0, 2)), 2, -1).sum(1) for h in (self._previous, self._turned)]
        cotangents = [torch.stack(decay, dim=1), *self.drive.pull(moved, self._x)]
        flat = torch.cat([tensor.flatten(1) for tensor in cotangents], dim=1)
        gradients = dict(zip(self._names, self._graph.vjp(flat), strict=True))
        out = r.new_zeros(len(flat), self.domain.size)
        for name, gradient in gradients.items():
            out[:, self._parts[name].slice] = gradient.reshape(len(flat), -1)
        if self._start:
            start = self.A.step_adjoint(0, r[..., 0, :]).sum(-2)
            out[:, self._parts["h0"].slice] = start.reshape(len(flat), -1)
        return out.reshape(*probes, -1)

    def _part(self, rows: torch.Tensor, name: str) -> torch.Tensor:
        part = self._parts[name]
        return rows[:, part.slice].reshape(-1, *part.shape)


def _record(model: Modes, names: Sequence[str]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    theta = model.trainable()
    flat = torch.cat([tensor.flatten() for tensor in model.coefficients().tensors])
    return flat, [theta[name] for name in names]
