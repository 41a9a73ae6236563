"""P, J, G and Phi of a trajectory in segments: one pass over the segments for each factor's direction.

``Phi q = G M G* q`` goes back through all segments once, adding up ``J* P* q`` on the way, and forward once,
``P J`` of what came: no tensor as long as the trajectory is held beside q and the product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch

from kpframe.errors import whole
from kpframe.flow._eligibilities import eligibilities
from kpframe.flow._neural_tangent import neural_tangent, total_jacobian
from kpframe.flow._parameter_jacobian import ParameterJacobian, WeightGroup
from kpframe.flow._parameter_operator import ParameterOperator, ProductParameterOperator
from kpframe.flow._propagator import Propagator, TruncatedPropagator, WindowedPropagator
from kpframe.flow._segments import SegmentedStepJacobian, Segments
from kpframe.flow._step_jacobian import StepJacobian
from kpframe.operators._base import Operator
from kpframe.operators._elementary import IdentityOperator
from kpframe.operators._formula import PRODUCT

#: Makes the propagator of a segment of its step Jacobian.
Form = Callable[[StepJacobian], Propagator]


class SegmentedPropagator(Propagator):
    """``P`` of a trajectory in segments, each by the form that the model or ``form`` gives it.

    Args:
        A: the step Jacobian in segments.
        form: makes P of each segment; that of the model when left out.
        name: how it prints.
        why: why the products are computed so.
    """

    A: SegmentedStepJacobian

    def __init__(
        self, A: StepJacobian, *, form: Form | None = None, name: str = "P", why: str = "asked for"
    ) -> None:
        super().__init__(A, name=name, why=why)
        self.form = form
        self._method = f"{self.at(0).method} in segments"

    @property
    def method(self) -> str:
        """How the products are computed: the form of each segment's P."""
        return self._method

    @classmethod
    def fits(cls, A: StepJacobian) -> str | None:
        """Return why this form cannot take a step Jacobian, or None where it can."""
        if isinstance(A, SegmentedStepJacobian):
            return None
        return "it goes through segments, which linearize(model, x, keep='sqrt') makes"

    @property
    def settings(self) -> dict[str, Any]:
        """The form of each segment."""
        return {"form": self.form}

    def at(self, place: int) -> Propagator:
        """Return the propagator of a segment, whose steps count from 0."""
        P = self.A.segments.operators(place)[0]
        if self.form is not None:
            P = self.form(P.A)
        return P.with_step(self.A.at(place)) if self.A.makes else P

    def truncated(self, window: int) -> Operator:
        """Return ``P_k = Sum_{j<k} (A Z)^j`` with ``k = window`` terms: one pass in which k vectors ride."""
        window, time = whole(window, "window"), self.A.steps
        if 1 < window < time:
            starts = [max(0, t - window + 1) for t in range(time)]
            return WindowedPropagator(self.A, starts, name=f"P_{window}")
        return TruncatedPropagator(self, window)

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return self.forward(q.shape, lambda place, steps: q[..., steps, :].clone())

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(r)

        def take(place: int, steps: slice, found: torch.Tensor) -> None:
            out[..., steps, :] = found

        self.backward(r, take)
        return out

    def forward(self, shape: torch.Size, source: Callable[[int, slice], torch.Tensor]) -> torch.Tensor:
        """Return ``P q`` ``[..., B, T, H]``; ``source`` gives a segment of q at a time, to be written to."""
        out = torch.empty(shape, dtype=self.dtype, device=self.device)
        last: torch.Tensor | None = None
        for place, steps in enumerate(self.A.segments.bounds):
            own = source(place, steps)
            if last is not None:
                own[..., 0, :] += self.A.at(place).step(0, last)
            moved = self.at(place)._apply(own)
            out[..., steps, :] = moved
            last = moved[..., -1, :]
        return out

    def backward(self, r: torch.Tensor, take: Callable[[int, slice, torch.Tensor], None]) -> None:
        """Hand on ``P* r`` a segment at a time, the last one first."""
        first: torch.Tensor | None = None
        for place, steps in reversed([*enumerate(self.A.segments.bounds)]):
            own = r[..., steps, :].clone()
            if first is not None:
                own[..., -1, :] += first
            found = self.at(place)._apply_adjoint(own)
            take(place, steps, found)
            first = self.A.at(place).step_adjoint(0, found[..., 0, :]) if place else None


class SegmentedParameterJacobian(ParameterJacobian):
    """``J`` of a trajectory in segments.

    Args:
        segments: of the trajectory.
        values: ``[B, T, H]`` that stand in the place of its gains; None for its own.
        name: how it prints.
    """

    def __init__(self, segments: Segments, values: torch.Tensor | None = None, *, name: str = "J") -> None:
        self.segments, self.values, self.name = segments, values, name
        first = self.at(0)
        super().__init__(first.domain, segments.space, dtype=first.dtype, device=first.device)
        self.method = f"{first.method} in segments"

    def at(self, place: int) -> ParameterJacobian:
        """Return the parameter Jacobian of a segment."""
        J = self.segments.operators(place)[1].jacobian
        if self.values is None:
            return J
        return J.with_gains(self.values[:, self.segments.bounds[place]], name=self.name)

    def weight_groups(self, names: Iterable[str]) -> Sequence[WeightGroup]:
        """Return the weights among named parameters; what all steps read is joined when it is asked for."""
        names = tuple(names)
        groups = self.at(0).weight_groups(names)
        return [_JoinedGroup(self, names, place, group) for place, group in enumerate(groups)]

    def with_gains(self, values: torch.Tensor, *, name: str) -> ParameterJacobian:
        """Return J with given values ``[B, T, H]`` in the place of its gains; see ``ParameterJacobian``."""
        self.codomain.check(values, "values", dtype=self.dtype, device=self.device)
        return SegmentedParameterJacobian(self.segments, values.clone(), name=name)

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        out = q.new_empty(*q.shape[:-1], *self.codomain.shape)
        for place, steps in enumerate(self.segments.bounds):
            out[..., steps, :] = self.at(place)._apply(q)
        return out

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        total = r.new_zeros(*r.shape[:-3], self.domain.size)
        for place, steps in reversed([*enumerate(self.segments.bounds)]):
            total += self.at(place)._apply_adjoint(r[..., steps, :])
        return total


class _JoinedGroup:
    """A weight group of a trajectory in segments: what it reads and its gains, of all steps."""

    def __init__(
        self, J: SegmentedParameterJacobian, names: Sequence[str], place: int, first: WeightGroup
    ) -> None:
        self._J, self._asked, self._place = J, names, place
        self.targets, self.units, self.per_step, self.names = (
            first.targets,
            first.units,
            first.per_step,
            first.names,
        )
        self.weight, self.gradients = first.weight, first.gradients  # neither reads a step

    @property
    def z(self) -> torch.Tensor:  # [T, B, m]
        """What is read."""
        return torch.cat([group.z for group in self._groups()])

    def gain(self) -> torch.Tensor:  # [G n, T, B, H]
        """Return ``D_t = dh_t / du_t``."""
        return torch.cat([group.gain() for group in self._groups()], dim=1)

    def _groups(self) -> Iterator[WeightGroup]:
        for place in range(len(self._J.segments)):
            yield self._J.at(place).weight_groups(self._asked)[self._place]


@eligibilities.register
def _(J: SegmentedParameterJacobian, r: torch.Tensor) -> torch.Tensor:  # [B, T, H] -> [B, T, M]
    """Return ``J_t* r_t`` of each trial and step, segment by segment."""
    found = [eligibilities(J.at(place), r[:, steps]) for place, steps in enumerate(J.segments.bounds)]
    return torch.cat(found, dim=1)


class SegmentedTotalJacobian(Operator):
    """``G = P J`` in one pass over the segments each way; it prints as that."""

    def __init__(self, P: SegmentedPropagator, J: SegmentedParameterJacobian) -> None:
        super().__init__(J.domain, P.codomain, dtype=P.dtype, device=P.device)
        self.P, self.J = P, J

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        shape = torch.Size((*q.shape[:-1], *self.codomain.shape))
        return self.P.forward(shape, lambda place, steps: self.J.at(place)._apply(q))

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        total = r.new_zeros(*r.shape[:-3], self.domain.size)

        def take(place: int, steps: slice, found: torch.Tensor) -> None:
            total.add_(self.J.at(place)._apply_adjoint(found))

        self.P.backward(r, take)
        return total

    def _formula(self) -> tuple[str, int]:
        return f"{self.P.name} {self.J.name}", PRODUCT


class SegmentedTangent(Operator):
    """``Phi = G M G*`` in two passes over the segments; it prints as ``P K P*``."""

    def __init__(self, P: SegmentedPropagator, K: ParameterOperator, J: SegmentedParameterJacobian) -> None:
        super().__init__(P.domain, P.domain, dtype=P.dtype, device=P.device)
        self.P, self.K, self.G = P, K, SegmentedTotalJacobian(P, J)

    @property
    def self_adjoint(self) -> bool:
        """Whether the metric is self-adjoint."""
        return self.K.self_adjoint

    @property
    def positive(self) -> bool:
        """Whether the metric is positive."""
        return self.K.positive

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return self._through(self.K.metric, q)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return self._through(self.K.metric.T, r)

    def _through(self, metric: Operator, q: torch.Tensor) -> torch.Tensor:
        gradient = self.G._apply_adjoint(q)
        if not isinstance(metric, IdentityOperator):
            gradient = metric._apply(gradient)
        return self.G._apply(gradient)

    def _formula(self) -> tuple[str, int]:
        return f"{self.P.name} {self.K.name} {self.P.name}*", PRODUCT


@neural_tangent.register
def _(P: SegmentedPropagator, K: ParameterOperator) -> Operator:
    """Segment by segment, where K is of the same ones and the plain product."""
    J = K.jacobian
    plain = type(K) is ProductParameterOperator
    if plain and isinstance(J, SegmentedParameterJacobian) and J.segments is P.A.segments:
        return SegmentedTangent(P, K, J)
    return P @ K @ P.T


@total_jacobian.register
def _(P: SegmentedPropagator, J: ParameterJacobian) -> Operator:
    """Segment by segment, where J is of the same ones."""
    if isinstance(J, SegmentedParameterJacobian) and J.segments is P.A.segments:
        return SegmentedTotalJacobian(P, J)
    return P @ J
