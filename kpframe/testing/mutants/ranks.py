"""What is right in one process, and wrong where ranks share the trials."""

from __future__ import annotations

from typing import Any

import torch

from kpframe.flow import local_jacobian
from kpframe.flow._flow import Flow
from kpframe.flow._parameter_operator import ProductParameterOperator
from kpframe.flow._propagator import Propagator, ScanPropagator
from kpframe.flow._trajectory import Trajectory
from kpframe.operators import Operator
from kpframe.operators._shards import Shards
from kpframe.rules._update import Update
from kpframe.tasks._readout import Readout
from kpframe.testing._toys import Elman
from kpframe.testing.mutants.mutant import Mutant
from kpframe.testing.mutants.rules import Exact

Tensor = torch.Tensor


# -- models --------------------------------------------------------------------------------------------------


class CentredInputs(Elman):
    """Takes the mean over its trials off the inputs: over those of a rank, where ranks share them."""

    def rollout(self, x: Tensor, h0: Tensor | None = None, mask: Tensor | None = None) -> Trajectory:
        """Return the roll-out of inputs without their mean."""
        return super().rollout(x - x.mean(0), h0, mask)


class StartsByTrial(Elman):
    """Starts each trial elsewhere, by its place: on a rank by its place there."""

    def initial_state(self, batch: int) -> Tensor:
        """Return states that grow with the place."""
        places = torch.arange(batch, dtype=self.weight_hh_l0.dtype)
        return 0.1 * places[:, None].expand(batch, self.width)


class _Made(Elman):
    """An ``Elman`` cell with P of another class."""

    form: type[ScanPropagator]

    def propagator(self, trajectory: Trajectory) -> Propagator:
        """Return P in that form."""
        return self.form(super().propagator(trajectory).A)


class DividedScan(ScanPropagator):
    """Divides by how many trials there are here, as if a mean were taken."""

    def _apply(self, q: Tensor) -> Tensor:
        return super()._apply(q) / q.shape[-3]

    def _apply_adjoint(self, r: Tensor) -> Tensor:
        return super()._apply_adjoint(r) / r.shape[-3]


class MeanScan(ScanPropagator):
    """Has a mean over trials of its own, which counts those of this rank."""

    def mean(self, *axes: str) -> Operator:
        """Return the mean, of another size where ranks share the trials."""
        return super().mean(*axes) * (self.domain["batch"].total / self.domain["batch"].size)


class GatheringScan(ScanPropagator):
    """Collects the vectors of all ranks and takes its own: right, and the memory of one machine."""

    def _apply(self, q: Tensor) -> Tensor:
        return super()._apply(_gathered(q, self.domain.shards))

    def _apply_adjoint(self, r: Tensor) -> Tensor:
        return super()._apply_adjoint(_gathered(r, self.domain.shards))


class SummingScan(ScanPropagator):
    """The same by a sum of vectors that are zero elsewhere."""

    def _apply(self, q: Tensor) -> Tensor:
        if (shards := self.domain.shards) is None:
            return super()._apply(q)
        moved = q.movedim(-3, 0)
        all_ = torch.zeros(shards.total, *moved.shape[1:], dtype=q.dtype)
        all_[shards.start : shards.start + len(moved)] = moved
        found = shards.sum(all_)[shards.start : shards.start + len(moved)]
        return super()._apply(found.movedim(0, -3).contiguous())


def _gathered(q: Tensor, shards: Shards | None) -> Tensor:
    """Return what is given, after every rank's was collected."""
    if shards is None:
        return q
    from torch import distributed

    largest = max(shards.counts)
    padded = torch.zeros(*q.shape[:-3], largest, *q.shape[-2:], dtype=q.dtype)
    padded[..., : q.shape[-3], :, :] = q
    found = [torch.empty_like(padded) for _ in shards.counts]
    distributed.all_gather(found, padded.contiguous(), group=shards.group)
    return found[shards.rank][..., : q.shape[-3], :, :].contiguous()


class Divided(_Made):
    """P is divided by the number of trials here."""

    form = DividedScan


class OwnMean(_Made):
    """P has a mean of its own."""

    form = MeanScan


class Gathering(_Made):
    """P gathers vectors."""

    form = GatheringScan


class Summing(_Made):
    """P gathers vectors by a sum."""

    form = SummingScan


class FailsAlone(_Made):
    """P raises an error on one rank, where it has one trial."""

    class form(ScanPropagator):
        """Takes two trials and more."""

        def _apply(self, q: Tensor) -> Tensor:
            if self.domain.shards is not None and q.shape[-3] == 1:
                raise IndexError("index 1 is out of bounds")
            return super()._apply(q)


# -- rules ---------------------------------------------------------------------------------------------------


class DrawsByPlace(Exact):
    """Weighs each trial by a draw, in the order in which this rank holds them."""

    def gradient(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Return the gradient of errors weighed at random."""
        flow, err, *others = args
        weights = torch.rand(len(err), generator=torch.Generator().manual_seed(3), dtype=err.dtype)
        return super().gradient(flow, err * weights[:, None, None], *others, **kwargs)


class OwnTrials(Exact):
    """Adds up over the trials of this rank alone."""

    def update_operator(self, flow: Flow, readout: Readout | None = None) -> Operator:
        """Return ``J* P*`` of these trials."""
        return local_jacobian(flow.J).T @ flow.P.T


class MeanError(Exact):
    """Divides by the number of trials, of which it counts those that are here."""

    def change(self, update: Update) -> Update:
        """Return the update with a smaller metric."""
        return update.replace(P=update.P * (1 / update.P.domain["batch"].size))


# -- forms ---------------------------------------------------------------------------------------------------


class NoSum(ProductParameterOperator):
    """``K`` of this rank's trials: what J* says is not added up."""

    def _sandwich(self, metric: Operator, q: Tensor) -> Tensor:
        J = local_jacobian(self.jacobian)
        return J._apply(metric._apply(J._apply_adjoint(q)))


class SumsTwice(ProductParameterOperator):
    """Asks the other ranks twice."""

    def _sandwich(self, metric: Operator, q: Tensor) -> Tensor:
        twice = self.jacobian._apply_adjoint(q) + self.jacobian._apply_adjoint(q)
        return self.jacobian._apply(metric._apply(twice / 2))


def _mutants(kind: str, *rows: tuple[Any, str, str]) -> tuple[Mutant, ...]:
    return tuple(Mutant(*row, kind=kind, ranks=2) for row in rows)


MUTANTS = (
    *_mutants(
        "model",
        (CentredInputs, "trajectory_on_ranks", "the trajectory on 2 ranks of 2 + 1 trials"),
        (StartsByTrial, "trajectory_on_ranks", "the trajectory on 2 ranks of 2 + 1 trials[batch 2"),
        (Divided, "local_products_on_ranks", "P q on 2 ranks of"),
        (Divided, "parameter_products_on_ranks", "G q on 2 ranks of"),
        (Divided, "phi_on_ranks", "Phi q on 2 ranks of"),
        (Divided, "inner_products_on_ranks", "<Phi q, r> on 2 ranks of"),
        (OwnMean, "reductions_on_ranks", "mean over batch of P: q on 2 ranks of"),
        (Divided, "estimate_on_ranks", "the trace of Phi on 2 ranks of"),
        (Gathering, "sent_on_ranks", "got allgather: states are not to be gathered"),
        (Summing, "sent_on_ranks", "one all-reduce of 0 numbers at most, got "),
        (FailsAlone, "phi_on_ranks", "rank 1 failed: IndexError: index 1 is out of bounds"),
    ),
    *_mutants(
        "rule",
        (DrawsByPlace, "update_on_ranks", "the update of DrawsByPlace() on 2 ranks of"),
        (OwnTrials, "update_operators_on_ranks", "the update of OwnTrials():"),
        (MeanError, "update_on_ranks", "the update of MeanError() on 2 ranks of"),
    ),
    *_mutants(
        "propagator",
        (DividedScan, "propagator_on_ranks", "P q on 2 ranks of"),
        (GatheringScan, "sent_by_propagator_on_ranks", "got allgather: states are not to be gathered"),
    ),
    *_mutants(
        "parameter_operator",
        (NoSum, "parameter_operator_on_ranks", "K q on 2 ranks of"),
        (SumsTwice, "sent_by_parameter_operator_on_ranks", "numbers at most, got "),
    ),
)
