"""A and J of any model by automatic differentiation, and the dense blocks of A."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from math import prod

import torch

from kpframe.flow._parameter_jacobian import ParameterJacobian
from kpframe.flow._step_jacobian import StepJacobian
from kpframe.flow._trajectory import Trajectory
from kpframe.models._autograd.linearization import Linearization, recording
from kpframe.models._autograd.recorded import Recorded
from kpframe.models._few_rows import saved_by_a_row


def graph_bytes(model: Recorded, trajectory: Trajectory, method: str) -> int:
    """Return about how many bytes a form by automatic differentiation needs for a step of a trial.

    What one more row makes autograd keep, for the step and twice as much for its reverse pass; for P and
    for J. Beside that the states of the roll-out, and blocks twice while they are formed.
    """
    kept = 3 * (1 if method == "dense" else 2) * saved_by_a_row(model, trajectory)
    entries = 4 + (2 * model.width if method == "dense" else 0)
    return kept + trajectory.states.itemsize * model.width * entries


def step_blocks(model: Recorded, trajectory: Trajectory) -> torch.Tensor:  # [B, T, H, H]
    """Return the dense ``A_t`` of any model by H reverse passes over all trials and steps at once."""
    batch, time, hidden = trajectory.space.shape
    with recording(trajectory.states.device, "A"):
        previous = trajectory.previous.detach().reshape(batch * time, hidden).requires_grad_()
        out = Linearization(_all_rows(model, trajectory, previous), (previous,))
    unit = torch.eye(hidden, dtype=previous.dtype, device=previous.device)
    rows = out.vjp(unit.unsqueeze(1).expand(hidden, batch * time, hidden))[0]  # [H, B T, H]
    return rows.movedim(0, 1).reshape(batch, time, hidden, hidden)


def _all_rows(model: Recorded, trajectory: Trajectory, previous: torch.Tensor) -> torch.Tensor:  # [B T, H]
    """Return the next states of all trials and steps, each from its own ``h_{t-1}`` in ``previous``."""
    batch, time, _ = trajectory.space.shape
    t = trajectory.indices.repeat(batch) if model.time_varying else None
    mask = None if trajectory.mask is None else trajectory.mask.reshape(-1)
    return model._rows(trajectory.inputs.reshape(batch * time, -1), previous, t, mask)


class AutogradStepJacobian(StepJacobian):
    """``A`` of any model: one retained graph for each step, recorded when the step is first needed."""

    method = "autograd"

    def __init__(self, model: Recorded, trajectory: Trajectory) -> None:
        states = trajectory.states
        super().__init__(trajectory.space, dtype=states.dtype, device=states.device)
        self.model, self.trajectory = model, trajectory
        self._recorded: dict[int, Linearization] = {}

    def step(self, t: int, v: torch.Tensor) -> torch.Tensor:
        """Return ``A_t v``."""
        return self._at(t).jvp((v.reshape(-1, *v.shape[-2:]),)).reshape(v.shape)

    def step_adjoint(self, t: int, v: torch.Tensor) -> torch.Tensor:
        """Return ``A_t* v``."""
        return self._at(t).vjp(v.reshape(-1, *v.shape[-2:]))[0].reshape(v.shape)

    def _at(self, t: int) -> Linearization:
        if t not in self._recorded:
            recipe = partial(_record_step, self.model, self.trajectory, t)
            self._recorded[t] = Linearization.of(recipe, self.device)
        return self._recorded[t]


def _record_step(
    model: Recorded, trajectory: Trajectory, t: int
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    source = trajectory.initial_state if t == 0 else trajectory.states[:, t - 1]
    h = source.detach().clone().requires_grad_()
    return model._advance(trajectory, t, h), (h,)


class AutogradParameterJacobian(ParameterJacobian):
    """``J`` of any model: one retained graph of all steps at once, each from its own ``h_{t-1}``.

    It is recorded with the first product.
    """

    method = "autograd"

    def __init__(self, model: Recorded, trajectory: Trajectory) -> None:
        states = trajectory.states
        super().__init__(model.parameter_space, trajectory.space, dtype=states.dtype, device=states.device)
        self._parts = self.domain.axes[0].parts
        self.model, self.trajectory = model, trajectory

    @cached_property
    def _linearization(self) -> Linearization:
        return Linearization.of(partial(_record_steps, self.model, self.trajectory), self.device)

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        if not self._parts:
            return q.new_zeros(*q.shape[:-1], *self.codomain.shape)
        return self._linearization.jvp(self.tangents(q)).reshape(*q.shape[:-1], *self.codomain.shape)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        gradients = self._linearization.vjp(r.reshape(-1, *self.codomain.shape))
        return self.joined(gradients, r)

    def tangents(self, q: torch.Tensor) -> list[torch.Tensor]:
        """Return parameter vectors ``[..., M]`` as a tensor ``[k, *shape]`` for each parameter."""
        count = prod(q.shape[:-1])  # not -1: of an empty parameter torch cannot tell it
        rows = q.reshape(count, q.shape[-1])
        return [rows[:, part.slice].reshape(count, *part.shape) for part in self._parts]

    def joined(self, gradients: Sequence[torch.Tensor], r: torch.Tensor) -> torch.Tensor:
        """Return gradients ``[k, *shape]`` as parameter vectors ``[..., M]``, probes as those of r."""
        if not gradients:
            return r.new_zeros(*r.shape[:-3], 0)
        flat = [gradient.reshape(len(gradient), prod(gradient.shape[1:])) for gradient in gradients]
        joined = torch.cat(flat, dim=-1)
        return joined.reshape(*r.shape[:-3], joined.shape[-1])


def _record_steps(model: Recorded, trajectory: Trajectory) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    batch, time, hidden = trajectory.space.shape
    previous = trajectory.previous.detach()
    if not trajectory.given:  # h_0 may depend on theta
        start = model.initial_state(batch).to(previous)
        previous = torch.cat([start.unsqueeze(1), previous[:, 1:]], dim=1)
    out = _all_rows(model, trajectory, previous.reshape(batch * time, hidden))
    return out.reshape(batch, time, hidden), tuple(model.trainable().values())
