"""The dynamics: roll-outs, the step Jacobian A and the propagator P against references."""

from __future__ import annotations

import torch
from hypothesis.strategies import integers

from kpframe.models._linearize import linearize
from kpframe.operators._spaces import Space
from kpframe.testing._cases import FlowCase
from kpframe.testing._identity import identity
from kpframe.testing._problem import Problem
from kpframe.testing._residual import Residual, compare, contrast, require, worst

_SOURCE = "docs/mathematics.md: identities, dynamics"

#: Numbers of steps where one step would show nothing.
SEVERAL = integers(2, 4)
_P = "the propagator: _apply adds q_t to A_t times the carry of step t - 1, and A_1 is not used"


def _state(problem: Problem) -> tuple[Space, Space]:
    return problem.space, problem.space


@identity(
    "model",
    source=_SOURCE,
    look="rollout() where the model overrides it, and what it precomputes for all steps",
)
def rollout_equals_loop_of_step(case: FlowCase) -> Residual:
    """The roll-out's states are those of a loop that calls ``step``."""
    problem = case.problem
    return compare(problem.flow.trajectory.states, problem.states, "states", spaces=(problem.space,))


@rollout_equals_loop_of_step.differs
def _one_step_late(case: FlowCase) -> Residual | None:
    states = case.problem.states
    return contrast(states, 1.1 * states)


@identity(
    "model",
    source=_SOURCE,
    look="rollout() and the structured A and J at steps where the mask is False: A = I and J = 0 there",
    mask=True,
    time=SEVERAL,
)
def masked_steps_hold(case: FlowCase) -> Residual:
    """A padded step holds the state, whatever the input there: A = I and J = 0."""
    problem = case.problem
    mask = problem.mask
    assert mask is not None  # fixed by the identity
    off = ~mask
    with torch.no_grad():
        run = problem.model.rollout(problem.x, problem.h0, mask)
    before = run.previous.detach()
    held = compare(run.states[off], before[off], "state after a padded step against the one before")
    if not held.ok:
        return held  # linearize refuses it too, and says less
    flow = problem.flow
    x = problem.x.masked_fill(off.unsqueeze(-1), float("nan"))
    blind = linearize(problem.model, x, problem.h0, mask).trajectory.states
    same = compare(blind, run.states, "states with NaN in the padding")
    q = problem.vector(problem.space)
    identity_there = compare(flow.A(q)[off], q[off], "A q at padded steps against q")
    moved = flow.J(problem.vector(flow.J.domain, 1))[off]
    return worst(held, same, identity_there, compare(moved, torch.zeros_like(moved), "J d at padded steps"))


@masked_steps_hold.differs
def _without_a_mask(case: FlowCase) -> Residual | None:
    problem = case.problem
    free = Problem(problem.model, problem.x, problem.h0, None, problem.seed).states
    if problem.mask is None or bool(problem.mask.all()) or torch.allclose(free, problem.states, rtol=1e-3):
        return None
    return contrast(free, problem.states)


@identity(
    "model",
    source=_SOURCE,
    look="what step(), propagator() or parameter_operator() sum or normalise over the batch",
    batch=2,
)
def batch_permutation_equivariance(case: FlowCase) -> Residual:
    """Trials in another order give the same states and the same Phi in that order."""
    problem = case.problem
    order = torch.arange(len(problem.x)).flip(0)
    h0 = None if problem.h0 is None else problem.h0[order]
    mask = None if problem.mask is None else problem.mask[order]
    other = linearize(problem.model, problem.x[order], h0, mask)
    states = compare(
        other.trajectory.states,
        problem.flow.trajectory.states[order],
        "states of permuted trials",
        spaces=(problem.space,),
    )
    q = problem.vector(problem.space)
    found = [states]
    for name in ("A", "P", "K", "Phi"):
        expected, actual = getattr(problem.flow, name)(q)[order], getattr(other, name)(q[order])
        found.append(compare(actual, expected, f"{name} of permuted trials", spaces=(problem.space,)))
    return worst(*found)


@batch_permutation_equivariance.differs
def _order_kept(case: FlowCase) -> Residual | None:
    problem = case.problem
    out = problem.flow.P(problem.vector(problem.space))
    return contrast(out.flip(0), out)


@identity(
    "model",
    source=_SOURCE,
    look="what rollout() looks at beyond x[:, :t], and _apply of the propagator",
    time=SEVERAL,
)
def causality(case: FlowCase) -> Residual:
    """Later inputs move no earlier state; P is lower triangular in time and block diagonal over trials."""
    problem = case.problem
    found = [_ahead(problem, problem.flow.P.to_dense())]
    for t in range(1, problem.space.shape[1]):
        x = problem.x.clone()
        x[:, t:] += 1.0
        moved = problem.model.rollout(x, problem.h0, problem.mask).states.detach()
        now = problem.flow.trajectory.states
        found.append(
            compare(
                moved[:, :t], now[:, :t], f"states before step {t}, where inputs from step {t} on changed"
            )
        )
    return worst(*found)


def _ahead(problem: Problem, P: torch.Tensor) -> Residual:
    """Return the part of a dense P that comes from later steps or other trials."""
    batch, time, hidden = problem.space.shape
    forbidden = torch.ones(batch, time, batch, time, dtype=torch.bool)
    for b in range(batch):
        forbidden[b, :, b, :] = ~torch.ones(time, time, dtype=torch.bool).tril()
    blocks = P.reshape(batch, time, hidden, batch, time, hidden).permute(0, 1, 3, 4, 2, 5)
    there = blocks[forbidden]
    what = "P from a later step or another trial"
    return compare(there, torch.zeros_like(there), what, scale=float(P.norm()))


@causality.differs
def _a_little_ahead(case: FlowCase) -> Residual | None:
    batch, time, _ = case.problem.space.shape
    if batch == time == 1:  # there is no other trial and no later step
        return None
    P = case.problem.flow.P.to_dense()
    return _ahead(case.problem, P + 0.1 * P.norm())


@identity(
    "model",
    source=_SOURCE,
    look="step() and propagator(): the derivative of h_t by h_{t-1} at fixed input and parameters",
)
def A_equals_jacrev(case: FlowCase) -> Residual:
    """``A_t`` is the Jacobian of ``step`` by its state, zero between trials and between steps."""
    problem = case.problem
    return compare(problem.flow.A.to_dense(), problem.A, "A", spaces=_state(problem))


@A_equals_jacrev.differs
def _with_self_connections(case: FlowCase) -> Residual | None:
    A = case.problem.flow.A.to_dense()
    return contrast(A, A + 0.1 * (1 + A.norm()) * torch.eye(len(A), dtype=A.dtype))


@identity("model", source=_SOURCE, look=_P)
def P_equals_state_transitions(case: FlowCase) -> Residual:
    """``P[t, s] = dh_t / dh_s``: how the roll-out answers to a perturbation of the state after step s."""
    problem = case.problem
    return compare(problem.flow.P.to_dense(), problem.transitions, "P", spaces=_state(problem))


@P_equals_state_transitions.differs
def _summed_over_time(case: FlowCase) -> Residual | None:
    """The sum of transitions in the place of the transition: a published slip."""
    problem = case.problem
    P = problem.flow.P.to_dense()
    return contrast(P, P + 0.1 * P.abs())


@identity("model", source=_SOURCE, look=_P + "; inverse must be I - A Z with the same A")
def inverse_of_P(case: FlowCase) -> Residual:
    """``(I - A Z) P = I = P (I - A Z)``."""
    problem = case.problem
    P, inverse = problem.flow.P, problem.flow.P.inverse
    A = problem.flow.A.to_dense()
    batch, time, hidden = problem.space.shape
    Z = torch.zeros(batch, time, hidden, batch, time, hidden, dtype=A.dtype)
    for b in range(batch):
        for t in range(1, time):
            Z[b, t, :, b, t - 1] = torch.eye(hidden, dtype=A.dtype)
    eye = torch.eye(len(A), dtype=A.dtype)
    written = eye - A @ Z.reshape(len(A), -1)
    p = P.to_dense()
    scale = float(p.norm() * written.norm())
    spaces = _state(problem)
    return worst(
        compare(written @ p, eye, "(I - A Z) P", scale=scale, spaces=spaces),
        compare(p @ written, eye, "P (I - A Z)", scale=scale, spaces=spaces),
        compare(inverse.to_dense(), written, "P.inverse", spaces=spaces),
    )


@inverse_of_P.differs
def _of_another_A(case: FlowCase) -> Residual | None:
    p = case.problem.flow.P.to_dense()
    return contrast(1.1 * p, p)


@identity(
    "model",
    source=_SOURCE,
    look="transition() of the propagator: A_t ... A_{s+1}, the latest step on the left",
)
def transition_composes(case: FlowCase) -> Residual:
    """``P[t, s] P[s, r] = P[t, r]`` and ``P[t, t] = I``; from the initial state on, A_1 comes in."""
    problem = case.problem
    P, last = problem.flow.P, problem.space.shape[1] - 1
    found = []
    whole = P.transition(last, None).to_dense()
    for s in range(last + 1):
        late, early = P.transition(last, s).to_dense(), P.transition(s, None).to_dense()
        scale = float(late.norm() * early.norm())
        found.append(compare(late @ early, whole, f"P[{last}, {s}] P[{s}, h0]", scale=scale))
        block = P.select(time=slice(s, last + 1)).to_dense()
        batch, hidden = problem.x.shape[0], problem.space.shape[2]
        block = block.reshape(batch, last + 1 - s, hidden, batch, last + 1 - s, hidden)[:, -1, :, :, 0]
        found.append(compare(late, block.reshape(batch * hidden, -1), f"P[{last}, {s}] against P"))
    nothing = P.transition(last, last).to_dense()
    found.append(compare(nothing, torch.eye(len(nothing), dtype=nothing.dtype), f"P[{last}, {last}]"))
    return worst(*found)


@transition_composes.differs
def _one_factor_too_few(case: FlowCase) -> Residual | None:
    nothing = case.problem.flow.P.transition(0, 0).to_dense()
    return contrast(nothing, 0.9 * nothing)


@identity(
    "model",
    source="docs/plugins.md: the contract of step",
    look="a torch.where whose unused branch divides by zero, or sqrt and norm at zero: its gradient is NaN; "
    "replace the argument first (double where)",
)
def derivatives_are_finite(case: FlowCase) -> Residual:
    """Along a finite trajectory A and K are finite."""
    for name, op in (("A", case.problem.flow.A), ("K", case.problem.flow.K)):
        dense = op.to_dense(check=False)
        place = (
            "" if bool(torch.isfinite(dense).all()) else str((~torch.isfinite(dense)).nonzero()[0].tolist())
        )
        require(not place, f"{name} holds NaN or infinity at {place}, along a finite trajectory")
    return Residual(0.0)
