"""Models whose own A or P is wrong: the slips that a structured override is made with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from kpframe.flow._propagator import InversePropagator, Propagator, ScanPropagator, TransitionOperator
from kpframe.flow._step_jacobian import DenseStepJacobian
from kpframe.flow._trajectory import Trajectory
from kpframe.models._autograd.forms import step_blocks
from kpframe.operators import Operator
from kpframe.testing._toys import Elman, Gated
from kpframe.testing.mutants import kernels
from kpframe.testing.mutants.mutant import Mutant

Tensor = torch.Tensor


# -- the step Jacobian ---------------------------------------------------------------------------------------


class _WrongA(Elman):
    def blocks(self, trajectory: Trajectory) -> Tensor:
        """Return the wrong blocks."""
        raise NotImplementedError

    def propagator(self, trajectory: Trajectory) -> Propagator:
        """Return P of the wrong blocks."""
        return ScanPropagator(DenseStepJacobian(self.blocks(trajectory), trajectory.space))


class NoLeak(_WrongA):
    """A that forgets the path by the leak."""

    def blocks(self, trajectory: Trajectory) -> Tensor:
        """Return the blocks without their leak."""
        blocks = step_blocks(self, trajectory)
        return blocks - (1 - self.leak) * torch.eye(self.width, dtype=blocks.dtype)


class SignSlip(Gated):
    """A with the sign of the update gate's derivative turned: ``d z`` for ``-d z`` in one gain."""

    def propagator(self, trajectory: Trajectory) -> Propagator:
        """Return P with a sign error in one gate."""
        right = super().propagator(trajectory)
        gains = right.A.gains  # type: ignore[attr-defined]
        gains.stages[0].outputs[0].gains["z"].neg_()
        return right


class _Untransposed(DenseStepJacobian):
    def _apply_adjoint(self, r: Tensor) -> Tensor:
        return self._apply(r)

    def step_adjoint(self, t: int, v: Tensor) -> Tensor:
        """Return ``A_t v``: not the adjoint."""
        return self.step(t, v)


class NotTransposed(Elman):
    """A* that is A."""

    def propagator(self, trajectory: Trajectory) -> Propagator:
        """Return P whose A has the wrong adjoint."""
        return ScanPropagator(_Untransposed(step_blocks(self, trajectory), trajectory.space))


# -- the propagator ------------------------------------------------------------------------------------------


class _Wrong(ScanPropagator):
    """The wrong propagator of a model, by class."""


class _OneStepOff(_Wrong):
    def _apply(self, q: Tensor) -> Tensor:
        out = q.clone()
        for t in range(1, self.A.steps):
            out[..., t, :] += self.A.step(t - 1, out[..., t - 1, :])
        return out

    def _apply_adjoint(self, r: Tensor) -> Tensor:
        out = r.clone()
        for t in range(self.A.steps - 1, 0, -1):
            out[..., t - 1, :] += self.A.step_adjoint(t - 1, out[..., t, :])
        return out


class _ForwardAdjoint(_Wrong):
    def _apply_adjoint(self, r: Tensor) -> Tensor:
        return self._apply(r)


class _WrongInverse(_Wrong):
    def _inverse(self) -> Operator:
        """Return ``I + A Z``, with the wrong sign."""
        return 2 * InversePropagator(self) - InversePropagator(self) @ InversePropagator(self)


class _WrongTransition(_Wrong):
    def transition(self, t: int, s: int | None = None) -> TransitionOperator:
        """Return the transition with one factor too many."""
        return TransitionOperator(self.A, t, None if not s else s - 1)


class _Shifted(_Wrong):
    def _apply(self, q: Tensor) -> Tensor:
        return super()._apply(q) + 0.1


class _ProbesForTrials(_Wrong):
    def _apply(self, q: Tensor) -> Tensor:
        return super()._apply(q.cumsum(0) if q.ndim > 3 else q)


class _Spoils(_Wrong):
    def _apply(self, q: Tensor) -> Tensor:
        q *= 0.5
        return super()._apply(2 * q)


class _Ahead(_Wrong):
    def _apply(self, q: Tensor) -> Tensor:
        return super()._apply(q) + 0.1 * q.flip(-2)

    def _apply_adjoint(self, r: Tensor) -> Tensor:
        return super()._apply_adjoint(r) + 0.1 * r.flip(-2)


def with_propagator(wrong: type[Propagator]) -> type[Elman]:
    """Return a model whose propagator is of the class ``wrong``, everything else right."""

    class Model(Elman):
        def propagator(self, trajectory: Trajectory) -> Propagator:
            return wrong(super().propagator(trajectory).A)

    Model.__name__ = Model.__qualname__ = f"P{wrong.__name__}"
    return Model


class Competes(Elman):
    """``combine`` divides by a sum over units: not unit by unit."""

    def combine(
        self, u: Mapping[str, Tensor], h: Mapping[str, Tensor], t: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return a next state in which units compete."""
        return {"h": torch.tanh(u["u"]) - 0.5 * h["h"].mean(-1, keepdim=True)}


class CompetesInput(Elman):
    """``combine`` mixes the preactivations of units."""

    def combine(
        self, u: Mapping[str, Tensor], h: Mapping[str, Tensor], t: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return a next state in which units compete."""
        return {"h": torch.softmax(u["u"], dim=-1) + 0.5 * h["h"]}


def _mutants(*rows: tuple[Any, str, str]) -> tuple[Mutant, ...]:
    return tuple(Mutant(*row) for row in rows)


MUTANTS = _mutants(
    (NoLeak, "A_equals_jacrev", "the derivative of h_t by h_{t-1}"),
    (SignSlip, "A_equals_jacrev", "A[batch 0, time 0"),
    (with_propagator(_OneStepOff), "P_equals_state_transitions", "A_t times the carry of step t - 1"),
    (with_propagator(_OneStepOff), "inverse_of_P", "(I - A Z) P"),
    (with_propagator(_WrongInverse), "inverse_of_P", "P.inverse"),
    (with_propagator(_WrongTransition), "transition_composes", "A_t ... A_{s+1}"),
    (with_propagator(_Ahead), "causality", "P from a later step or another trial"),
    (kernels.NoBiasInJ, "J_equals_jacrev", "parameter bias_hh_l0"),
    (kernels.with_parameter_operator(kernels._NoBias), "phi_equals_total_jacobian", "K = J M J*"),
    (with_propagator(_OneStepOff), "phi_equals_total_jacobian", "the propagator and K = J M J*"),
    (with_propagator(_ForwardAdjoint), "gradient_equals_backward", "adjoint_of_P"),
    (kernels.with_parameter_operator(kernels._Negative), "psd_K_Phi", "has the eigenvalue -"),
    (kernels.with_parameter_operator(kernels._GroupTwice), "groups_sum_to_K", "sum of K.groups() against K"),
    (
        kernels.with_parameter_operator(kernels._Unfrozen),
        "frozen_is_zero",
        "a part of K that ignores the metric",
    ),
    (
        kernels.with_parameter_operator(kernels._Damped),
        "rank_bound",
        "nonzero eigenvalues, the number of parameters",
    ),
    (kernels.NoBiasInJ, "cross_flow_between_trials", "the parameters' order and layout"),
    (NotTransposed, "adjoint_of_A", "transpose of step"),
    (with_propagator(_ForwardAdjoint), "adjoint_of_P", "a scan backward"),
    (kernels.HalfJ, "adjoint_of_J", "parameter bias_hh_l0"),
    (kernels.with_parameter_operator(kernels._Asymmetric), "adjoint_of_K", "of the parameter operator"),
    (with_propagator(_Shifted), "operators_are_linear", "P(0): expected zero"),
    (with_propagator(_ProbesForTrials), "probes_of_flow_batched", "P of probes [2, 2]"),
    (with_propagator(_Spoils), "products_of_flow_are_pure", "P: it changed its argument"),
    (kernels.with_parameter_operator(kernels._Doubles), "flow_dtype_kept", "K of a float32 vector"),
    (kernels.with_parameter_operator(kernels._CountedOnce), "mean_of_mean", "mean of K over batch and time"),
    (
        kernels.with_parameter_operator(kernels._SumForTrace),
        "trace_of_partial_trace",
        "a contraction with ones is a sum",
    ),
    (
        kernels.with_parameter_operator(kernels._OneSided),
        "reduced_K_is_positive",
        "K, projection, has the eigenvalue -",
    ),
    (Competes, "structured_equals_autograd_A", "combine() must act unit by unit"),
    (CompetesInput, "structured_equals_autograd_J", "combine() must act unit by unit"),
    (with_propagator(_OneStepOff), "structured_equals_autograd_P", "its own scan"),
    (
        kernels.with_parameter_operator(kernels._NoBias),
        "structured_equals_autograd_K",
        "one term for each bias vector",
    ),
    (kernels.SharedStart, "K_keeps_its_blocks", "no parameter may act on entries of two labels"),
)
