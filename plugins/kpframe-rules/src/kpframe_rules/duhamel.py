"""The Duhamel (Dyson) series around a simpler step Jacobian."""

from __future__ import annotations

from collections.abc import Callable

import torch

from kpframe import LearningRule, Operator, Propagator, StepJacobian, Update
from kpframe.flow import shift, unshift
from kpframe.plugin import takes_settings
from kpframe_rules.leak import direct_path, leaky_path
from kpframe_rules.specs_structural import DuhamelSettings

#: Name of a base -> what makes it.
BASES: dict[str, Callable[[Update], StepJacobian] | None] = {
    "zero": None,
    "leak": lambda update: leaky_path(update.A, update.flow.trajectory.mask, "duhamel(base='leak')"),
    "direct": lambda update: direct_path(update.A, "duhamel(base='direct')"),
    "diagonal": lambda update: update.A.diagonal(),
    "units": lambda update: update.A.unit_blocks(),
}


class Duhamel(LearningRule):
    """The first terms of the Duhamel series of P around the propagator of a simpler step Jacobian A_0::

        P = P_0 + P_0 R P     with P_0 = P[A_0], R = (A - A_0) Z         P^(k) = P_0 Sum_{j<k} (R P_0)^j

    Each term lets the error take what A_0 leaves out once more; in between it travels through P_0 as far
    as it likes. With ``k >= T`` it is P, and in general ``P - P^(k) = (P_0 R)^k P``. ``base="zero"`` is the
    Neumann series, the sliding window of k steps. (Ours, by Duhamel's principle in discrete time; the
    identity is that of the resolvents.) A trainable initial state is reached from the first step by
    ``A_0`` where P is ``P_0`` alone, with one term, and by all of ``A_1`` else.
    Cost: k scans with A_0, and ``k - 1`` products with ``A - A_0`` over all steps at once.

    With ``order=1`` the rule is ``P_0`` itself: ``rflo`` for ``base="leak"``, the model's constant leak;
    ``eprop`` for ``"direct"``, its direct path; ``snap1`` for ``"units"``, the blocks within units.

    Raises:
        SettingsError: for an order below 1 or an unknown base.
        UnsupportedError: when it is applied, for ``"leak"`` or ``"direct"`` on a model without.
    """

    @takes_settings(DuhamelSettings)
    def __init__(self, settings: DuhamelSettings) -> None:
        self.order, self.base = settings.order, settings.base

    def change(self, update: Update) -> Update:
        """Return the update with the series in the place of P."""
        make = BASES[self.base]
        if self.order >= update.A.steps:
            return update
        if make is None:
            return update.replace(P=update.propagator.truncated(self.order))
        base = make(update)
        if self.order == 1:
            return update.through(base, name=f"P[{self.base}]")
        name = f"P_{self.order}[{self.base}]"
        return update.replace(P=DuhamelPropagator(update.propagator, base, self.order, name=name))

    def __repr__(self) -> str:
        return f"Duhamel(order={self.order}, base={self.base!r})"


class DuhamelPropagator(Operator):
    """``P_0 Sum_{j<k} (R P_0)^j`` with ``P_0 = P[A_0]``, in the form of P, and ``R = (A - A_0) Z``.

    It is not the inverse of any ``I - A Z``, hence no ``Propagator``.
    """

    def __init__(self, P: Propagator, base: StepJacobian, order: int, *, name: str) -> None:
        super().__init__(P.domain, P.domain, dtype=P.dtype, device=P.device)
        self.base = P.with_step(base, name="P_0")
        self.rest = P.A - base
        self.order, self.name = order, name

    @property
    def method(self) -> str:
        """How the scans are computed: the form of A_0."""
        return self.base.method

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        out = self.base._apply(q)
        for _ in range(self.order - 1):
            out = self.base._apply(q + self.rest._apply(shift(out)))
        return out

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        out = self.base._apply_adjoint(r)
        for _ in range(self.order - 1):
            out = self.base._apply_adjoint(r + unshift(self.rest._apply_adjoint(out)))
        return out
