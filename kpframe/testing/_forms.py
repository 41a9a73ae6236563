"""Cases of the forms of P and K: what they are made of, and references that share no code with them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from attrs import evolve, field, frozen

from kpframe.errors import UnsupportedError
from kpframe.flow._parameter_jacobian import ParameterJacobian
from kpframe.flow._parameter_operator import GroupProjector, ParameterOperator
from kpframe.flow._propagator import Propagator
from kpframe.flow._step_jacobian import DenseStepJacobian, DiagonalStepJacobian, StepJacobian
from kpframe.operators import DiagonalOperator, IdentityOperator, MatrixOperator, Operator
from kpframe.operators._spaces import BATCH, Space
from kpframe.testing._cases import FlowCase
from kpframe.testing._problem import Problem
from kpframe.testing._residual import NotApplicable
from kpframe.testing._sources import create, show
from kpframe.testing._values import values

#: What A a propagator is made of: the model's, by automatic differentiation, written by hand, or changed.
STEPS = ("own", "autograd", "dense", "diagonal", "constant", "masked", "scaled", "sum", "switched")

#: What J a parameter operator is made of: the model's, by automatic differentiation, or a matrix.
JACOBIANS = ("own", "autograd", "matrix")

#: Metrics on the parameters; the last one is not self-adjoint.
METRICS = ("identity", "diagonal", "projector", "positive", "general")

#: Kinds of values that stay themselves when A is filled with them; others are normal.
_FILLED = ("ones", "one-hot", "tiny")


class MatrixJacobian(ParameterJacobian):
    """J from its matrix ``[B T H, M]``."""

    method = "matrix"

    def __init__(self, matrix: torch.Tensor, domain: Space, codomain: Space) -> None:
        super().__init__(domain, codomain, dtype=matrix.dtype, device=matrix.device)
        self._inner = MatrixOperator(matrix, domain, codomain)

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return self._inner._apply(q)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return self._inner._apply_adjoint(r)


@frozen
class PropagatorCase:
    """A form of propagator on the step Jacobian of a flow.

    Attributes:
        propagator: a registered name, ``"package.module:Class"``, a class or a factory.
        settings: what it takes beside A.
        step: which step Jacobian, one of ``STEPS``.
        flow: the model and trajectory that it belongs to.
    """

    propagator: Any = field(repr=show)
    settings: Mapping[str, Any]
    step: str
    flow: FlowCase

    def A(self, salt: int = 0, dtype: torch.dtype = torch.float64) -> StepJacobian:
        """Return the step Jacobian; another ``salt`` is another one of the same form."""
        flow = evolve(self.flow, seed=self.flow.seed + salt) if salt else self.flow
        return step_jacobian(self.step, _problem(flow, dtype), flow.kind)

    def make(self, A: StepJacobian) -> Propagator:
        """Return the propagator of a step Jacobian; raises ``UnsupportedError`` where it does not fit."""
        made: Propagator = create("propagator", self.propagator, self.settings, A)
        return made

    def build(self, dtype: torch.dtype = torch.float64) -> Propagator:
        """Return the propagator, made anew; raises ``NotApplicable`` where it does not fit."""
        try:
            return self.make(self.A(dtype=dtype))
        except UnsupportedError as error:
            raise NotApplicable(str(error)) from error

    @cached_property
    def P(self) -> Propagator:
        """What is built, kept: an identity and its partner look at the same draw."""
        return self.build()

    @cached_property
    def blocks(self) -> torch.Tensor:  # [B, T, H, H]
        """The step Jacobian written out, by products of single steps."""
        return blocks_of(self.P.A)

    def vector(self, space: Space, salt: int = 0, probes: tuple[int, ...] = ()) -> torch.Tensor:
        """Return a normal vector ``[*probes, *space]``."""
        return values((*probes, *space.shape), self.flow.seed + 1000 + salt)


@frozen
class ParameterOperatorCase:
    """A form of parameter operator on the parameter Jacobian of a flow.

    Attributes:
        parameter_operator: a registered name, ``"package.module:Class"``, a class or a factory.
        settings: what it takes beside J.
        jacobian: which parameter Jacobian, one of ``JACOBIANS``.
        flow: the model and trajectory that it belongs to.
        metric: one of ``METRICS``.
    """

    parameter_operator: Any = field(repr=show)
    settings: Mapping[str, Any]
    jacobian: str
    flow: FlowCase
    metric: str = "identity"

    def J(self, dtype: torch.dtype = torch.float64) -> ParameterJacobian:
        """Return the parameter Jacobian."""
        return parameter_jacobian(self.jacobian, _problem(self.flow, dtype))

    def make(self, J: ParameterJacobian) -> ParameterOperator:
        """Return the operator of a parameter Jacobian; raises ``UnsupportedError`` where it does not fit."""
        made: ParameterOperator = create("parameter_operator", self.parameter_operator, self.settings, J)
        return made

    def build(self, dtype: torch.dtype = torch.float64) -> ParameterOperator:
        """Return the operator, made anew, with no metric; raises ``NotApplicable`` where it does not fit."""
        try:
            return self.make(self.J(dtype))
        except UnsupportedError as error:
            raise NotApplicable(str(error)) from error

    @cached_property
    def K(self) -> ParameterOperator:
        """What is built, kept."""
        return self.build()

    @cached_property
    def matrix(self) -> torch.Tensor:  # [B T H, M]
        """J written out."""
        return matrix(self.K.jacobian)

    @cached_property
    def M(self) -> Operator:
        """The metric."""
        return metric_of(self.metric, self.K.jacobian, self.flow.seed)

    @cached_property
    def K_M(self) -> ParameterOperator:
        """The operator with the metric."""
        return self.K if self.metric == "identity" else self.K.with_metric(self.M)

    def vector(self, space: Space, salt: int = 0, probes: tuple[int, ...] = ()) -> torch.Tensor:
        """Return a normal vector ``[*probes, *space]``."""
        return values((*probes, *space.shape), self.flow.seed + 1000 + salt)


# -- what forms are made of ----------------------------------------------------------------------------------


def step_jacobian(step: str, problem: Problem, kind: str = "normal") -> StepJacobian:
    """Return a step Jacobian on the state space of a flow; see ``STEPS``."""
    own, seed = problem.flow.A, problem.seed
    if step == "own":
        return own
    if step == "autograd":
        return problem.twin.A
    batch, time, hidden = own.domain.shape
    kind, dtype = kind if kind in _FILLED else "normal", own.dtype
    shards, total = own.domain.shards, own.domain[BATCH].total
    trials = slice(None) if shards is None else slice(shards.start, shards.start + batch)  # drawn for all
    blocks = 0.7 * values((total, time, hidden, hidden), seed + 301, kind, dtype)[trials]
    dense = DenseStepJacobian(blocks, own.domain, name="B")
    if step == "dense":
        return dense
    if step == "diagonal":
        return DiagonalStepJacobian(
            values((total, time, hidden), seed + 302, kind, dtype)[trials], own.domain
        )
    if step == "constant":
        row = values((hidden,), seed + 303, kind, dtype)
        return DiagonalStepJacobian(row.expand(own.domain.shape).contiguous(), own.domain)
    generator = torch.Generator().manual_seed(seed + 304)
    chosen = (torch.rand((total, time), generator=generator) < 0.6)[trials]
    if step == "masked":
        return own.masked(chosen)
    if step == "switched":
        return own.switched(dense, chosen)
    changed = own + dense if step == "sum" else -0.5 * own
    assert isinstance(changed, StepJacobian)  # sums and multiples are step Jacobians again
    return changed


def parameter_jacobian(jacobian: str, problem: Problem) -> ParameterJacobian:
    """Return a parameter Jacobian between the spaces of a flow; see ``JACOBIANS``."""
    if jacobian == "autograd":
        return problem.twin.J
    own = problem.flow.J
    if jacobian == "own":
        return own
    shape = (own.codomain.size, own.domain.size)
    return MatrixJacobian(values(shape, problem.seed + 311, "normal", own.dtype), own.domain, own.codomain)


def metric_of(metric: str, J: ParameterJacobian, seed: int) -> Operator:
    """Return a metric on the parameters of J; see ``METRICS``."""
    space, dtype, device = J.domain, J.dtype, J.device
    if metric == "identity":
        return IdentityOperator(space, dtype=dtype, device=device)
    if metric == "projector":
        names = [part.name for part in space.axes[0].parts]
        return GroupProjector(space, names[: max(1, len(names) // 2)], dtype=dtype, device=device)
    drawn = values((space.size, space.size), seed + 321, "normal", dtype)
    if metric == "diagonal":
        return DiagonalOperator(drawn.diagonal().square() + 0.1, space)
    general = MatrixOperator(drawn, space, space)
    return general @ general.T if metric == "positive" else general


def examples(kind: str) -> list[Any]:
    """Return a few step Jacobians, or parameter Jacobians, to see whether settings go together."""
    flow = FlowCase("kpframe.testing._toys:Elman", {"input_size": 1, "hidden_size": 2}, time=2)
    make, names = (step_jacobian, STEPS) if kind == "propagator" else (parameter_jacobian, JACOBIANS)
    return [make(name, flow.problem) for name in names]


def _problem(flow: FlowCase, dtype: torch.dtype) -> Problem:
    return flow.problem if dtype == torch.float64 else flow.single()


# -- references ----------------------------------------------------------------------------------------------


def matrix(op: Operator) -> torch.Tensor:
    """Return the matrix of an operator, by its products with the basis."""
    basis = torch.eye(op.domain.size, dtype=op.dtype).reshape(-1, *op.domain.shape)
    return op(basis).reshape(op.domain.size, -1).mT


def blocks_of(A: StepJacobian) -> torch.Tensor:  # [B, T, H, H]
    """Return a step Jacobian written out, by its products of single steps."""
    batch, time, hidden = A.domain.shape
    unit = torch.eye(hidden, dtype=A.dtype).unsqueeze(1).expand(hidden, batch, hidden).contiguous()
    columns = [A.step(t, unit) for t in range(time)]  # [H, B, H] each
    return torch.stack(columns).permute(2, 0, 3, 1).contiguous()


def shifted(blocks: torch.Tensor) -> torch.Tensor:  # [B T H, B T H]
    """Return ``A Z`` as a matrix: ``A_t`` from step t - 1 to step t."""
    batch, time, hidden, _ = blocks.shape
    out = blocks.new_zeros(batch, time, hidden, batch, time, hidden)
    for b in range(batch):
        for t in range(1, time):
            out[b, t, :, b, t - 1] = blocks[b, t]
    return out.reshape(batch * time * hidden, -1)


def inverse_of(blocks: torch.Tensor) -> torch.Tensor:  # [B T H, B T H]
    """Return ``(I - A Z)^{-1}``, the sum of all powers of ``A Z``."""
    AZ = shifted(blocks)
    total = term = torch.eye(len(AZ), dtype=AZ.dtype)
    for _ in range(1, blocks.shape[1]):
        term = AZ @ term
        total = total + term
    return total


def transition_of(blocks: torch.Tensor, t: int, s: int | None) -> torch.Tensor:  # [B H, B H]
    """Return ``A_t ... A_{s+1}`` for each trial, block diagonal; from the initial state where s is None."""
    batch, _, hidden, _ = blocks.shape
    product = torch.eye(hidden, dtype=blocks.dtype).expand(batch, hidden, hidden)
    for step in range(-1 if s is None else s, t):
        product = blocks[:, step + 1] @ product
    out: torch.Tensor = torch.block_diag(*product)  # type: ignore[no-untyped-call]
    return out
