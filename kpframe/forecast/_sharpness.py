"""Sharpness: the largest eigenvalue of the loss's Hessian in the parameters, by Hessian-vector products."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from attrs import frozen

from kpframe.errors import UnsupportedError
from kpframe.flow._flow import Flow
from kpframe.forecast._objective import Objective, learned
from kpframe.forecast._output_kernel import output_kernel
from kpframe.forecast._stable_rate import agree
from kpframe.models._autograd.linearization import Linearization, Recipe, recording
from kpframe.operators._base import Operator
from kpframe.operators._isolation import in_isolation
from kpframe.operators._spaces import Space
from kpframe.spectra._eigsh import eigsh
from kpframe.spectra._numerics.probes import agreed, new_generator
from kpframe.tasks._error import loss_part
from kpframe.tasks._readout import Readout
from kpframe.tasks._task import Loss, Trials


@frozen
class Sharpness:
    """The largest eigenvalue of the loss's Hessian.

    Attributes:
        value: the eigenvalue; below zero where the loss curves down in all directions.
        residual: of its eigenvector: some eigenvalue is that near.
        converged: whether it has been shown to be the largest one, within the tolerance.
        num_matvecs: Hessian-vector products.
        method: how it was found.
    """

    value: float
    residual: float
    converged: bool
    num_matvecs: int
    method: str


@in_isolation
def sharpness(
    flow: Flow,
    readout: Readout,
    trials: Trials,
    loss: Loss,
    *,
    budget: int | None = None,
    tol: float | None = None,
    generator: torch.Generator | None = None,
) -> Sharpness:
    """Return the largest eigenvalue of the Hessian of the loss in all that learns, network and readout.

    It is the curvature of ``stable_rate`` and, beside it, the errors times the curvature of the network.

    Args:
        flow: of the network along the trials.
        readout: its readout; those of its parameters that require gradients learn.
        trials: those the flow was made along.
        loss: ``mse`` or ``cross_entropy``.
        budget: as in ``kpframe.eigsh``; a Hessian-vector product counts for one.
        tol: as in ``kpframe.eigsh``.
        generator: as in ``kpframe.eigsh``.

    Raises:
        ArgumentError, ShapeError, DtypeError, DeviceError, NonFiniteError, RankError: as ``stable_rate``.
        UnsupportedError: for a model whose derivative cannot be differentiated again.

    Source: Pearlmutter 1994 (Hessian-vector products).
    """
    output_kernel(flow, readout)  # which checks the readout
    agree(flow.P.domain, loss, budget, tol)
    count = Objective.of(flow, readout, trials, loss).count
    hessian = _Hessian(flow, readout, trials, loss, count)
    # the Hessian is on parameters alone, so that eigsh sees no ranks to compare
    source = agreed(new_generator(generator), flow.P)
    pairs = eigsh(hessian, k=1, budget=budget, tol=tol, generator=source)
    return Sharpness(
        float(pairs.eigenvalues[0]),
        float(pairs.residual_norms[0]),
        bool(pairs.converged[0]),
        pairs.num_matvecs,
        pairs.method,
    )


class _Hessian(Operator):
    """The Hessian of the loss, as the derivative of a gradient that is kept with its graph.

    Args:
        flow, readout, trials, loss: whose loss it is.
        count: number of scored steps, of all ranks.
    """

    def __init__(self, flow: Flow, readout: Readout, trials: Trials, loss: Loss, count: int) -> None:
        space = Space.of(parameter=sum(p.numel() for p in learned(flow.model, readout)))
        states = flow.trajectory.states
        super().__init__(space, space, dtype=states.dtype, device=states.device)
        recipe = partial(_gradient, flow, readout, trials, loss, count)
        self._trials = flow.P.domain  # over whose ranks parts add up
        self._gradient = self._trials.together(partial(_recorded, recipe, states.device))

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        rows = q.reshape(-1, q.shape[-1])
        found = self._gradient.vjp(rows)
        flat = torch.cat([part.reshape(len(rows), -1) for part in found], dim=1)
        return self._trials.sum(flat).reshape(q.shape)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return self._apply(r)

    @property
    def self_adjoint(self) -> bool:
        """Whether it is self-adjoint: second derivatives commute."""
        return True

    def _formula(self) -> tuple[str, int]:
        return "Hessian", 3


def _recorded(recipe: Recipe, device: torch.device) -> Linearization:
    try:
        return Linearization.of(recipe, device)
    except RuntimeError as error:
        raise UnsupportedError(
            f"model: expected derivatives that can be differentiated again, got {error}"
        ) from error


def _gradient(
    flow: Flow, readout: Readout, trials: Trials, loss: Loss, count: int
) -> tuple[torch.Tensor, Sequence[torch.Tensor]]:
    """Return the gradient ``[M]`` of these trials' part of the loss, and what it is differentiated by."""
    own, parameters = flow.trajectory, learned(flow.model, readout)
    with recording(own.states.device, "sharpness"):
        states = flow.model.rollout(own.inputs, own.initial_state if own.given else None, own.mask).states
        value = loss_part(readout(states), trials, loss, count)
        found = torch.autograd.grad(value, parameters, create_graph=True, allow_unused=True)
        parts = [torch.zeros_like(p) if g is None else g for g, p in zip(found, parameters, strict=True)]
        return torch.cat([part.reshape(-1) for part in parts]), parameters
