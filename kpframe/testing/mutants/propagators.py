"""Forms of propagator that are wrong: the slips that a form of one's own is made with."""

from __future__ import annotations

from typing import Any

import torch

from kpframe.flow._neural_tangent import neural_tangent
from kpframe.flow._parameter_operator import ParameterOperator
from kpframe.flow._propagator import (
    InversePropagator,
    Propagator,
    ScanPropagator,
    TransitionOperator,
    TruncatedPropagator,
)
from kpframe.flow._step_jacobian import DiagonalStepJacobian, StepJacobian
from kpframe.operators import Operator
from kpframe.testing.mutants.mutant import Mutant

Tensor = torch.Tensor


def not_a_propagator(A: StepJacobian) -> Any:
    """Return A itself."""
    return A


class OneStepOff(ScanPropagator):
    """Takes the step Jacobian of the step before."""

    def _apply(self, q: Tensor) -> Tensor:
        out = q.clone()
        for t in range(1, self.A.steps):
            out[..., t, :] += self.A.step(t - 1, out[..., t - 1, :])
        return out


class ForwardAdjoint(ScanPropagator):
    """P* that is P."""

    def _apply_adjoint(self, r: Tensor) -> Tensor:
        return self._apply(r)


class WrongInverse(ScanPropagator):
    """The inverse with another sign."""

    @property
    def inverse(self) -> Operator:
        """``I + A Z`` less something."""
        return 2 * InversePropagator(self) - InversePropagator(self) @ InversePropagator(self)


class WrongTransition(ScanPropagator):
    """A transition with one factor too many."""

    def transition(self, t: int, s: int | None = None) -> TransitionOperator:
        """Return ``A_t ... A_s``."""
        return TransitionOperator(self.A, t, None if not s else s - 1)


class OneTermMore(ScanPropagator):
    """A series with one term too many."""

    def truncated(self, window: int) -> Operator:
        """Return the first ``window + 1`` terms."""
        return TruncatedPropagator(self, window + 1)


class NoOffset(ScanPropagator):
    """Chunks that all begin at the first step."""

    def chunked(self, length: int, offset: int = 0) -> Propagator:
        """Return chunks without their offset."""
        return super().chunked(length)


class ForgetsSteps(ScanPropagator):
    """Keeps its A, whatever other it is given."""

    def with_step(self, A: StepJacobian, *, name: str | None = None) -> Propagator:
        """Return P of the A that it has."""
        return super().with_step(self.A, name=name)


class FallsBack(ScanPropagator):
    """Gives up its form with another A."""

    def with_step(self, A: StepJacobian, *, name: str | None = None) -> Propagator:
        """Return the scan of the other A."""
        return ScanPropagator(A, name=self.name if name is None else name)


class ForgetsMetric(ScanPropagator):
    """Phi of a K without its metric."""


@neural_tangent.register
def _(P: ForgetsMetric, K: ParameterOperator) -> Operator:
    """Return ``P J J* P*``."""
    G = P @ K.jacobian
    return G @ G.T


class ProbesForTrials(ScanPropagator):
    """Adds probes up as if they were steps."""

    def _apply(self, q: Tensor) -> Tensor:
        return super()._apply(q.cumsum(0) if q.ndim > 3 else q)


class DropsTiny(ScanPropagator):
    """Takes what is tiny for zero."""

    def _apply(self, q: Tensor) -> Tensor:
        return super()._apply(q.where(q.abs() > 1e-12, 0.0))


class Spoils(ScanPropagator):
    """Works in its argument."""

    def _apply(self, q: Tensor) -> Tensor:
        q *= 0.5
        return super()._apply(2 * q)


class Doubles(ScanPropagator):
    """Computes in float64 and stays there."""

    def _apply(self, q: Tensor) -> Tensor:
        return super()._apply(q).double()


class HoldsAFunction(ScanPropagator):
    """Keeps a function that cannot be pickled."""

    def __init__(self, A: StepJacobian, *, name: str = "P") -> None:
        super().__init__(A, name=name)
        self.scan = lambda q: q


class TakesTheDiagonal(ScanPropagator):
    """Says that it takes any A, and looks at diagonals alone."""

    def _apply(self, q: Tensor) -> Tensor:
        return ScanPropagator(self.A.diagonal())._apply(q)

    def _apply_adjoint(self, r: Tensor) -> Tensor:
        return ScanPropagator(self.A.diagonal())._apply_adjoint(r)


class BuiltAllTheSame(ScanPropagator):
    """Says that it takes diagonal A alone, and is made of any."""

    def __init__(self, A: StepJacobian, *, name: str = "P") -> None:
        Operator.__init__(self, A.domain, A.domain, dtype=A.dtype, device=A.device)
        self.A, self.name, self.why = A, name, ""

    @classmethod
    def fits(cls, A: StepJacobian) -> str | None:
        """Return a reason for any A that is not diagonal."""
        return None if isinstance(A, DiagonalStepJacobian) else "it is not diagonal"


MUTANTS = tuple(
    Mutant(wrong, check, says, "propagator")
    for wrong, check, says in (
        (not_a_propagator, "propagator_builds", "expected a kpframe.Propagator, got"),
        (OneStepOff, "products_equal_inverse", "(P q)_t = q_t + A_t (P q)_{t-1}"),
        (ForwardAdjoint, "adjoint_products_equal_inverse", "P*[batch 0"),
        (WrongInverse, "inverse_is_exact", "P.inverse["),
        (WrongTransition, "transitions_equal_products", "P.transition("),
        (OneTermMore, "truncated_equals_series", "P.truncated(1)"),
        (NoOffset, "chunked_equals_cut_steps", "P.chunked("),
        (ForgetsSteps, "with_step_keeps_the_form", "its A is another"),
        (FallsBack, "with_step_keeps_the_form", "expected a FallsBack, which fits its A"),
        (ForgetsMetric, "neural_tangent_equals_three_products", "neural_tangent(P, K_M)"),
        (ProbesForTrials, "probes_batched", "P of probes [2, 2]"),
        (DropsTiny, "linear_at_every_scale", "P(8e-31 q)"),
        (Spoils, "products_are_pure", "P: it changed its argument"),
        (Doubles, "single_precision_kept", "P of a float32 vector: expected float32"),
        (HoldsAFunction, "copies_are_alike", "attributes that cannot be pickled"),
        (TakesTheDiagonal, "fits_is_honest", "which fits() takes"),
        (BuiltAllTheSame, "fits_is_honest", "it was built, and fits() says: it is not diagonal"),
    )
)
