"""The named, registered form of the reductions: an object that makes a smaller operator of an operator."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from kpframe.operators.base import Index, Operator


class Reducer(ABC):
    """A reduction over named axes: operator -> smaller operator.

    Congruences ``R op R*`` (:class:`Mean`, :class:`Sum`, :class:`Select`, :class:`Project`) and the
    contraction :class:`PartialTrace` are different things under different names.
    """

    @abstractmethod
    def reduce(self, operator: Operator) -> Operator:
        """Return the reduced operator; raises :class:`~kpframe.errors.AxisError` for unknown axes."""

    def __call__(self, operator: Operator) -> Operator:
        """Return the reduced operator."""
        return self.reduce(operator)


class Mean(Reducer):
    """The average over both copies of the axes: ``<op>_axes``."""

    def __init__(self, *axes: str) -> None:
        self.axes = axes

    def reduce(self, operator: Operator) -> Operator:
        """Return ``R op R*`` with the mean ``R``."""
        return operator.mean(*self.axes)


class Sum(Reducer):
    """The sum over both copies of the axes."""

    def __init__(self, *axes: str) -> None:
        self.axes = axes

    def reduce(self, operator: Operator) -> Operator:
        """Return ``R op R*`` with the sum ``R``."""
        return operator.sum(*self.axes)


class Select(Reducer):
    """Chosen entries of named axes."""

    def __init__(self, **indices: Index) -> None:
        self.indices = indices

    def reduce(self, operator: Operator) -> Operator:
        """Return the operator between the chosen entries."""
        return operator.select(**self.indices)


class Project(Reducer):
    """Coordinates along the rows of ``directions`` ``[k, n]`` in place of an axis of size n."""

    def __init__(self, directions: torch.Tensor, axis: str = "hidden", name: str = "output") -> None:
        self.directions, self.axis, self.name = directions, axis, name

    def reduce(self, operator: Operator) -> Operator:
        """Return ``W op W*``."""
        return operator.project(self.directions, self.axis, self.name)


class PartialTrace(Reducer):
    """``Sum_a op[a, .; a, .]`` over the named axes."""

    def __init__(self, *axes: str) -> None:
        self.axes = axes

    def reduce(self, operator: Operator) -> Operator:
        """Return the traced operator."""
        return operator.partial_trace(*self.axes)
