"""The flow: how parameters move the trajectory, against autograd through the whole roll-out."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from hypothesis.strategies import integers

from kpframe.rules._gradient_flow import actual_change, cross_flow
from kpframe.testing._cases import FlowCase
from kpframe.testing._identity import identity
from kpframe.testing._problem import Problem
from kpframe.testing._residual import FLOOR, NotApplicable, Residual, below, compare, contrast, require, worst
from kpframe.testing.identities.operators import positive, tags

_SOURCE = "docs/mathematics.md: identities, flow"


def trained(case: FlowCase) -> Problem:
    """Return the case's problem; raises ``NotApplicable`` when nothing trains."""
    problem = case.problem
    if not problem.flow.J.domain.size:
        raise NotApplicable("the model has no trainable parameter")
    return problem


@identity(
    "model",
    source=_SOURCE,
    look="parameter_operator(): the derivative of h_t by each parameter at fixed h_{t-1}, in their order",
)
def J_equals_jacrev(case: FlowCase) -> Residual:
    """``J`` is the Jacobian of ``step`` by the parameters, at fixed ``h_{t-1}``."""
    problem = trained(case)
    return compare(problem.flow.J.to_dense(), problem.J, "J", spaces=(problem.space, problem.flow.J.domain))


@J_equals_jacrev.differs
def _last_step_missing(case: FlowCase) -> Residual | None:
    J = case.problem.flow.J.to_dense()
    return contrast(J, 0.9 * J)


@identity(
    "model",
    source="docs/mathematics.md: Phi = P K P* = G G*, G = dh/dtheta",
    look="if A_equals_jacrev and J_equals_jacrev hold: the propagator and K = J M J*; if not, start there",
)
def phi_equals_total_jacobian(case: FlowCase) -> Residual:
    """``Phi = G G*`` with G the autograd Jacobian of the whole roll-out."""
    problem = trained(case)
    G = problem.G
    scale = float(G.norm()) ** 2
    return compare(
        problem.flow.Phi.to_dense(), G @ G.mT, "Phi", scale=scale, spaces=(problem.space, problem.space)
    )


@phi_equals_total_jacobian.differs
def _without_the_last_state(case: FlowCase) -> Residual | None:
    problem = case.problem
    G = problem.G.clone()
    G[G.norm(dim=1).argmax()] = 0
    return contrast(problem.flow.Phi.to_dense(), G @ G.mT)


@identity("model", source=_SOURCE, look="adjoint_of_P and adjoint_of_J, then phi_equals_total_jacobian")
def gradient_equals_backward(case: FlowCase) -> Residual:
    """``J* P* Err`` is the gradient that ``loss.backward()`` gives through the roll-out."""
    problem = trained(case)
    err = problem.vector(problem.space)
    states = problem.model.rollout(problem.x, problem.h0, problem.mask).states
    theta = problem.theta
    if states.requires_grad:
        found = torch.autograd.grad((err * states).sum(), theta, allow_unused=True, materialize_grads=True)
    else:
        found = tuple(torch.zeros_like(p) for p in theta)
    expected = torch.cat([g.reshape(-1) for g in found])
    actual = (problem.flow.J.T @ problem.flow.P.T)(err)
    scale = float(problem.G.norm() * err.norm())
    return compare(actual, expected, "gradient", scale=scale, spaces=(problem.flow.J.domain,))


@gradient_equals_backward.differs
def _of_another_error(case: FlowCase) -> Residual | None:
    problem = case.problem
    gradient = problem.flow.J.T @ problem.flow.P.T
    err = problem.vector(problem.space)
    return contrast(gradient(err), gradient(1.5 * err))


@identity(
    "model",
    source="docs/mathematics.md: identities, Taylor",
    look="detach(), .data, .item(), numpy or torch.no_grad() inside step(): autograd, and all that derives "
    "from it, does not see past them",
    kind="normal",
)
def taylor_slope(case: FlowCase) -> Residual:
    """``|h(theta + eps d) - h(theta) - eps P J d|`` falls as eps squared: measured slope 2 or more."""
    problem = trained(case)
    flow = problem.flow
    d = problem.vector(flow.J.domain, 1)
    d = d / d.norm()
    slope = _slope(problem, d, flow.P(flow.J(d)))
    return Residual(
        below(slope, 2),
        0.1,
        f"prediction against roll-outs with moved parameters: slope {slope:.3f}, expected 2",
    )


def _slope(problem: Problem, d: torch.Tensor, predicted: torch.Tensor) -> float:
    """Return the steepest fall of the error of a prediction, in powers of eps; infinite where it is exact."""
    states = problem.flow.trajectory.states
    size = 1 + float(states.norm())
    errors = []
    for eps in (1e-2, 1e-3, 1e-4):
        gap = actual_change(problem.flow, d, -eps) - eps * predicted
        errors.append(float(gap.norm()))
        if errors[-1] <= 1e-12 * size:
            return math.inf
    slopes = [math.log10(a / b) for a, b in pairwise(errors)]
    return math.nan if any(map(math.isnan, slopes)) else max(slopes)


@taylor_slope.differs
def _prediction_of_nothing(case: FlowCase) -> Residual | None:
    problem = case.problem
    d = problem.vector(problem.flow.J.domain, 1)
    d = d / d.norm()
    predicted = problem.flow.P(problem.flow.J(d))
    if float(predicted.norm()) < FLOOR:
        return None
    return Residual(below(_slope(problem, d, 1.5 * predicted), 2), 0.1)


@identity(
    "model", source=_SOURCE, look="a metric or a K written by hand that is not of the form J M J* with M >= 0"
)
def psd_K_Phi(case: FlowCase) -> Residual:
    """K and Phi have no negative eigenvalue, and their tags are true."""
    flow = trained(case).flow
    return worst(
        *(positive(op.to_dense(), name) for name, op in (("K", flow.K), ("Phi", flow.Phi))),
        *(tags(op, name) for name, op in (("K", flow.K), ("Phi", flow.Phi), ("P", flow.P), ("A", flow.A))),
    )


@psd_K_Phi.differs
def _negative(case: FlowCase) -> Residual | None:
    K = case.problem.flow.K.to_dense()
    return None if float(K.norm()) < FLOOR else positive(-K, "-K")


@identity("model", source=_SOURCE, look="groups() and restrict() of the parameter operator")
def groups_sum_to_K(case: FlowCase) -> Residual:
    """The operators of the parameters one by one add up to K, and freezing one takes its own away."""
    problem = trained(case)
    K, space = problem.flow.K, problem.space
    groups = {name: group.to_dense() for name, group in K.groups().items()}
    names = [part.name for part in problem.flow.J.domain.axes[0].parts]
    require(list(groups) == names, f"K.groups(): expected {names}, got {list(groups)}")
    whole, first = K.to_dense(), names[0]
    parts = torch.stack(list(groups.values()))
    total = compare(parts.sum(0), whole, "sum of K.groups() against K", spaces=(space, space))
    rest = compare(
        K.freeze([first]).to_dense() + groups[first],
        whole,
        f"K.freeze([{first!r}]) + K.restrict([{first!r}])",
        spaces=(space, space),
    )
    return worst(total, rest)


@groups_sum_to_K.differs
def _without_the_largest(case: FlowCase) -> Residual | None:
    K = case.problem.flow.K
    groups = [group.to_dense() for group in K.groups().values()]
    largest = max(groups, key=lambda g: float(g.norm()))
    return contrast(K.to_dense() - largest, K.to_dense())


@identity(
    "model",
    source=_SOURCE,
    look="freeze() and with_metric() of the parameter operator: a part of K that ignores the metric",
)
def frozen_is_zero(case: FlowCase) -> Residual:
    """With every parameter frozen nothing moves."""
    problem = trained(case)
    frozen = problem.flow.K.freeze(["*"]).to_dense()
    scale = float(problem.flow.K.to_dense().norm())
    return compare(frozen, torch.zeros_like(frozen), "K with all parameters frozen", scale=scale)


@frozen_is_zero.differs
def _nothing_frozen(case: FlowCase) -> Residual | None:
    K = case.problem.flow.K.to_dense()
    return contrast(K, torch.zeros_like(K))


@identity(
    "model",
    source=_SOURCE,
    look="a K that is not J M J*: something was added to it (a damping, an identity)",
    batch=2,
    time=integers(2, 4),
)
def rank_bound(case: FlowCase) -> Residual:
    """K, Phi and the K of each parameter have no more nonzero eigenvalues than there are parameters."""
    problem = trained(case)
    K, found = problem.flow.K, []
    for name, op in (("K", K), ("Phi", problem.flow.Phi)):
        found.append(_beyond(op.to_dense(), problem.flow.J.domain.size, name))
    for part in problem.flow.J.domain.axes[0].parts:
        found.append(_beyond(K.restrict([part.name]).to_dense(), part.size, f"K of {part.name} alone"))
    return worst(*found)


def _beyond(matrix: torch.Tensor, count: int, name: str) -> Residual:
    """Return the size of the singular values after the first ``count``, relative to all."""
    values = torch.linalg.svdvals(matrix)
    beyond = float(values[count:].norm()) / max(float(values.norm()), FLOOR)
    detail = f"{name} has more than {count} nonzero eigenvalues, the number of parameters"
    return Residual(beyond, detail=detail)


@rank_bound.differs
def _damped(case: FlowCase) -> Residual | None:
    problem = case.problem
    part = min(problem.flow.J.domain.axes[0].parts, key=lambda part: part.size)
    if part.size >= problem.space.size:
        return None
    matrix = problem.flow.K.restrict([part.name]).to_dense()
    damping = (1 + matrix.norm()) * torch.eye(len(matrix), dtype=matrix.dtype)
    return _beyond(matrix + damping, part.size, "K + I")


@identity(
    "model", source=_SOURCE, look="the parameters' order and layout, which must not depend on the trials"
)
def cross_flow_between_trials(case: FlowCase) -> Residual:
    """Learning from some trials moves others by ``(P J)_test (P J)_train*``."""
    problem = trained(case)
    other = Problem(problem.model, problem.x.flip(1) + 0.5, problem.h0, problem.mask, problem.seed)
    actual = cross_flow(problem.flow, other.flow).to_dense()
    expected = problem.G @ other.G.mT
    scale = float(problem.G.norm() * other.G.norm())
    return compare(
        actual, expected, "(P J)_test (P J)_train*", scale=scale, spaces=(problem.space, problem.space)
    )


@cross_flow_between_trials.differs
def _training_on_nothing(case: FlowCase) -> Residual | None:
    Phi = case.problem.flow.Phi.to_dense()
    return contrast(Phi, torch.zeros_like(Phi))
