"""``dh_0/dtheta``, and J with another path from h_0 into the first step: a rule's, as it replaces A."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import torch
from attrs import frozen

from kpframe.errors import UnsupportedError
from kpframe.flow._eligibilities import eligibilities
from kpframe.flow._flow import Dynamics, Flow
from kpframe.flow._parameter_jacobian import ParameterJacobian, WeightGroup
from kpframe.flow._sharded_jacobian import local_jacobian, summed_over_ranks
from kpframe.flow._step_jacobian import StepJacobian
from kpframe.models._autograd.linearization import Linearization, recording
from kpframe.operators._base import Operator
from kpframe.operators._spaces import PARAMETER, Part, Space


@frozen(eq=False)
class InitialJacobian:
    """``H_0 = dh_0/dtheta``: how the initial state depends on parameters.

    Attributes:
        linearization: of ``h_0`` ``[B, H]`` by the parameters in ``parts``.
        parts: where these lie on the parameter axis.
        alone: whether they act through h_0 alone, so that J has no other column of theirs.
    """

    linearization: Linearization
    parts: tuple[Part, ...]
    alone: bool

    @classmethod
    def of(cls, flow: Flow) -> InitialJacobian | None:
        """Return how the initial state of a flow depends on its parameters; None where it does not."""
        model, trajectory = flow.model, flow.trajectory
        if trajectory.given:
            return None
        theta = model.trainable()
        with recording(trajectory.states.device, "h_0"):
            start = model.initial_state(len(trajectory.states))
            reached = _reached(start, theta)
            parts = tuple(part for part in flow.J.domain[PARAMETER].parts if part.name in reached)
            if not parts:
                return None
            t = torch.zeros(1, dtype=torch.int64, device=start.device) if model.time_varying else None
            row = trajectory.inputs[:1, 0].clone(), start.detach()[:1].clone(), t
            read = _reached(model.step(*row) if model.time_varying else model.step(*row[:2]), theta)
        recipe = partial(_record, model, len(trajectory.states), tuple(part.name for part in parts))
        linearization = Linearization.of(recipe, trajectory.states.device)
        return cls(linearization, parts, alone=not read & reached)

    def forward(self, q: torch.Tensor) -> torch.Tensor:  # [..., M] -> [..., B, H]
        """Return ``H_0 q``."""
        rows = q.reshape(-1, q.shape[-1])
        moved = self.linearization.jvp([rows[:, p.slice].reshape(-1, *p.shape) for p in self.parts])
        return moved.reshape(*q.shape[:-1], *moved.shape[1:])

    def backward(self, r: torch.Tensor) -> list[torch.Tensor]:  # [..., B, H] -> [..., size] for each part
        """Return ``H_0* r`` for each of the parameters."""
        found = self.linearization.vjp(r.reshape(-1, *r.shape[-2:]))
        return [g.reshape(*r.shape[:-2], part.size) for g, part in zip(found, self.parts, strict=True)]


class RuleParameterJacobian(ParameterJacobian):
    """``J`` in which ``h_0`` enters the first state by a rule's ``A'_1``, in the place of the flow's ``A_1``.

    Args:
        inner: J, which has ``A_1 dh_0/dtheta`` in its first step.
        start: how h_0 depends on parameters.
        A: the step Jacobian in whose first step it enters.
        own: the one in whose first step it enters J.
        over_ranks: whether its adjoint adds up over ranks, where trials are sharded, as that of J does.
    """

    name = "J[h0]"

    def __init__(
        self,
        inner: Operator,
        start: InitialJacobian,
        A: StepJacobian,
        own: StepJacobian,
        *,
        over_ranks: bool = True,
    ) -> None:
        super().__init__(inner.domain, inner.codomain, dtype=inner.dtype, device=inner.device)
        self.inner, self.start, self.A, self.own = inner, start, A, own
        self._over_ranks = over_ranks
        self.method = getattr(inner, "method", self.method)

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        moved = self.start.forward(q)
        entering = self.A.step(0, moved)
        if self.start.alone:
            q = q.clone()
            for part in self.start.parts:
                q[..., part.slice] = 0
        else:
            entering = entering - self.own.step(0, moved)
        out = self.inner._apply(q)
        out[..., 0, :] += entering
        return out

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        space = self.codomain if self._over_ranks else None
        return self.through_first_step(self.inner._apply_adjoint(r), r[..., 0, :], space)

    def weight_groups(self, names: Iterable[str]) -> Sequence[WeightGroup]:
        """Return the weights of J, which are not concerned."""
        return self._parameter_jacobian("weight_groups").weight_groups(names)

    def with_gains(self, values: torch.Tensor, *, name: str) -> ParameterJacobian:
        """Return J with given values in the place of its gains; a trainable initial state is left out."""
        return self._parameter_jacobian("with_gains").with_gains(values, name=name)

    def _parameter_jacobian(self, method: str) -> ParameterJacobian:
        if not isinstance(self.inner, ParameterJacobian):
            raise UnsupportedError(self._siteless(method))
        return self.inner

    def through_first_step(
        self, gradient: torch.Tensor, r: torch.Tensor, space: Space | None = None
    ) -> torch.Tensor:
        """Return ``J* r`` from that of the inner J ``[..., M]`` and r in the first step ``[..., B, H]``.

        With a space that is sharded, from all ranks; without, what comes from this rank's trials.
        """
        back = self.A.step_adjoint(0, r)
        if not self.start.alone:
            back = back - self.own.step_adjoint(0, r)
        gradient = gradient.clone()
        found: Sequence[torch.Tensor | None] = self.start.backward(back)
        if space is not None and space.shards is not None:
            found = summed_over_ranks(space, found, back.shape[:-2])
        for part, value in zip(self.start.parts, found, strict=True):
            assert value is not None  # each part is reached
            if self.start.alone:
                gradient[..., part.slice] = value
            else:
                gradient[..., part.slice] += value
        return gradient


@local_jacobian.register
def _(J: RuleParameterJacobian) -> Operator:
    return RuleParameterJacobian(local_jacobian(J.inner), J.start, J.A, J.own, over_ranks=False)


@eligibilities.register
def _(J: RuleParameterJacobian, r: torch.Tensor) -> torch.Tensor:  # [B, T, H] -> [B, T, M]
    """Return ``J_t* r_t`` of each trial and step: those of the inner J, but for h_0 in the first step."""
    out = eligibilities(J.inner, r)
    each = torch.eye(len(r), dtype=r.dtype, device=r.device).unsqueeze(-1)
    out[:, 0] = J.through_first_step(out[:, 0], each * r[:, 0])  # one trial in each vector
    return out


def _record(
    model: Dynamics, batch: int, names: tuple[str, ...]
) -> tuple[torch.Tensor, list[torch.nn.Parameter]]:
    theta = model.trainable()
    return model.initial_state(batch), [theta[name] for name in names]


def through_initial_path(J: Operator, flow: Flow, A: StepJacobian) -> Operator:
    """Return J with ``h_0`` entering by the first step of A; J itself where h_0 does not learn."""
    inner = J.inner if isinstance(J, RuleParameterJacobian) else J
    start = None if A is flow.A else InitialJacobian.of(flow)
    return inner if start is None else RuleParameterJacobian(inner, start, A, flow.A)


def _reached(output: torch.Tensor, theta: dict[str, torch.nn.Parameter]) -> set[str]:
    """Return the parameters that a tensor depends on."""
    if not output.requires_grad:
        return set()
    found = torch.autograd.grad(output.sum(), tuple(theta.values()), retain_graph=True, allow_unused=True)
    return {name for name, g in zip(theta, found, strict=True) if g is not None}
