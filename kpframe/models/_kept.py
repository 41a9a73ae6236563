"""Trajectories of which a few states are kept, and their operators: what ``linearize(..., keep=)`` makes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from attrs import evolve

from kpframe.errors import ArgumentError, KpframeError, closest, mismatch, whole
from kpframe.flow._flow import Flow
from kpframe.flow._parameter_jacobian import ParameterJacobian
from kpframe.flow._parameter_operator import ParameterOperator, ProductParameterOperator
from kpframe.flow._propagator import Propagator
from kpframe.flow._segmented import SegmentedParameterJacobian, SegmentedPropagator
from kpframe.flow._segments import SegmentedStepJacobian, Segments
from kpframe.flow._sharded_jacobian import ShardedParameterJacobian
from kpframe.flow._trajectory import Trajectory
from kpframe.models._model import Model
from kpframe.models._sites.model import SiteModel
from kpframe.operators._elementary import IdentityOperator
from kpframe.operators._finite import check_finite
from kpframe.operators._isolation import isolated
from kpframe.operators._spaces import BATCH, TIME, Axis

#: Which states ``linearize`` keeps, by name.
KEPT = ("all", "sqrt")
#: Makes P and K along a trajectory.
Forms = Callable[[Trajectory], tuple[Propagator, ParameterOperator]]


def check_keep(keep: object) -> None:
    """Raise ``ArgumentError`` for a ``keep`` that is neither a name nor a whole number from 1."""
    if isinstance(keep, str):
        if keep not in KEPT:
            expected = "'all', 'sqrt' or a number of states"
            raise ArgumentError(mismatch("keep", expected, f"{keep!r}{closest(keep, KEPT)}"))
        return
    whole(keep, "keep", expected="'all', 'sqrt' or a whole number of states >= 1")


def segment_length(keep: str | int, time: int) -> int:
    """Return how many steps lie between kept states; raises ``ArgumentError`` for more states than steps."""
    expected = f"'all', 'sqrt' or at most one state for each of the {time} steps"
    count = math.isqrt(time - 1) + 1 if keep == "sqrt" else whole(keep, "keep", 1, time, expected=expected)
    return -(-time // count)


def counts_steps(model: Model) -> bool:
    """Return whether a model's own forms count the steps of a segment as those of the whole trajectory.

    They do where no step knows its index. Of models that vary in time those of weight sites do, whose weights
    are the same at each step; others have theirs by automatic differentiation.
    """
    if not model.time_varying:
        return True
    names = ("operators", "propagator", "parameter_operator")
    if not isinstance(model, SiteModel) or any(site.per_step for site in model.sites):
        return False
    return all(getattr(type(model), name) is getattr(SiteModel, name) for name in names)


class ModelSegments(Segments):
    """The segments of a model's trajectory, each rolled out from the state before it.

    Args:
        model: a copy that nobody trains.
        whole: the trajectory without its states, as ``Model.begin`` makes it, and detached.
        length: steps of a segment.
        forms: makes P and K of a segment.
    """

    def __init__(self, model: Model, whole: Trajectory, length: int, forms: Forms) -> None:
        super().__init__(whole.space, length)
        self.model, self.whole, self.forms = model, whole, forms
        if not counts_steps(model):
            self.remedy = "; with keep='all' it has the form of its own that the model brings, if it does"
        #: The states ``[B, H]`` that segments start from, and the last one of all.
        self.kept: list[torch.Tensor] = [whole.initial_state]

    def begun(self, place: int) -> Trajectory:
        """Return a segment as a trajectory without states."""
        steps, whole = self.bounds[place], self.whole
        time = steps.stop - steps.start
        return evolve(
            whole,
            inputs=whole.inputs[:, steps],
            initial_state=self.kept[place],
            space=whole.space.replace(TIME, Axis(TIME, time)),
            mask=None if whole.mask is None else whole.mask[:, steps],
            given=whole.given or place > 0,
            first=steps.start,
        )

    def trajectory(self, place: int) -> Trajectory:
        """Return a segment, rolled out."""
        segment = self.begun(place)
        with isolated(segment.inputs.device, "roll-out"), torch.no_grad():
            if not self.model.time_varying and self.model.steps is None:
                h0 = segment.initial_state if segment.given else None
                states = self.model.rollout(segment.inputs, h0, segment.mask).states
            else:  # a roll-out of the model's own would count its steps from 0
                h, found = segment.initial_state, []
                for t in range(segment.space[TIME].size):
                    h = self.model._advance(segment, t, h)
                    found.append(h)
                states = torch.stack(found, dim=1)
        return evolve(segment, states=states.detach())

    def run(self, first: Forms) -> None:
        """Roll all segments out once, keep where they start, and record each for what a model says of it.

        Args:
            first: makes P and K of the first segment, after what is to be checked of the model.

        Raises:
            NonFiniteError: for a roll-out that is not finite; names the first step, trial and component.
        """
        for place in range(len(self)):
            segment = self.trajectory(place)
            check_finite(segment.states, "roll-out", segment.space, first=segment.first)
            made = self.linearized(segment, first if place == 0 else self.forms)
            if place == 0:
                begin = made
            self.kept.append(segment.states[:, -1].clone())
        self._at_hand = (0, begin)

    def flow(self) -> Flow:
        """Return the operators of the whole trajectory."""
        why = f"{len(self)} of {self.whole.space[TIME].size} states are kept"
        A, J = SegmentedStepJacobian(self), self._parameter_jacobian()
        own = self.operators(0)[1]
        metric = None if isinstance(own.metric, IdentityOperator) else own.metric
        K = ProductParameterOperator(J, metric, name=own.name)
        return Flow(self.model, KeptTrajectory(self), SegmentedPropagator(A, why=why), K)

    def _parameter_jacobian(self) -> ParameterJacobian:
        J = SegmentedParameterJacobian(self)
        return J if self.space[BATCH].shards is None else ShardedParameterJacobian(J)

    def record(self, place: int) -> tuple[Propagator, ParameterOperator]:
        """Return ``P`` and ``K`` of a segment: roll it out and linearize it."""
        return self.linearized(self.trajectory(place), self.forms)

    @staticmethod
    def linearized(segment: Trajectory, forms: Forms) -> tuple[Propagator, ParameterOperator]:
        """Return ``P`` and ``K`` along a segment; its errors say which steps it has."""
        with isolated(segment.inputs.device, "linearize"):
            try:
                P, K = forms(segment)
            except KpframeError as error:
                if not segment.first:
                    raise
                raise type(error)(f"from step {segment.first} on, counted from 0 there: {error}") from error
        P.A.keeping(segment.mask)
        return P, K


class KeptTrajectory(Trajectory):
    """A trajectory that keeps the states between segments alone; ``states`` rolls it out again.

    Each time they are asked for, all states ``[B, T, H]`` are made anew from those that are kept, and held by
    the caller alone.
    """

    def __init__(self, segments: ModelSegments) -> None:
        object.__setattr__(self, "segments", segments)
        for name in ("inputs", "initial_state", "space", "mask", "given", "first"):
            object.__setattr__(self, name, getattr(segments.whole, name))

    @property
    def states(self) -> torch.Tensor:  # [B, T, H]
        """The states ``h_1 .. h_T``, rolled out again."""
        segments: ModelSegments = self.segments  # type: ignore[attr-defined]
        out = segments.kept[0].new_empty(self.space.shape)
        for place, steps in enumerate(segments.bounds):
            out[:, steps] = segments.trajectory(place).states
        return out

    @property
    def final(self) -> torch.Tensor:  # [B, H]
        """The last state, which is kept."""
        segments: ModelSegments = self.segments  # type: ignore[attr-defined]
        return segments.kept[-1]

    def pieces(self) -> Iterator[Trajectory]:
        """Yield the segments, each rolled out again."""
        segments: ModelSegments = self.segments  # type: ignore[attr-defined]
        yield from map(segments.trajectory, range(len(segments)))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.segments,)  # type: ignore[attr-defined]
