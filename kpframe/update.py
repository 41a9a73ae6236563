"""What a learning rule makes of the exact update: the composition ``g = M J* P* E Err``."""

from __future__ import annotations

from typing import Any

import torch
from attrs import evolve, frozen

from kpframe.errors import ShapeError, UnsupportedError, mismatch
from kpframe.flow import Flow
from kpframe.initial_path import restarted
from kpframe.isolation import in_isolation
from kpframe.operators.atoms import IdentityOperator
from kpframe.operators.base import ATOM, Operator
from kpframe.parameter import ParameterOperator
from kpframe.propagator import Propagator
from kpframe.readout import Readout
from kpframe.spaces import Space
from kpframe.step_jacobian import StepJacobian
from kpframe.trajectory import check_finite


@frozen(eq=False)
class Update:
    """The update ``g = M J* P* E Err`` and the flow ``dh = -eta P J g`` along a trajectory.

    A learning rule replaces parts of it: what flows through time, the parameter Jacobian that it takes on
    the way back, the metric on the parameters, the matrix through which errors come from the outputs. The
    ``P J`` by which parameters move the state is that of the flow, whatever the rule.

    Attributes:
        flow: the operators of the model along the trajectory.
        P: what the rule puts in the place of the propagator.
        K: ``J M J*`` with the rule's metric M, between the flow's own J.
        J: the parameter Jacobian on the way back; the flow's own unless the rule has another.
        readout: the readout through which Err comes, for rules that need it.
        feedback: ``[O, H]`` what stands in the place of the readout's weight, or None.
    """

    flow: Flow
    P: Operator
    K: ParameterOperator
    J: Operator
    readout: Readout | None = None
    feedback: torch.Tensor | None = None

    @classmethod
    def exact(cls, flow: Flow, readout: Readout | None = None) -> Update:
        """Return the update of backpropagation through time."""
        return cls(flow, flow.P, flow.K, flow.J, readout)

    @property
    def A(self) -> StepJacobian:
        """The step Jacobian of ``P``.

        Raises:
            UnsupportedError: when a rule has put something else than a scan over steps in its place.
        """
        return self.propagator.A

    @property
    def propagator(self) -> Propagator:
        """``P`` as a propagator of a step Jacobian; raises like ``A``."""
        if not isinstance(self.P, Propagator):
            raise UnsupportedError(
                f"{self.P!r} is no propagator of a step Jacobian any more, so it cannot be changed further; "
                "apply the rule that made it last (write it on the left of @)"
            )
        return self.P

    def replace(self, **parts: Any) -> Update:
        """Return the update with other parts: ``P``, ``K``, ``J``."""
        return evolve(self, **parts)

    def through(self, A: StepJacobian, name: str) -> Update:
        """Return the update with ``P[A] = (I - A Z)^{-1}`` for another step Jacobian.

        A trainable h_0 learns through its first step, too; see ``starting``.
        """
        valid = self.P.A.valid if isinstance(self.P, Propagator) else None
        A = A.keeping(valid)
        return evolve(self.starting(A), P=Propagator(A, name=name))

    def starting(self, A: StepJacobian) -> Update:
        """Return the update in which h_0, where it learns, enters the first state by ``A_1`` of another A.

        That path lies in J, not in P. ``through`` replaces both; a rule that puts something else than a
        propagator in the place of P says here what errors meet on their way to h_0.
        """
        return evolve(self, J=restarted(self.J, self.flow, A))

    @in_isolation
    def with_feedback(self, feedback: torch.Tensor) -> Update:
        """Return the update whose errors come through ``feedback`` ``[O, H]`` instead of the readout.

        Raises:
            UnsupportedError: without a readout.
            ShapeError, NonFiniteError: for a matrix that does not have the readout's shape.
        """
        weight = self._readout().full_weight()
        if tuple(feedback.shape) != tuple(weight.shape):
            expected = f"the readout's shape [output={weight.shape[0]}, hidden={weight.shape[1]}]"
            raise ShapeError(mismatch("feedback", expected, list(feedback.shape)))
        check_finite(feedback, "feedback")
        return evolve(self, feedback=feedback.detach().to(weight))

    @property
    @in_isolation
    def error_map(self) -> Operator:
        """``E`` on the state space: the identity, or ``B^T (W^T)^+``, which turns ``W^T e`` into ``B^T e``.

        The two agree for every output error e where the readout's rows are independent; with dependent
        ones (more outputs than units) E takes the e of least norm, and ``output_operator`` is exact.
        """
        P = self.flow.P
        if self.feedback is None:
            return IdentityOperator(P.domain, dtype=P.dtype, device=P.device)
        weight = self._readout().full_weight().detach()
        return _HiddenMap(self.feedback.mT @ torch.linalg.pinv(weight.mT), P.domain, P.domain, "E")

    @property
    def operator(self) -> Operator:
        """``M J* P* E``: error ``(batch, time, hidden)`` -> gradient ``(parameter,)``."""
        back = self._back
        return back if self.feedback is None else back @ self.error_map

    @property
    @in_isolation
    def output_operator(self) -> Operator:
        """``M J* P* B^T``: output error ``(batch, time, output)`` -> gradient ``(parameter,)``."""
        readout = self._readout()
        matrix = readout.full_weight().detach() if self.feedback is None else self.feedback
        domain = self.flow.P.domain
        batch, time, _ = domain.shape
        outputs = Space.of(batch=batch, time=time, output=len(matrix))
        name = "W*" if self.feedback is None else "B*"
        return self._back @ _HiddenMap(matrix.mT, outputs, domain, name)

    @property
    def flow_operator(self) -> Operator:
        """``Phi_rule = P J M J* P* E``, printed ``P K P*``: ``dh = -eta Phi_rule Err``."""
        P = self.flow.P
        if self.J is not self.K.jacobian:
            Phi = P @ self.K.jacobian @ self._back
        elif self.P is P and self.K is self.flow.K:
            Phi = self.flow.Phi
        else:
            Phi = P @ self.K @ self.P.T
        return Phi if self.feedback is None else Phi @ self.error_map

    @property
    def _back(self) -> Operator:
        return self.K.metric @ self.J.T @ self.P.T

    def _readout(self) -> Readout:
        if self.readout is None:
            raise UnsupportedError(mismatch("readout", "the readout through which the error comes", None))
        return self.readout


class _HiddenMap(Operator):
    """A matrix on the last axis, the same for every trial and step."""

    def __init__(self, matrix: torch.Tensor, domain: Space, codomain: Space, name: str) -> None:
        super().__init__(domain, codomain, dtype=matrix.dtype, device=matrix.device)
        self.matrix, self.name = matrix.detach(), name

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return q @ self.matrix.mT

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return r @ self.matrix

    def _formula(self) -> tuple[str, int]:
        return self.name, ATOM
