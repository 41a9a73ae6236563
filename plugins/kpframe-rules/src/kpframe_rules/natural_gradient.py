"""Natural gradient and Gauss-Newton updates."""

from __future__ import annotations

from typing import Any, Self

import torch

from kpframe import Flow, IdentityOperator, LearningRule, Operator, Update
from kpframe.errors import ArgumentError, UnsupportedError, mismatch
from kpframe.operators import SelfAdjointOperator
from kpframe.plugin import takes_settings
from kpframe_rules.conjugate_gradients import damped_solve
from kpframe_rules.curvature import LOSSES, check_curvature, loss_curvature
from kpframe_rules.metrics import restricted
from kpframe_rules.specs_feedback import NaturalGradientSettings


class NaturalGradient(LearningRule):
    """The metric ``M = (G* C G + lambda I)^{-1}`` with ``G = P J``, the total derivative of the states.

    With C the Hessian of the loss by the states this is a damped Gauss-Newton step (Schraudolph 2002, Neural
    Computation 14:1723; Martens 2010, ICML), and the natural gradient of the outputs' distribution (Amari
    1998, Neural Computation 10:251; Martens 2020, JMLR 21:146). With ``C = I`` it is the natural gradient of
    the trajectory itself: ``Phi_rule = Phi (Phi + lambda)^{-1}``, as lambda -> 0 the projector onto the range
    of ``P J``, so that states move along ``-Err`` as far as parameters can make them.

    **On another metric** ``M_0`` (frozen parameters, learning rates) it is ``(G* C G + lambda
    M_0^{-1})^{-1}`` on the range of M_0: the same in the coordinates in which M_0 is the identity.
    ``natural_gradient @ frozen`` solves for the parameters that learn; ``frozen @ natural_gradient`` solves
    for all and freezes then. G is that of the model, whatever a rule has put in the place of P on the way
    back.

    M is an operator; a product solves by conjugate gradients to ``tolerance``, each iteration two scans and
    two products with J. They are at most as many as the rank of G and one, in exact arithmetic; a small
    lambda next to the largest eigenvalue of Phi takes more.

    ``"mse"`` and ``"cross_entropy"`` take the Hessian of that loss, every step scored that is not padded (see
    ``loss_curvature``), and need the readout; ``of_curvature`` takes any other C. The damping is in units of
    ``G* C G``, which sums over trials and steps (a mean loss has its 1/n in C). Where rounding does not let a
    residual get to ``tolerance`` (float32), what rounding leaves counts. ``max_iterations`` unset is ten
    times what exact arithmetic takes.

    Raises:
        SettingsError: for unusable settings.
        ArgumentError: when the operator is applied, for a solution that did not converge.
        UnsupportedError: when it is applied without the readout that it needs.
    """

    @takes_settings(NaturalGradientSettings)
    def __init__(self, settings: NaturalGradientSettings) -> None:
        self.curvature: str | Operator = settings.curvature
        self.damping, self.tolerance = settings.damping, settings.tolerance
        self.max_iterations = settings.max_iterations
        self.needs_readout = settings.curvature in LOSSES

    @classmethod
    def of_curvature(cls, curvature: Operator, **settings: Any) -> Self:
        """Return the rule with a given C, a positive operator on the state space, and other settings.

        Raises:
            ArgumentError: when it is applied, for an operator on another space, or one not tagged positive.
        """
        rule = cls(**settings)
        rule.curvature, rule.needs_readout = curvature, False
        return rule

    def change(self, update: Update) -> Update:
        """Return the update with the natural metric, on the one that is there."""
        M = NaturalMetric(
            update.flow,
            self._curvature(update),
            update.K.metric,
            self.damping,
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
        )
        return update.replace(K=update.K.with_metric(restricted(update.K, M), name="K_nat"))

    def _curvature(self, update: Update) -> Operator:
        P = update.flow.P
        if isinstance(self.curvature, Operator):
            check_curvature(self.curvature, P.domain)
            return self.curvature
        if self.curvature == "states":
            return IdentityOperator(P.domain, dtype=P.dtype, device=P.device)
        if update.readout is None:
            expected = f"the readout, which curvature={self.curvature!r} needs"
            raise UnsupportedError(mismatch("readout", expected, None))
        return loss_curvature(update.flow, update.readout, self.curvature)

    def __repr__(self) -> str:
        return f"NaturalGradient(curvature={self.curvature!r}, damping={self.damping:g})"


class NaturalMetric(SelfAdjointOperator):
    """``(G* C G + lambda M_0^{-1})^{-1}`` on the range of M_0; see ``NaturalGradient``."""

    def __init__(
        self,
        flow: Flow,
        C: Operator,
        M0: Operator,
        damping: float,
        *,
        tolerance: float,
        max_iterations: int | None,
    ) -> None:
        if not M0.positive:
            raise ArgumentError(mismatch("metric", "one that is tagged positive", f"{M0!r}"))
        space = flow.J.domain
        super().__init__(space, space, dtype=flow.J.dtype, device=flow.J.device)
        self.C, self.M0, self.damping, self.tolerance = C, M0, damping, tolerance
        self.name = f"(G*{'' if isinstance(C, IdentityOperator) else f' {C!r}'} G + {damping:g})^-1"
        self._G = flow.P @ flow.J
        rank = min(space.size, flow.P.domain.dimension)
        self.max_iterations = 10 * (rank + 1) if max_iterations is None else max_iterations

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        def F(x: torch.Tensor) -> torch.Tensor:
            return self._G._apply_adjoint(self.C._apply(self._G._apply(x)))

        solved = damped_solve(
            F,
            self.M0._apply,
            q.reshape(-1, q.shape[-1]),
            self.damping,
            tolerance=self.tolerance,
            iterations=self.max_iterations,
            who="natural_gradient",
        )
        return solved.reshape(q.shape)

    @property
    def positive(self) -> bool:
        """Always true."""
        return True
