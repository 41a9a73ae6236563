"""What a learning rule makes of the exact update: the composition ``g = M J* P* E Err``."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from attrs import evolve, frozen

from kpframe.errors import ArgumentError, ShapeError, SpaceMismatchError, UnsupportedError, mismatch, shown
from kpframe.flow._flow import Flow, check_flow
from kpframe.flow._parameter_operator import ParameterOperator
from kpframe.flow._propagator import Propagator, ScanPropagator
from kpframe.flow._step_jacobian import StepJacobian
from kpframe.operators._base import Operator
from kpframe.operators._elementary import IdentityOperator
from kpframe.operators._finite import check_finite
from kpframe.operators._isolation import in_isolation
from kpframe.operators._scale import norm
from kpframe.operators._spaces import HIDDEN, OUTPUT, Axis, Space
from kpframe.rules._initial_jacobian import InitialJacobian, through_initial_path
from kpframe.tasks._readout import Readout


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
        """Return the update of backpropagation through time along ``flow``, errors through ``readout``."""
        check_flow(flow)
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

    @property
    def initial_state_parameters(self) -> tuple[str, ...]:
        """Names of the parameters that h_0 depends on; for these, what a rule does to ``A_1`` counts, too."""
        start = InitialJacobian.of(self.flow)
        return () if start is None else tuple(part.name for part in start.parts)

    def replace(
        self, *, P: Operator | None = None, K: ParameterOperator | None = None, J: Operator | None = None
    ) -> Update:
        """Return the update with other parts in the place of those that are given.

        Args:
            P: on the state space.
            K: ``J M J*`` with the rule's metric; J there is the flow's own.
            J: parameter space -> state space, on the way back.

        Raises:
            ArgumentError: for what is no operator, or no parameter operator.
            SpaceMismatchError: for an operator between other spaces.
        """
        update = self
        if P is not None:
            update = evolve(update, P=_part("P", P, self.flow.P))
        if K is not None:
            if not isinstance(K, ParameterOperator):
                raise ArgumentError(mismatch("K", "a parameter operator (K.with_metric gives one)", shown(K)))
            update = evolve(update, K=_part("K", K, self.flow.K))
        if J is not None:
            update = evolve(update, J=_part("J", J, self.flow.J))
        return update

    def through(self, A: StepJacobian, name: str) -> Update:
        """Return the update with ``P[A] = (I - A Z)^{-1}`` for another step Jacobian, in the form of P.

        A trainable h_0 learns through its first step, too; see ``starting``. P prints as ``name``.
        """
        if isinstance(self.P, Propagator):
            P = self.P.with_step(A.keeping(self.P.A.valid), name=name)
        else:
            P = ScanPropagator(A, name=name)
        return evolve(self.starting(A), P=P)

    def starting(self, A: StepJacobian) -> Update:
        """Return the update in which h_0, where it learns, enters by the first step of another ``A``.

        That path lies in J, not in P. ``through`` replaces both; a rule that puts something else than a
        propagator in the place of P says here what errors meet on their way to h_0.
        """
        return evolve(self, J=through_initial_path(self.J, self.flow, A))

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
    def takes_hidden_errors(self) -> bool:
        """Whether what the rule feeds back is a function of the hidden error ``W^T e``.

        It is where no matrix stands in the place of W, and where the readout's rows are independent. With
        dependent ones (more outputs than units) several output errors e give one hidden error, and ``B^T e``
        differs: ``output_operator`` and ``output_flow_operator`` are exact then, too.
        """
        if self.feedback is None:
            return True
        return norm(self.feedback.mT - self._substitute() @ self._weight().mT) <= self._slack(self.feedback)

    @property
    @in_isolation
    def error_map(self) -> Operator:
        """``E`` on the state space: the identity, or ``B^T (W^T)^+``, which turns ``W^T e`` into ``B^T e``.

        Raises:
            UnsupportedError: where a hidden error does not determine the error that is fed back.
        """
        P = self.flow.P
        if self.feedback is None:
            return IdentityOperator(P.domain, dtype=P.dtype, device=P.device)
        if not self.takes_hidden_errors:
            outputs, width = self._readout().weight.shape
            raise UnsupportedError(
                "readout: expected independent rows, so that a hidden error W^T e determines the B^T e that "
                f"is fed back, got {outputs} outputs of {width} units, of rank "
                f"{int(torch.linalg.matrix_rank(self._weight()))}; give the output error e itself "
                "(output_err=kpframe.readout.output_error(...)), or take output_operator, which is exact"
            )
        return _HiddenMap(self._substitute(), P.domain, P.domain, "E")

    @in_isolation
    def incoming(
        self, err: torch.Tensor | None = None, output_err: torch.Tensor | None = None
    ) -> torch.Tensor:  # [B, T, H]
        """Return the error that the rule sends back, for a hidden error or, exactly, for one of the outputs.

        Args:
            err: ``[B, T, H]``, ``W^T e``, the loss's derivative by the states through the readout.
            output_err: ``[B, T, O]``, e itself, the loss's derivative by the outputs; instead of err.

        Raises:
            ArgumentError: for both or neither; for a hidden error that comes through no readout, where the
                rule puts another matrix in the readout's place.
            ShapeError, DtypeError, DeviceError, NonFiniteError: for an error that lies in another space, or
                holds NaN or infinity.
            UnsupportedError: for an output error without the readout, and as ``error_map``.
        """
        P = self.flow.P
        if (err is None) == (output_err is None):
            got = "neither" if err is None else "both"
            raise ArgumentError(mismatch("err, output_err", "one of the two", got))
        if output_err is not None:
            back = self._from_outputs
            back.domain.check(output_err, "output_err", dtype=P.dtype, device=P.device)
            P.domain.together(partial(check_finite, output_err, "output_err", back.domain))
            return back(output_err)
        assert err is not None  # one of the two is there
        P.domain.check(err, "err", dtype=P.dtype, device=P.device)
        P.domain.together(partial(check_finite, err, "err", P.domain))
        if self.feedback is None:
            return err
        E = self.error_map
        weight = self._weight()
        shards = P.domain.shards
        outside, size = norm(err - err @ torch.linalg.pinv(weight) @ weight, shards), norm(err, shards)
        if outside > math.sqrt(torch.finfo(err.dtype).eps) * size:
            raise ArgumentError(
                "err: expected an error that comes through the readout, err = e @ W, where a rule feeds back "
                f"B^T e, got one of which {outside / size:.3g} of its norm does not; give the output "
                "error e itself (output_err=...)"
            )
        return E(err)

    @property
    def back(self) -> Operator:
        """``M J* P*``: what the rule makes of the error that it sends back."""
        return self.K.metric @ self.J.T @ self.P.T

    @property
    def moved(self) -> Operator:
        """``P J M J* P*``, printed ``P K P*``: how the states move along that."""
        P = self.flow.P
        if self.J is not self.K.jacobian:
            return P @ self.K.jacobian @ self.back
        if self.P is P and self.K is self.flow.K:
            return self.flow.Phi
        return P @ self.K @ self.P.T

    @property
    def operator(self) -> Operator:
        """``M J* P* E``: error ``(batch, time, hidden)`` -> gradient ``(parameter,)``; raises as E."""
        return self.back if self.feedback is None else self.back @ self.error_map

    @property
    def output_operator(self) -> Operator:
        """``M J* P* B^T``: output error ``(batch, time, output)`` -> gradient ``(parameter,)``."""
        return self.back @ self._from_outputs

    @property
    def flow_operator(self) -> Operator:
        """``Phi_rule = P J M J* P* E``, printed ``P K P*``: ``dh = -eta Phi_rule Err``; raises as E."""
        return self.moved if self.feedback is None else self.moved @ self.error_map

    @property
    def output_flow_operator(self) -> Operator:
        """``P J M J* P* B^T``: output error ``(batch, time, output)`` -> how the states move."""
        return self.moved @ self._from_outputs

    @property
    @in_isolation
    def _from_outputs(self) -> Operator:
        matrix = self._weight() if self.feedback is None else self.feedback
        domain = self.flow.P.domain
        outputs = domain.replace(HIDDEN, Axis(OUTPUT, len(matrix)))
        return _HiddenMap(matrix.mT, outputs, domain, "W*" if self.feedback is None else "B*")

    def _substitute(self) -> torch.Tensor:  # [H, H]
        assert self.feedback is not None  # callers have looked
        solve: torch.Tensor = torch.linalg.pinv(self._weight().mT)
        return self.feedback.mT @ solve

    @staticmethod
    def _slack(like: torch.Tensor) -> float:
        """Return the norm that counts as rounding beside a tensor."""
        return math.sqrt(torch.finfo(like.dtype).eps) * norm(like)

    def _weight(self) -> torch.Tensor:
        return self._readout().full_weight().detach()

    def _readout(self) -> Readout:
        if self.readout is None:
            raise UnsupportedError(mismatch("readout", "the readout through which the error comes", None))
        return self.readout


def _part(name: str, part: Operator, own: Operator) -> Any:
    """Return a part of an update, refused unless it lies between the spaces of the flow's own."""
    if not isinstance(part, Operator):
        raise ArgumentError(mismatch(name, "an operator", shown(part)))
    if (part.domain, part.codomain) != (own.domain, own.codomain):
        expected = f"an operator from ({own.domain}) to ({own.codomain})"
        raise SpaceMismatchError(mismatch(name, expected, f"one from ({part.domain}) to ({part.codomain})"))
    return part


class _HiddenMap(Operator):
    """A matrix on the last axis, the same for every trial and step."""

    def __init__(self, matrix: torch.Tensor, domain: Space, codomain: Space, name: str) -> None:
        super().__init__(domain, codomain, dtype=matrix.dtype, device=matrix.device)
        self.matrix, self.name = matrix.detach(), name

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return q @ self.matrix.mT

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return r @ self.matrix
