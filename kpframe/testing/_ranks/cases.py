"""What is checked on ranks: a case as in one process, and how many of its trials each rank has."""

from __future__ import annotations

import sys
from functools import cached_property
from typing import Any

import torch
from attrs import evolve, field, frozen

from kpframe.flow._flow import Flow
from kpframe.flow._parameter_operator import ParameterOperator
from kpframe.flow._propagator import Propagator
from kpframe.models._linearize import linearize
from kpframe.operators._spaces import BATCH, Axis, Space
from kpframe.rules._rule import LearningRule
from kpframe.testing._cases import FlowCase, RuleCase
from kpframe.testing._forms import (
    ParameterOperatorCase,
    PropagatorCase,
    metric_of,
    parameter_jacobian,
    step_jacobian,
)
from kpframe.testing._problem import Problem
from kpframe.testing._sources import find_spec
from kpframe.testing._values import seeded, values

Case = FlowCase | RuleCase | PropagatorCase | ParameterOperatorCase

#: Kind of what is checked -> the field of its case that names it.
_NAMED = {
    RuleCase: "rule",
    PropagatorCase: "propagator",
    ParameterOperatorCase: "parameter_operator",
    FlowCase: "model",
}


@frozen
class RanksCase:
    """A case whose trials ranks share.

    Attributes:
        case: of a flow, or of a rule or form on one.
        shares: number of trials by rank.
    """

    case: Case
    shares: tuple[int, ...]

    @property
    def flow(self) -> FlowCase:
        """The model and the trajectory of all trials."""
        return self.case if isinstance(self.case, FlowCase) else self.case.flow

    @property
    def seed(self) -> int:
        """Of everything that is drawn."""
        return self.flow.seed

    @property
    def ranks(self) -> int:
        """Number of ranks."""
        return len(self.shares)

    @cached_property
    def whole(self) -> View:
        """All trials in this process, kept."""
        return View(self)

    def sent(self) -> RanksCase:
        """Return the case as it goes to another process: plugins that are there for a while go with it."""
        kind = _NAMED[type(self.case)]
        spec = find_spec(kind, getattr(self.case, kind))
        case = self.case if spec is None else evolve(self.case, **{kind: spec})  # type: ignore[arg-type]
        return RanksCase(case, self.shares)

    def files(self) -> dict[str, str]:
        """Return the files of modules that what is checked comes from."""
        found = {}
        for reference in (getattr(self.case, _NAMED[type(self.case)]), self.flow.model):
            name = getattr(reference, "__module__", None) or type(reference).__module__
            if isinstance(reference, str):
                name = reference.rpartition(":")[0]
            file = getattr(sys.modules.get(name), "__file__", None)
            if file and name != "__main__":
                found[name] = file
        return found


@frozen(eq=False)
class View:
    """A case as a process sees it: all trials, a rank's with those of the others, or a rank's alone.

    Attributes:
        case: what is looked at.
        rank: whose trials; None for all of them.
        group: the others, None where there are none.
    """

    case: RanksCase
    rank: int | None = None
    group: Any = field(default=None, repr=False)

    @property
    def trials(self) -> slice:
        """The places of the trials among all."""
        if self.rank is None:
            return slice(None)
        start = sum(self.case.shares[: self.rank])
        return slice(start, start + self.case.shares[self.rank])

    @cached_property
    def problem(self) -> Problem:
        """The model on the trials."""
        whole, part = self.case.flow.build(), self.trials
        h0 = None if whole.h0 is None else whole.h0[part]
        mask = None if whole.mask is None else whole.mask[part]
        return Shared(whole.model, whole.x[part], h0, mask, whole.seed, self.group)

    @property
    def flow(self) -> Flow:
        """The operators along the trials."""
        return self.problem.flow

    @cached_property
    def rule(self) -> LearningRule:
        """The rule that is checked."""
        assert isinstance(self.case.case, RuleCase)
        with seeded(self.case.flow.seed):
            return self.case.case.build_rule()

    @cached_property
    def propagator(self) -> Propagator:
        """The form of P that is checked; raises ``UnsupportedError`` where it does not fit."""
        case = self.case.case
        assert isinstance(case, PropagatorCase)
        A = step_jacobian(case.step, self.problem, case.flow.kind)
        return A.domain.together(lambda: case.make(A))

    @cached_property
    def parameter_operator(self) -> ParameterOperator:
        """The form of K that is checked, with its metric."""
        case = self.case.case
        assert isinstance(case, ParameterOperatorCase)
        J = parameter_jacobian(case.jacobian, self.problem)
        K: ParameterOperator = J.codomain.together(lambda: case.make(J))
        return K if case.metric == "identity" else K.with_metric(metric_of(case.metric, J, case.flow.seed))

    def vector(self, space: Space, salt: int = 0, probes: tuple[int, ...] = ()) -> torch.Tensor:
        """Return these trials' part of a normal vector ``[*probes, *space]`` of all."""
        trials = next((axis for axis in space.axes if axis.name == BATCH), None)
        total, own = (0, None) if trials is None else self._places(trials)
        shape = [total if axis is trials else axis.size for axis in space.axes]
        drawn = values((*probes, *shape), self.case.flow.seed + 1000 + salt)
        return drawn if own is None else drawn.narrow(space.dim(BATCH), own[0], own[1]).contiguous()

    def _places(self, trials: Axis) -> tuple[int, tuple[int, int] | None]:
        """Return how many trials an axis has in all, and which are here; None for all."""
        if trials.shards is not None:
            return trials.total, (trials.shards.start, trials.size)
        start, stop, _ = self.trials.indices(sum(self.case.shares))
        if self.rank is None or trials.size != stop - start:  # all of them, or selected among one's own
            return trials.size, None
        return sum(self.case.shares), (start, trials.size)


class Shared(Problem):
    """A problem whose flow is that of a group's ranks."""

    def __init__(
        self,
        model: Any,
        x: torch.Tensor,
        h0: torch.Tensor | None,
        mask: torch.Tensor | None,
        seed: int,
        group: Any,
    ) -> None:
        super().__init__(model, x, h0, mask, seed)
        self.group = group

    @cached_property
    def flow(self) -> Flow:
        """The flow, with the structure that the model brings."""
        if self.group is None:
            return super().flow
        return linearize(self.model, self.x, self.h0, self.mask, group=self.group)

    @cached_property
    def twin(self) -> Flow:
        """The flow, everything derived by automatic differentiation."""
        return linearize(self.model, self.x, self.h0, self.mask, method="autograd", group=self.group)
