"""Models that go wrong with what is around them: contexts, copies, shared parameters, scale."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

import torch

from kpframe.flow._parameter_operator import ParameterOperator, ProductParameterOperator
from kpframe.flow._propagator import Propagator, ScanPropagator
from kpframe.flow._step_jacobian import DenseStepJacobian
from kpframe.flow._trajectory import Trajectory
from kpframe.models._autograd.forms import AutogradParameterJacobian, step_blocks
from kpframe.spectra._numerics import matvecs
from kpframe.testing._toys import Elman
from kpframe.testing.mutants.mutant import Mutant

Tensor = torch.Tensor


class _Blocks(DenseStepJacobian):
    """The right blocks, for a mutant to go wrong with."""

    @classmethod
    def along(cls, model: Elman, trajectory: Trajectory) -> Propagator:
        """Return the propagator of a model's blocks."""
        return ScanPropagator(cls(step_blocks(model, trajectory), trajectory.space))


class _Untyped(_Blocks):
    """Makes a number of its own with each product, in the default dtype of whoever calls."""

    def step(self, t: int, v: Tensor) -> Tensor:
        """Return ``A_t v`` times 1, as closely as the default dtype holds a tenth."""
        return torch.tensor(0.1) * super().step(t, v) / 0.1


class Untyped(Elman):
    """A that follows the default dtype where it makes a tensor."""

    def propagator(self, trajectory: Trajectory) -> Propagator:
        """Return P of the step Jacobian without a dtype."""
        return _Untyped.along(self, trajectory)


class _Forgets(_Blocks):
    """Leaves what it keeps out of a copy, and does not make it again."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_blocks": torch.zeros_like(self._blocks)}


class ForgetsItself(Elman):
    """A that is zero after a round trip by pickle or a deep copy."""

    def propagator(self, trajectory: Trajectory) -> Propagator:
        """Return P of the forgetful step Jacobian."""
        return _Forgets.along(self, trajectory)


class _Threshold(_Blocks):
    """Takes what is small for nothing."""

    def step(self, t: int, v: Tensor) -> Tensor:
        """Return ``A_t v``, small entries of v left out."""
        return super().step(t, torch.where(v.abs() < 1e-15, 0, v))


class Threshold(Elman):
    """A with an absolute tolerance in it."""

    def propagator(self, trajectory: Trajectory) -> Propagator:
        """Return P of the step Jacobian with a tolerance."""
        return _Threshold.along(self, trajectory)


class ByName(Elman):
    """J that finds a shared parameter under its first name only."""

    def parameter_operator(self, trajectory: Trajectory) -> ParameterOperator:
        """Return K of a copy in which a shared parameter learns at its first place alone."""
        apart = copy.deepcopy(self)
        seen: set[int] = set()
        for name, parameter in apart.named_parameters(remove_duplicate=False):
            if id(parameter) in seen:
                setattr(apart, name, torch.nn.Parameter(parameter.detach().clone(), requires_grad=False))
            seen.add(id(parameter))
        return ProductParameterOperator(AutogradParameterJacobian(apart, trajectory))


def _without_units() -> AbstractContextManager[Any]:
    """Return a context in which estimators square what they see as it is."""
    return patch.object(matvecs, "unit_of", lambda values: 1.0)


MUTANTS = (
    Mutant(Untyped, "surroundings_change_nothing", "without dtype= and device="),
    Mutant(ForgetsItself, "copies_give_the_same", "that __getstate__ leaves out"),
    Mutant(ByName, "shared_parameters_are_one", "known by identity, not by name"),
    Mutant(Threshold, "products_know_no_scale", "compared with entries of the argument"),
    Mutant(Elman, "ranks_know_no_scale", "of the model's own K and P", patch=_without_units),
)
