"""Reductions of a flow's operators over named axes, against their dense matrices."""

from __future__ import annotations

import torch

from kpframe.models._linearize import linearize
from kpframe.testing._cases import FlowCase
from kpframe.testing._identity import identity
from kpframe.testing._residual import FLOOR, Residual, compare, contrast, worst
from kpframe.testing.identities.flow import trained
from kpframe.testing.identities.operators import positive

_SOURCE = "docs/mathematics.md: identities, reductions"
_BOTH = "an average goes over both copies of the axis: R op R* with one weight 1/n for each copy"


@identity("model", source=_SOURCE, look=_BOTH, batch=2)
def mean_of_mean(case: FlowCase) -> Residual:
    """The mean over one axis of the mean over another is the joint mean, and the dense average."""
    problem = case.problem
    batch, time, hidden = problem.space.shape
    found = []
    for name, op in (("K", problem.flow.K), ("Phi", problem.flow.Phi), ("P", problem.flow.P)):
        dense = op.to_dense().reshape(batch, time, hidden, batch, time, hidden)
        scale = float(dense.norm())
        joint = op.mean("batch", "time").to_dense()
        nested = op.mean("batch").mean("time").to_dense()
        found.append(compare(nested, joint, f"mean of mean of {name}", scale=FLOOR))
        found.append(
            compare(
                joint,
                dense.mean((0, 1, 3, 4)),
                f"mean of {name} over batch and time",
                scale=scale / batch / time,
            )
        )
        summed = op.sum("batch").to_dense()
        found.append(
            compare(
                summed, dense.sum((0, 3)).reshape(time * hidden, -1), f"sum of {name} over batch", scale=scale
            )
        )
    return worst(*found)


@mean_of_mean.differs
def _counted_once(case: FlowCase) -> Residual | None:
    """The axis averaged on one side and summed on the other: n times too much."""
    mean = case.problem.flow.P.mean("batch").to_dense()
    return contrast(mean, 2 * mean)


@identity(
    "model",
    source=_SOURCE,
    look="a partial trace keeps entries with equal indices on both sides; a contraction with ones is a sum",
)
def trace_of_partial_trace(case: FlowCase) -> Residual:
    """The trace of a partial trace is the trace, over any axis."""
    problem = case.problem
    found = []
    for name, op in (("K", problem.flow.K), ("Phi", problem.flow.Phi), ("P", problem.flow.P)):
        whole = op.to_dense().trace()
        for axis in ("batch", "time", "hidden"):
            traced = op.partial_trace(axis).to_dense().trace()
            found.append(compare(traced, whole, f"trace of tr_{axis}({name})"))
    return worst(*found)


@trace_of_partial_trace.differs
def _sum_for_trace(case: FlowCase) -> Residual | None:
    trace = case.problem.flow.P.to_dense().trace()
    return contrast(trace, 1.1 * trace)


@identity(
    "model",
    source=_SOURCE,
    look="causality and rollout(): the first steps must not depend on how many follow",
)
def select_commutes(case: FlowCase) -> Residual:
    """Phi at the first steps is Phi of the trajectory that ends there; rows are rows of the matrix."""
    problem = case.problem
    batch, time, hidden = problem.space.shape
    keep = max(1, time - 1)
    selected = problem.flow.Phi.select(time=slice(0, keep))
    dense = problem.flow.Phi.to_dense().reshape(batch, time, hidden, batch, time, hidden)
    rows = dense[:, :keep, :, :, :keep].reshape(batch * keep * hidden, -1)
    scale = float(dense.norm())
    in_place = compare(selected.to_dense(), rows, "Phi.select(time=...) against rows of Phi", scale=scale)
    if problem.model.steps is not None:  # no trajectory of another length is the model's
        return in_place
    mask = None if problem.mask is None else problem.mask[:, :keep]
    short = linearize(problem.model, problem.x[:, :keep], problem.h0, mask)
    return worst(
        in_place,
        compare(
            short.Phi.to_dense(),
            rows,
            f"Phi of the first {keep} steps against Phi at these steps",
            scale=scale,
        ),
    )


@select_commutes.differs
def _other_times(case: FlowCase) -> Residual | None:
    P = case.problem.flow.P.select(time=0).to_dense()
    return contrast(P, -P)


@identity(
    "model",
    source=_SOURCE,
    look="a reduction whose two sides differ: R op S* is not positive where R op R* is",
)
def reduced_K_is_positive(case: FlowCase) -> Residual:
    """Means, sums, selections, projections and partial traces of K have no negative eigenvalue."""
    problem = trained(case)
    K = problem.flow.K
    directions = problem.vector(K.domain.without("batch", "time"), 3, (2,))
    reduced = {
        "mean over time": K.mean("time"),
        "sum over batch": K.sum("batch"),
        "last step": K.select(time=-1),
        "projection": K.project(directions),
        "partial trace over hidden": K.partial_trace("hidden"),
        "block diagonal over batch": K.block_diagonal("batch"),
    }
    return worst(*(positive(op.to_dense(), f"K, {name},") for name, op in reduced.items()))


@reduced_K_is_positive.differs
def _negative(case: FlowCase) -> Residual | None:
    K: torch.Tensor = case.problem.flow.K.mean("time").to_dense()
    return None if float(K.norm()) < FLOOR else positive(-K, "-K")
