"""Learning rules that break what rules promise."""

from __future__ import annotations

from typing import Any

import torch

from kpframe.flow._flow import Flow
from kpframe.operators import FunctionOperator, IdentityOperator, Operator
from kpframe.rules._rule import LearningRule
from kpframe.rules._update import Update
from kpframe.tasks._readout import Readout
from kpframe.testing.mutants.mutant import Mutant

Tensor = torch.Tensor


class Exact(LearningRule):
    """Nothing is replaced: the gradient. Right, and the base of the wrong ones."""

    exact = True

    def change(self, update: Update) -> Update:
        """Return the update as it is."""
        return update


class NoRule:
    """Not a learning rule at all."""


class StateUpdate(Exact):
    """An update that stays in the state space."""

    def update_operator(self, flow: Flow, readout: Readout | None = None) -> Operator:
        """Return ``P*``, without ``J*``."""
        return flow.P.T


class SignOfGradient(Exact):
    """The sign of the gradient, passed off as linear."""

    def gradient(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Return the sign of the gradient."""
        return {name: g.sign() for name, g in super().gradient(*args, **kwargs).items()}


class LocalFlow(Exact):
    """A flow operator with the rule's propagator on the left."""

    def change(self, update: Update) -> Update:
        """Return the update with one term of P."""
        return update.replace(P=update.propagator.truncated(1))

    def flow_operator(self, flow: Flow, readout: Readout | None = None) -> Operator:
        """Return ``P_1 K P_1*``."""
        P = self.propagator(flow)
        return P @ flow.K @ P.T


class WrongAdjoint(Exact):
    """A propagator whose adjoint runs forward."""

    def change(self, update: Update) -> Update:
        """Return the update with P as its own adjoint."""
        P = update.P
        return update.replace(P=FunctionOperator(P.domain, P.codomain, P._apply, P._apply, dtype=P.dtype))


class Momentum(Exact):
    """The mean of this update and the last one: hidden state."""

    def __init__(self) -> None:
        self.last: dict[str, Tensor] = {}

    def gradient(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Return a running mean."""
        new = super().gradient(*args, **kwargs)
        self.last = {name: 0.5 * g + 0.5 * self.last.get(name, g) for name, g in new.items()}
        return self.last


class FirstTrial(Exact):
    """Only the first trial's error counts fully."""

    def gradient(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Return the gradient of errors weighed by trial."""
        flow, err, *others = args
        weights = 1 / torch.arange(1, len(err) + 1, dtype=err.dtype)
        return super().gradient(flow, err * weights[:, None, None], *others, **kwargs)


class Local(Exact):
    """Tagged exact, with nothing propagated."""

    def change(self, update: Update) -> Update:
        """Return the update with the identity in the place of P."""
        return update.replace(P=IdentityOperator(update.P.domain, dtype=update.P.dtype))


class Doubles(Exact):
    """An update in float64 whatever the flow."""

    def gradient(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Return float64 gradients."""
        return {name: g.double() for name, g in super().gradient(*args, **kwargs).items()}


def _mutants(*rows: tuple[Any, str, str]) -> tuple[Mutant, ...]:
    return tuple(Mutant(*row, kind="rule") for row in rows)


MUTANTS = _mutants(
    (NoRule, "rule_builds", "expected a kpframe.LearningRule, got NoRule"),
    (StateUpdate, "update_shape", "codomain: expected (parameter="),
    (SignOfGradient, "linear_in_error", "sets linear = False"),
    (LocalFlow, "flow_operator_is_P_J_update", "with the flow's own P on the left"),
    (WrongAdjoint, "adjoint_of_update", "the adjoint of what change() puts in the place"),
    (Momentum, "rule_is_pure", "attributes that the rule assigns"),
    (FirstTrial, "trial_order_does_not_matter", "by trial index"),
    (Local, "exact_rule_equals_backward", "a rule that says exact = True"),
    (Doubles, "rule_dtype_kept", "expected torch.float32, got torch.float64"),
)
