"""A rule's metric where there already is one."""

from __future__ import annotations

from kpframe import Operator
from kpframe.flow import GroupProjector, ParameterOperator
from kpframe.operators import Composition, IdentityOperator


def scaled(K: ParameterOperator, root: Operator, square: Operator, name: str) -> ParameterOperator:
    """Return ``J S M S J*``: K with its metric M in the coordinates that a symmetric S stretches.

    ``theta = S phi`` gives the metric ``S S`` where M is the identity, and keeps any other self-adjoint and
    positive. Parameters that a restriction froze stay so.

    Args:
        K: the operator with the metric that is there.
        root: ``S``, self-adjoint; it mixes no parameters with others.
        square: ``S S``, in one operator.
        name: what the result prints as.
    """
    metric = K.metric
    if isinstance(metric, IdentityOperator):
        return K.with_metric(square, name=name)
    if isinstance(metric, GroupProjector):
        return K.with_metric(metric @ square @ metric, name=name)
    return K.with_metric(restricted(K, root @ metric @ root), name=name)


def restricted(K: ParameterOperator, metric: Operator) -> Operator:
    """Return another metric in the place of K's between the projectors that freeze parameters, if any."""
    own = K.metric
    outer = own.factors[0] if isinstance(own, Composition) else own
    return outer @ metric @ outer if isinstance(outer, GroupProjector) else metric
