"""A long trajectory as segments whose operators are made anew whenever a product passes them.

Kept are the states between segments alone. A segment of steps ``a .. b - 1`` starts from ``h_{a-1}``; its own
A begins with the derivative by that state, so that scans go from one segment to the next:

    (P q)_a = q_a + A_a (P q)_{a-1}        (P* r)_{a-1} = r_{a-1} + A_a* (P* r)_a

and J* adds up over segments. With about sqrt(T) segments of sqrt(T) steps, what is held falls from T states
to 2 sqrt(T), for one more roll-out in each pass (A. Griewank, "Achieving logarithmic growth of temporal and
spatial complexity in reverse automatic differentiation", 1992; T. Chen et al., "Training deep nets with
sublinear memory cost", 2016).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from operator import methodcaller
from typing import Any, TypeVar

import torch

from kpframe.errors import UnsupportedError
from kpframe.flow._parameter_operator import ParameterOperator
from kpframe.flow._propagator import Propagator
from kpframe.flow._scans import Scans
from kpframe.flow._step_jacobian import DiagonalStepJacobian, StepJacobian
from kpframe.operators._base import MEMORY_BUDGET
from kpframe.operators._memory import check_dense_memory
from kpframe.operators._spaces import Space

Made = TypeVar("Made")


class Segments(ABC):
    """The segments of a trajectory and, of one at a time, its operators.

    Args:
        space: the state space of the whole trajectory.
        length: steps of each segment; the last one may have fewer.
    """

    #: What to do where the form of a segment cannot do something, for messages.
    remedy = ""

    def __init__(self, space: Space, length: int) -> None:
        time = space.shape[1]
        self.space, self.length = space, length
        #: The steps of each segment.
        self.bounds = tuple(slice(start, min(start + length, time)) for start in range(0, time, length))
        self._at_hand: tuple[int, tuple[Propagator, ParameterOperator]] | None = None

    def __len__(self) -> int:
        """Return the number of segments."""
        return len(self.bounds)

    @abstractmethod
    def record(self, place: int) -> tuple[Propagator, ParameterOperator]:
        """Return ``P`` and ``K`` of a segment, whose steps count from 0: roll it out and linearize it."""

    def operators(self, place: int) -> tuple[Propagator, ParameterOperator]:
        """Return ``P`` and ``K`` of a segment: those at hand, if they were asked for last."""
        held = self._at_hand
        if held is None or held[0] != place:
            held = self._at_hand = None  # what is at hand goes before the next is made
            held = (place, self.record(place))
            self._at_hand = held
        return held[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_at_hand": None}


class SegmentedStepJacobian(StepJacobian):
    """``A`` of a trajectory in segments; what a rule makes of it is made of each segment's A.

    Args:
        segments: of the trajectory.
        makes: what to make of each segment's A, one after the other.
    """

    def __init__(
        self, segments: Segments, makes: Sequence[Callable[[StepJacobian], StepJacobian]] = ()
    ) -> None:
        self.segments, self.makes = segments, tuple(makes)
        self._at_hand: tuple[int, StepJacobian] | None = None
        first = self.at(0)
        super().__init__(segments.space, dtype=first.dtype, device=first.device, name=first.name)
        self.method = f"{first.method} in segments"

    def at(self, place: int) -> StepJacobian:
        """Return the step Jacobian of a segment, whose steps count from 0."""
        held = self._at_hand
        if held is None or held[0] != place:
            held = self._at_hand = None
            A = self.segments.operators(place)[0].A
            if self.valid is not None:
                A = A.keeping(self.valid[:, self.segments.bounds[place]])
            for make in self.makes:
                A = make(A)
            held = (place, A)
            if self.makes:  # else it is at hand among the segment's operators
                self._at_hand = held
        return held[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_at_hand": None}

    def step(self, t: int, v: torch.Tensor) -> torch.Tensor:
        """Return ``A_t v``."""
        place, own = divmod(t, self.segments.length)
        return self.at(place).step(own, v)

    def step_adjoint(self, t: int, v: torch.Tensor) -> torch.Tensor:
        """Return ``A_t* v``."""
        place, own = divmod(t, self.segments.length)
        return self.at(place).step_adjoint(own, v)

    def scan(self, q: torch.Tensor) -> torch.Tensor:
        """Turn ``q`` ``[T, ..., B, H]`` into ``(I - A Z)^{-1} q`` in place, and return it."""
        return _scan(self.segments, self.at, q)

    def scan_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        """Turn ``r`` ``[T, ..., B, H]`` into ``(I - A Z)^{-*} r`` in place, and return it."""
        return _scan_adjoint(self.segments, self.at, r)

    def scans(self, keep: torch.Tensor) -> Scans:
        """Return the scans with ``A_t := 0`` where ``keep`` is False."""
        return _CutSegments(self, keep)

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(q)
        for place, steps in enumerate(self.segments.bounds):
            out[..., steps, :] = self.at(place)._apply(q[..., steps, :])
        return out

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(r)
        for place, steps in reversed([*enumerate(self.segments.bounds)]):
            out[..., steps, :] = self.at(place)._apply_adjoint(r[..., steps, :])
        return out

    def blocks(self, max_bytes: int = MEMORY_BUDGET) -> torch.Tensor:
        """Return the dense ``A_t`` as ``[B, T, H, H]``; raises ``MemoryBudgetError`` over budget."""
        batch, time, hidden = self.domain.shape
        check_dense_memory(f"blocks of {self!r}", batch * time * hidden, hidden, self.dtype, max_bytes)
        return torch.cat([self.at(place).blocks(max_bytes) for place in range(len(self.segments))], dim=1)

    @property
    def units(self) -> torch.Tensor:  # [H], int64
        """Which unit each entry of the state belongs to."""
        return self.at(0).units

    def diagonal(self) -> DiagonalStepJacobian:
        """Return the operator that keeps the diagonal of each ``A_t`` only; that of all steps is held."""
        values = [self.at(place).diagonal().values for place in range(len(self.segments))]
        name = f"diag({self.name})"
        return DiagonalStepJacobian(torch.cat(values, dim=1), self.domain, name=name).keeping(self.valid)

    def unit_blocks(self) -> StepJacobian:
        """Return the operator that keeps the entries within each unit only."""
        return self._each(methodcaller("unit_blocks"))

    def where(self, pattern: torch.Tensor, *, max_bytes: int = MEMORY_BUDGET) -> StepJacobian:
        """Return the operator that keeps the entries where ``pattern`` is True; none are kept in memory."""
        pattern = pattern.clone() if isinstance(pattern, torch.Tensor) else pattern
        return self._each(methodcaller("where", pattern, max_bytes=max_bytes))

    def direct(self) -> StepJacobian:
        """Return ``A`` by its direct path only; raises like ``StepJacobian.direct``."""
        return self._each(methodcaller("direct"))

    def pointwise(self) -> StepJacobian:
        """Return ``A`` by what goes around all weights; raises like ``direct``."""
        return self._each(methodcaller("pointwise"))

    @property
    def paths(self) -> tuple[str, ...]:
        """The names that ``cut`` takes; raises like ``direct``."""
        return self._ask(lambda A: A.paths)

    def cut(self, paths: Sequence[str]) -> StepJacobian:
        """Return ``A`` without some of its paths; raises like ``direct``."""
        return self._each(methodcaller("cut", paths if isinstance(paths, str) else tuple(paths)))

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """The recurrent weights on the paths of ``A``; raises like ``direct``."""
        return self._ask(lambda A: A.weights)

    def replace(self, weights: Mapping[str, torch.Tensor]) -> StepJacobian:
        """Return ``A`` with other weights on its paths; raises like ``direct``."""
        own = {  # what the caller may still write to is copied
            name: weight.detach().clone() if isinstance(weight, torch.Tensor) else weight
            for name, weight in weights.items()
        }
        return self._each(methodcaller("replace", own))

    def _each(self, make: Callable[[StepJacobian], StepJacobian]) -> StepJacobian:
        def of_all(first: StepJacobian) -> SegmentedStepJacobian:
            return SegmentedStepJacobian(self.segments, (*self.makes, make))

        return self._ask(of_all).keeping(self.valid)

    def _ask(self, question: Callable[[StepJacobian], Made]) -> Made:
        """Return an answer about the first segment's A, which holds for all of them."""
        try:
            return question(self.at(0))
        except UnsupportedError as error:
            raise UnsupportedError(f"{error}{self.segments.remedy}") from error


class _CutSegments:
    """The scans of a step Jacobian in segments with steps cut: those of each segment, cut there."""

    def __init__(self, A: SegmentedStepJacobian, keep: torch.Tensor) -> None:
        self._A, self._keep = A, keep.clone()

    def _at(self, place: int) -> StepJacobian:
        return self._A.at(place).masked(self._keep[..., self._A.segments.bounds[place]])

    def scan(self, q: torch.Tensor) -> torch.Tensor:
        """Turn ``q`` ``[T, ..., B, H]`` into ``(I - A Z)^{-1} q`` in place, and return it."""
        return _scan(self._A.segments, self._at, q)

    def scan_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        """Turn ``r`` ``[T, ..., B, H]`` into ``(I - A Z)^{-*} r`` in place, and return it."""
        return _scan_adjoint(self._A.segments, self._at, r)


def _scan(segments: Segments, at: Callable[[int], StepJacobian], q: torch.Tensor) -> torch.Tensor:
    for place, steps in enumerate(segments.bounds):
        A = at(place)
        if place:
            q[steps.start] += A.step(0, q[steps.start - 1])
        A.scan(q[steps])
    return q


def _scan_adjoint(segments: Segments, at: Callable[[int], StepJacobian], r: torch.Tensor) -> torch.Tensor:
    for place, steps in reversed([*enumerate(segments.bounds)]):
        A = at(place)
        A.scan_adjoint(r[steps])
        if place:
            r[steps.start - 1] += A.step_adjoint(0, r[steps.start])
    return r
