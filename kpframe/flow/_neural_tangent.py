"""``G = dh/dtheta``, the total derivative of the states, and ``Phi = G M G*``, the neural tangent operator.

A parameter moves the state of a step by J, and P carries that on to later ones: ``G = P J``. Gradient descent
moves the states by ``dh = -eta Phi Err`` with ``Phi = G M G* = P (J M J*) P* = P K P*``. A form of P that
reaches the parameters by itself says how by ``neural_tangent.register`` and ``total_jacobian.register``.
"""

from __future__ import annotations

from functools import singledispatch

from kpframe.flow._parameter_jacobian import ParameterJacobian
from kpframe.flow._parameter_operator import ParameterOperator
from kpframe.operators._base import Operator


@singledispatch
def neural_tangent(P: Operator, K: ParameterOperator) -> Operator:
    """Return ``Phi = P K P*`` on the state space, ``(batch, time, hidden)``.

    Args:
        P: the propagator, or what a rule puts in its place.
        K: the parameter operator, on the same space.
    """
    return P @ K @ P.T


@singledispatch
def total_jacobian(P: Operator, J: ParameterJacobian) -> Operator:
    """Return ``G = P J``, parameter space -> state space: how the states move with the parameters.

    Args:
        P: the propagator.
        J: the parameter Jacobian, into the same space.
    """
    return P @ J
