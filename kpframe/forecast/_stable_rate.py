"""The largest learning rate at which gradient descent is stable: 2 over the loss's curvature along the flow.

With H the loss's Hessian in the outputs (``_objective``), the linearised network's outputs obey, near y::

    y <- y - eta Theta e,       e <- (I - eta H Theta) e                                                 (1)

which shrinks along all directions of Theta where ``eta < 2 / lambda_max(H^1/2 Theta H^1/2)``. That product
has the eigenvalues of the Gauss-Newton matrix of the loss in the parameters, ``G_y* H G_y``: the loss's own
curvature but for what comes of the curvature of the network, which is zero where the error is.

Sources: LeCun, Simard, Pearlmutter 1993; Cohen et al. 2021, arXiv 2103.00065 (the edge of stability).
"""

from __future__ import annotations

import math

import torch
from attrs import frozen

from kpframe.flow._flow import Flow
from kpframe.forecast._objective import Objective
from kpframe.forecast._output_kernel import OutputKernel, output_kernel
from kpframe.operators._base import Operator
from kpframe.operators._isolation import in_isolation
from kpframe.operators._spaces import Space
from kpframe.spectra._eigsh import eigsh
from kpframe.tasks._readout import Readout
from kpframe.tasks._task import Loss, Trials


@frozen
class StableRate:
    """The largest stable learning rate of gradient descent, to first order in the network.

    Attributes:
        rate: the largest eta, ``2 / curvature``; infinite where nothing moves the outputs.
        curvature: ``lambda_max(H^1/2 Theta H^1/2)``, per unit of learning rate.
        residual: of its eigenvector: some eigenvalue is that near.
        converged: whether it has been shown to be the largest one, within the tolerance.
        num_matvecs: products with Theta.
        method: how it was found.
    """

    rate: float
    curvature: float
    residual: float
    converged: bool
    num_matvecs: int
    method: str


@in_isolation
def stable_rate(
    flow: Flow,
    readout: Readout,
    trials: Trials,
    loss: Loss,
    *,
    budget: int | None = None,
    tol: float | None = None,
    generator: torch.Generator | None = None,
) -> StableRate:
    """Return the largest learning rate at which gradient descent on these trials is stable.

    At a minimum of the loss gradient descent of the network itself converges below it and leaves the minimum
    above it; elsewhere it speaks of the linearised network, and the curvature of the network itself
    (``sharpness``) says how far they are from each other. It is that of plain gradient descent on all of the
    trials: with momentum mu the largest is ``(1 + mu)`` times that, for Adam it is no bound at all.

    Args:
        flow: of the network along the trials.
        readout: its readout; see ``output_kernel``.
        trials: those the flow was made along.
        loss: ``mse`` or ``cross_entropy``.
        budget: number of products with Theta, as in ``kpframe.eigsh``.
        tol: as in ``kpframe.eigsh``.
        generator: as in ``kpframe.eigsh``.

    Raises:
        ArgumentError, ShapeError, DtypeError, DeviceError, NonFiniteError: naming the argument, what was
            expected and what came; also where no step is scored.
        RankError: where ranks share the trials, for settings or a readout that are not the same on all.

    Sources: LeCun, Simard, Pearlmutter 1993; Cohen et al. 2021, arXiv 2103.00065.
    """
    theta = output_kernel(flow, readout)
    agree(theta.domain, loss, budget, tol)
    objective = Objective.of(flow, readout, trials, loss)
    return leading(theta, objective, budget=budget, tol=tol, generator=generator)


def agree(space: Space, loss: Loss, budget: int | None, tol: float | None) -> None:
    """Raise ``RankError`` unless settings are the same on all ranks of a space."""
    space.agree("loss, budget and tol", (loss, budget, tol))


def leading(
    theta: OutputKernel,
    objective: Objective,
    *,
    budget: int | None = None,
    tol: float | None = None,
    generator: torch.Generator | None = None,
) -> StableRate:
    """Return the largest stable rate of an output kernel and a loss."""
    pairs = eigsh(curvature(theta, objective), k=1, budget=budget, tol=tol, generator=generator)
    value = max(float(pairs.eigenvalues[0]), 0.0)
    return StableRate(
        2 / value if value > 0 else math.inf,
        value,
        float(pairs.residual_norms[0]),
        bool(pairs.converged[0]),
        pairs.num_matvecs,
        pairs.method,
    )


def curvature(theta: OutputKernel, objective: Objective) -> Operator:
    """Return ``F* Theta F`` with ``H = F F*``: it has the eigenvalues of ``H^1/2 Theta H^1/2``."""
    root = objective.root(theta)
    return root.T @ theta @ root
