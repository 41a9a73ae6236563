"""Learning rules as operator compositions.

A rule maps the instantaneous error ``Err = d loss / d h`` to a parameter gradient,
``g = M J* P_rule* Err``; along it the state moves by ``dh = -eta P J g = -eta Phi_rule Err``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from kpframe.flow import Flow
from kpframe.operators.base import Operator
from kpframe.parameter import ParameterOperator


class LearningRule(ABC):
    """A learning rule: what it puts in the place of P, and which metric it puts on the parameters.

    Backpropagation through time replaces nothing. A subclass says what flows through time
    (``propagator``) and, where it treats parameters differently, gives its own
    ``parameter_operator``; the compositions follow.
    """

    #: Whether the update is linear in the error; a rule that is not pretends no operator.
    linear = True

    @abstractmethod
    def propagator(self, flow: Flow) -> Operator:
        """Return the rule's ``P_rule``, an operator on the state space."""

    def parameter_operator(self, flow: Flow) -> ParameterOperator:
        """Return the rule's ``K = J M J*``; that of the flow by default (``M = I``)."""
        return flow.K

    def update_operator(self, flow: Flow) -> Operator:
        """Return ``M J* P_rule*``: error ``(batch, time, hidden)`` -> gradient ``(parameter,)``."""
        K = self.parameter_operator(flow)
        return K.metric @ K.jacobian.T @ self.propagator(flow).T

    def flow_operator(self, flow: Flow) -> Operator:
        """Return ``Phi_rule = P J M J* P_rule*``, printed ``P K P_rule*``: ``dh = -eta Phi_rule Err``."""
        return flow.P @ self.parameter_operator(flow) @ self.propagator(flow).T

    def gradient(self, flow: Flow, err: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the rule's gradient by parameter name, for an error ``[B, T, H]``.

        Raises:
            ShapeError, DtypeError, DeviceError: when ``err`` does not lie in the state space.
        """
        flow.P.domain.check(err, "err", dtype=flow.P.dtype, device=flow.P.device)
        flat = self.update_operator(flow)(err)
        return {part.name: flat[part.slice].reshape(part.shape) for part in flow.J.domain.axes[0].parts}

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"
