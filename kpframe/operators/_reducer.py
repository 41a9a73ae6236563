"""The named, registered form of the reductions: an object that makes a smaller operator of an operator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, Self

import torch

from kpframe.errors import whole
from kpframe.operators._base import Index, Operator, check_operator
from kpframe.operators._isolation import in_isolation
from kpframe.operators._spaces import check_tensor
from kpframe.plugin._manager import create


class Reducer(ABC):
    """A reduction over named axes: operator -> smaller operator.

    Congruences ``R op R*`` (``Mean``, ``Sum``, ``Bin``, ``Select``,
    ``LastValid``, ``Project``) and contractions (``PartialTrace``,
    ``BlockDiagonal``) are different things under different names.
    """

    @abstractmethod
    def reduce(self, operator: Operator) -> Operator:
        """Return the reduced ``operator``; raises ``AxisError`` for unknown axes."""

    def __call__(self, operator: Operator) -> Operator:
        """Return the reduced operator."""
        check_operator(operator, f"argument of {type(self).__name__}")
        return self.reduce(operator)


class _OverAxes(Reducer):
    """A reduction that takes the names of axes."""

    def __init__(self, *axes: str) -> None:
        self.axes = axes

    @classmethod
    def over(cls, axes: Iterable[str]) -> Self:
        """Return the reduction over ``axes``."""
        return cls(*axes)


class Mean(_OverAxes):
    """The average over both copies of the axes: ``<op>_axes``."""

    def reduce(self, operator: Operator) -> Operator:
        """Return ``R op R*`` with the mean ``R``."""
        return operator.mean(*self.axes)


class Sum(_OverAxes):
    """The sum over both copies of the axes."""

    def reduce(self, operator: Operator) -> Operator:
        """Return ``R op R*`` with the sum ``R``."""
        return operator.sum(*self.axes)


class Select(Reducer):
    """Chosen entries of named axes, ``indices``, as ``Operator.select`` takes them."""

    def __init__(self, **indices: Index) -> None:
        self.indices = indices

    @classmethod
    def over(cls, indices: Mapping[str, Index]) -> Self:
        """Return the reduction with ``indices`` by the names of axes."""
        return cls(**indices)

    def reduce(self, operator: Operator) -> Operator:
        """Return the operator between the chosen entries."""
        return operator.select(**self.indices)


class Bin(Reducer):
    """Averages over windows of named axes, ``lengths``: ``Bin(time=5)``."""

    def __init__(self, **lengths: int) -> None:
        self.lengths = lengths

    @classmethod
    def over(cls, lengths: Mapping[str, int]) -> Self:
        """Return the reduction with ``lengths`` by the names of axes."""
        return cls(**lengths)

    def reduce(self, operator: Operator) -> Operator:
        """Return ``R op R*`` with the window means ``R``."""
        return operator.bin(**self.lengths)


class LastValid(Reducer):
    """Each trial's last step where ``mask`` ``[B, T]`` is True."""

    def __init__(self, mask: torch.Tensor) -> None:
        self.mask = mask

    def reduce(self, operator: Operator) -> Operator:
        """Return the operator between the trials' last valid steps."""
        return operator.last_valid(self.mask)


class Project(Reducer):
    """Coordinates along the rows of ``directions`` ``[k, n]``, on an axis ``name`` in place of ``axis``."""

    def __init__(self, directions: torch.Tensor, axis: str = "hidden", name: str = "output") -> None:
        self.directions, self.axis, self.name = directions, axis, name

    def reduce(self, operator: Operator) -> Operator:
        """Return ``W op W*``."""
        return operator.project(self.directions, self.axis, self.name)


class PartialTrace(_OverAxes):
    """``Sum_a op[a, .; a, .]`` over the named axes."""

    def reduce(self, operator: Operator) -> Operator:
        """Return the traced operator."""
        return operator.partial_trace(*self.axes)


class BlockDiagonal(_OverAxes):
    """The entries at which both copies of the named axes are equal."""

    def reduce(self, operator: Operator) -> Operator:
        """Return the block-diagonal part."""
        return operator.block_diagonal(*self.axes)


@in_isolation
def principal_components(states: torch.Tensor, k: int) -> torch.Tensor:  # [k, H]
    """Return the ``k`` leading principal directions ``[k, H]`` of ``states`` ``[..., H]``, orthonormal rows.

    They are the right singular vectors of the states less their mean: the eigenvectors of the covariance, by
    falling variance. Signs are fixed: the entry of largest magnitude of each direction is positive. To be
    given to ``Project``.

    Raises:
        ArgumentError: for a ``k`` outside [1, min(H, number of states)].
    """
    check_tensor(states, "states")
    rows = states.reshape(-1, states.shape[-1])
    k = whole(k, "k", 1, min(rows.shape))
    _, _, right = torch.linalg.svd(rows - rows.mean(dim=0), full_matrices=False)
    directions: torch.Tensor = right[:k]
    largest = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True))
    return directions * largest.sign()


def create_reducer(name: str, /, **settings: Any) -> Reducer:
    """Return the reducer called ``name`` with its ``settings``: the core's, or one that a plugin offers.

    The core has ``mean``, ``sum``, ``partial_trace`` and ``block_diagonal`` (``axes=["time"]``), ``bin``
    (``time=5``), ``select`` (``time=-1``), ``last_valid`` (``mask=...``) and ``project``
    (``directions=..., axis=..., name=...``).

    Raises:
        SettingsError: when the settings are not those of the reducer.
        UnknownNameError, PluginError: as ``create_model``.

    Examples:
        >>> import kpframe, torch
        >>> op = kpframe.DiagonalOperator(torch.ones(4, 2), kpframe.Space.of(time=4, hidden=2))
        >>> kpframe.create_reducer("mean", axes=["time"])(op).to_dense()
        tensor([[0.2500, 0.0000],
                [0.0000, 0.2500]])
    """
    made: Reducer = create("reducer", name, settings, Reducer)
    return made
