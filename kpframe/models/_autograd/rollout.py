"""``P`` and ``Phi`` of a model without structure, from one retained graph of its whole roll-out.

A leaf is added to every state. ``P*`` is then a reverse pass to the leaves, and ``P`` the reverse pass of
that reverse pass: no work in Python for each step, and no forward mode. The same graph reaches the
parameters, which gives ``G = dh/dtheta = P J`` and ``Phi = G G*`` in one pass each way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from kpframe.flow._neural_tangent import neural_tangent, total_jacobian
from kpframe.flow._parameter_jacobian import ParameterJacobian
from kpframe.flow._parameter_operator import ParameterOperator
from kpframe.flow._propagator import Propagator
from kpframe.flow._sharded_jacobian import local_jacobian, summed_over_ranks
from kpframe.flow._step_jacobian import StepJacobian
from kpframe.flow._trajectory import Trajectory
from kpframe.models._autograd.forms import AutogradParameterJacobian, AutogradStepJacobian
from kpframe.models._autograd.linearization import Linearization
from kpframe.models._autograd.recorded import Recorded
from kpframe.operators._base import Operator, SelfAdjointOperator
from kpframe.operators._elementary import IdentityOperator
from kpframe.operators._formula import PRODUCT


class _Stack(torch.autograd.Function):
    """``torch.stack(steps, dim=1)``, linear in the number of steps also when differentiated twice.

    The derivative of torch's own takes its cotangent apart step by step, and that of each step is a whole
    trajectory of zeros but one.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(*steps: torch.Tensor) -> torch.Tensor:
        return torch.stack(steps, dim=1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        """Keep nothing: the map is linear."""

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return gradients[0].unbind(1)


class RolloutGraph:
    """The graph of a roll-out, with a leaf added to each state and the parameters that learn."""

    def __init__(self, model: Recorded, trajectory: Trajectory) -> None:
        recipe = partial(_record, model, trajectory)
        self._linearization = Linearization.of(recipe, trajectory.states.device)
        self._learning = len(model.trainable())

    def jvp(self, q: torch.Tensor) -> torch.Tensor:
        """Return how the states ``[k, B, T, H]`` move with perturbations of all states, ``P q``."""
        return self._linearization.jvp([q, *[None] * self._learning])

    def vjp(self, r: torch.Tensor) -> torch.Tensor:
        """Return ``P* r``."""
        return self._linearization.vjp(r, only=slice(0, 1))[0]

    def parameter_jvp(self, tangents: Sequence[torch.Tensor | None], like: torch.Tensor) -> torch.Tensor:
        """Return ``G dtheta`` for tangents ``[k, *shape]``; zeros like a tensor where nothing learns."""
        return self._linearization.jvp([None, *tangents]) if self._learning else torch.zeros_like(like)

    def parameter_vjp(self, r: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return ``G* r``, a gradient ``[k, *shape]`` for each parameter that learns."""
        return self._linearization.vjp(r, only=slice(1, None)) if self._learning else ()


def _record(model: Recorded, trajectory: Trajectory) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    states = trajectory.states
    perturbations = torch.zeros_like(states, requires_grad=True)  # [B, T, H]
    h = trajectory.initial_state
    if not trajectory.given:  # it may depend on theta
        h = model.initial_state(len(states)).to(states)
    out = []
    for t, perturbation in enumerate(perturbations.unbind(1)):
        h = model._advance(trajectory, t, h) + perturbation
        out.append(h)
    states = _Stack.apply(*out)  # type: ignore[no-untyped-call]
    return states, (perturbations, *model.trainable().values())


class GraphPropagator(Propagator):
    """``P`` from the graph of the whole roll-out of the model and trajectory that ``A`` is made of.

    Args:
        A: a step Jacobian by automatic differentiation; the graph is recorded anew for it.
        name: how it prints.
        why: why the products are computed so.
    """

    A: AutogradStepJacobian

    def __init__(self, A: StepJacobian, *, name: str = "P", why: str = "asked for") -> None:
        super().__init__(A, name=name, why=why)
        self.graph = RolloutGraph(self.A.model, self.A.trajectory)

    @property
    def method(self) -> str:
        """Always ``"graph"``."""
        return "graph"

    @classmethod
    def fits(cls, A: StepJacobian) -> str | None:
        """Return why this form cannot take a step Jacobian, or None where it can."""
        if isinstance(A, AutogradStepJacobian):
            return None
        return (
            "it records the roll-out of a model, which no step Jacobian knows but one by automatic "
            "differentiation (linearize(model, x, method='graph') makes one of any model)"
        )

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return self.graph.jvp(q.reshape(-1, *self.domain.shape)).reshape(q.shape)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return self.graph.vjp(r.reshape(-1, *self.domain.shape)).reshape(r.shape)


@neural_tangent.register
def _(P: GraphPropagator, K: ParameterOperator) -> Operator:
    """Through the graph to the parameters and back, where K is of the same roll-out and has no metric."""
    reached = _reaches(P, K.jacobian) and isinstance(K.metric, IdentityOperator)
    return GraphTangent(P, K) if reached else P @ K @ P.T


@total_jacobian.register
def _(P: GraphPropagator, J: ParameterJacobian) -> Operator:
    """Through the graph to the parameters, where J is of the same roll-out."""
    local = local_jacobian(J)
    if _reaches(P, J) and isinstance(local, AutogradParameterJacobian):
        return GraphJacobian(P, local)
    return P @ J


def _reaches(P: GraphPropagator, J: Operator) -> bool:
    """Whether J is of the model and trajectory whose graph P keeps."""
    local = local_jacobian(J)
    return (
        isinstance(local, AutogradParameterJacobian)
        and local.model is P.A.model
        and local.trajectory is P.A.trajectory
    )


class GraphTangent(SelfAdjointOperator):
    """``Phi = G G*`` with ``G = P J`` from one graph; it prints as ``P K P*``."""

    def __init__(self, P: GraphPropagator, K: ParameterOperator) -> None:
        super().__init__(P.domain, P.domain, dtype=P.dtype, device=P.device)
        self.P, self.K = P, K

    @property
    def positive(self) -> bool:
        """Always true."""
        return True

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        rows, graph = q.reshape(-1, *self.domain.shape), self.P.graph
        found: Sequence[torch.Tensor | None] = graph.parameter_vjp(rows)
        if self.domain.shards is not None:
            found = summed_over_ranks(self.domain, found, rows.shape[:1])
        return graph.parameter_jvp(found, rows).reshape(q.shape)

    def _formula(self) -> tuple[str, int]:
        return f"{self.P.name} {self.K.name} {self.P.name}*", PRODUCT


class GraphJacobian(Operator):
    """``G = P J`` from one graph; it prints as that."""

    def __init__(self, P: GraphPropagator, J: AutogradParameterJacobian) -> None:
        super().__init__(J.domain, P.codomain, dtype=P.dtype, device=P.device)
        self.P, self.J = P, J

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        like = q.new_empty(math.prod(q.shape[:-1]), *self.codomain.shape)
        found = self.P.graph.parameter_jvp(self.J.tangents(q), like)
        return found.reshape(*q.shape[:-1], *self.codomain.shape)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        gradients = self.P.graph.parameter_vjp(r.reshape(-1, *self.codomain.shape))
        return self.codomain.sum(self.J.joined(gradients, r))

    def _formula(self) -> tuple[str, int]:
        return f"{self.P.name} {self.J.name}", PRODUCT
