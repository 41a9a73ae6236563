"""What any learning rule satisfies, whatever it puts in the place of P and of the metric."""

from __future__ import annotations

import torch

from kpframe.errors import KpframeError, UnsupportedError, say
from kpframe.flow._flow import Flow
from kpframe.models._linearize import linearize
from kpframe.operators._base import Operator
from kpframe.rules._rule import LearningRule, StochasticRule
from kpframe.tasks._readout import Readout
from kpframe.testing._cases import RuleCase
from kpframe.testing._choices import smallest_settings
from kpframe.testing._identity import identity
from kpframe.testing._problem import Problem
from kpframe.testing._residual import CheckFailure, NotApplicable, Residual, compare, contrast, require, worst
from kpframe.testing._sources import create, show
from kpframe.testing.identities import operators

_SOURCE = "docs/mathematics.md: learning rules, g = M J* P_rule* Err, dh = -eta P J g"


def _rule(case: RuleCase) -> LearningRule:
    """Return the rule, where the model has the structure that it needs."""
    rule = case.build_rule()
    flow = case.flow.problem.flow
    try:
        if rule.linear:
            rule.update(flow, _readout(rule, flow))
    except UnsupportedError as error:
        raise NotApplicable(f"{rule!r} does not apply to this model: {error}") from error
    return rule


def _readout(rule: LearningRule, flow: Flow) -> Readout | None:
    """Return the readout that the error comes through, for rules that need one."""
    if not rule.needs_readout:
        return None
    width = flow.P.domain.shape[2]
    return Readout(
        width, min(2, width), generator=7, dtype=flow.P.dtype
    )  # a hidden error tells outputs apart


def _error(rule: LearningRule, flow: Flow, drawn: torch.Tensor) -> torch.Tensor:
    """Return an error made of one that was drawn, which comes through the readout that the rule needs."""
    readout = _readout(rule, flow)
    if readout is None:
        return drawn
    weight = readout.full_weight().detach()
    return drawn[..., : len(weight)] @ weight


def _linear(case: RuleCase) -> tuple[LearningRule, Flow, Problem]:
    rule = _rule(case)
    if not rule.linear:
        raise NotApplicable("the rule is not linear in the error")
    return rule, case.flow.problem.flow, case.flow.problem


def _update(case: RuleCase) -> tuple[Operator, torch.Tensor]:
    rule, flow, problem = _linear(case)
    return rule.update_operator(flow, _readout(rule, flow)), problem.vector(problem.space)


@identity(
    "rule",
    source="docs/plugins.md: settings",
    look="the spec's factory, its settings class, and __init__, which gets them as keywords",
    gate=True,
)
def rule_builds(case: RuleCase) -> Residual:
    """The factory exists, takes its settings and returns a LearningRule."""
    try:
        create("rule", case.rule, smallest_settings("rule", case.rule))
        case.build_rule()
    except KpframeError as error:
        raise (
            error if isinstance(error, CheckFailure) else CheckFailure(f"{show(case.rule)}: {say(error)}")
        ) from error
    return Residual(0.0)


@identity(
    "rule",
    source=_SOURCE,
    look="update_operator(): it maps the state space to the parameter space, whatever is frozen",
    gate=True,
)
def update_shape(case: RuleCase) -> Residual:
    """The update maps ``[B, T, H]`` errors to the parameters; ``gradient`` gives each by name and shape."""
    rule, flow, problem = _rule(case), case.flow.problem.flow, case.flow.problem
    err = _error(rule, flow, problem.vector(problem.space))
    if rule.linear:
        update = rule.update_operator(flow, _readout(rule, flow))
        for got, expected, what in (
            (update.domain, problem.space, "domain"),
            (update.codomain, flow.J.domain, "codomain"),
            (
                rule.flow_operator(flow, _readout(rule, flow)).codomain,
                problem.space,
                "codomain of flow_operator",
            ),
        ):
            require(got == expected, f"{rule!r}, {what}: expected ({expected}), got ({got})")
    shapes = {name: tuple(g.shape) for name, g in rule.gradient(flow, err, _readout(rule, flow)).items()}
    expected_shapes = {name: tuple(p.shape) for name, p in problem.model.trainable().items()}
    require(shapes == expected_shapes, f"{rule!r}.gradient: expected {expected_shapes}, got {shapes}")
    return Residual(0.0)


@identity(
    "rule",
    source=_SOURCE,
    look="update_operator() and gradient(): a rule that clips, normalises or takes signs sets linear = False",
)
def linear_in_error(case: RuleCase) -> Residual:
    """The update is linear in Err, and zero for no error; ``gradient`` is the same map."""
    update, drawn = _update(case)
    rule, flow, problem = _linear(case)
    err = _error(rule, flow, drawn)
    found = operators.linear(update, problem.vector, f"update of {rule!r}")
    gradient = torch.cat([g.reshape(-1) for g in rule.gradient(flow, err, _readout(rule, flow)).values()])
    doubled = torch.cat([g.reshape(-1) for g in rule.gradient(flow, 2 * err, _readout(rule, flow)).values()])
    return worst(
        found,
        compare(gradient, update(err), f"{rule!r}.gradient against update_operator"),
        compare(doubled, 2 * gradient, f"{rule!r}.gradient of twice the error"),
    )


@linear_in_error.differs
def _affine(case: RuleCase) -> Residual | None:
    update, err = _update(case)
    return contrast(update(2 * err), update(err))


@identity(
    "rule",
    source=_SOURCE,
    look="flow_operator(): it is P J times the update, with the flow's own P on the left",
)
def flow_operator_is_P_J_update(case: RuleCase) -> Residual:
    """``Phi_rule = P J update``: how the states move along the rule's update."""
    rule, flow, problem = _linear(case)
    update = rule.update_operator(flow, _readout(rule, flow)).to_dense()
    PJ = (flow.P @ flow.J).to_dense()
    scale = float(PJ.norm() * update.norm())
    return compare(
        rule.flow_operator(flow, _readout(rule, flow)).to_dense(),
        PJ @ update,
        f"flow_operator of {rule!r}",
        scale=scale,
        spaces=(problem.space, problem.space),
    )


@flow_operator_is_P_J_update.differs
def _scaled(case: RuleCase) -> Residual | None:
    rule, flow, _ = _linear(case)
    dense = rule.flow_operator(flow, _readout(rule, flow)).to_dense()
    return contrast(1.1 * dense, dense)


@identity(
    "rule",
    source=_SOURCE,
    look="the adjoint of what change() puts in the place of P or J: the update uses its transpose",
)
def adjoint_of_update(case: RuleCase) -> Residual:
    """``<update e, d> = <e, update* d>``, and the same for the flow operator."""
    rule, flow, problem = _linear(case)
    readout = _readout(rule, flow)
    named = {
        "update": rule.update_operator(flow, readout),
        "flow_operator": rule.flow_operator(flow, readout),
    }
    return worst(*(operators.adjoint(op, problem.vector, f"{n} of {rule!r}") for n, op in named.items()))


@adjoint_of_update.differs
def _negated(case: RuleCase) -> Residual | None:
    update, _ = _update(case)
    dense = update.to_dense()
    return contrast(dense, -dense)


@identity(
    "rule",
    source=_SOURCE,
    look="attributes that the rule assigns while it is applied, and random numbers it draws",
)
def rule_is_pure(case: RuleCase) -> Residual:
    """Applied twice, and in between to another flow, a rule gives the same, and changes neither argument."""
    rule, flow, problem = _rule(case), case.flow.problem.flow, case.flow.problem
    err = _error(rule, flow, problem.vector(problem.space))
    kept, states = err.clone(), flow.trajectory.states.clone()
    first = _flat(rule, flow, err)
    require(torch.equal(err, kept), f"{rule!r} changed the error it was given")
    other = linearize(problem.model, problem.x + 0.5, problem.h0, problem.mask)
    _flat(rule, other, _error(rule, other, problem.vector(problem.space, 1)))
    again = _flat(rule, flow, kept)
    require(torch.equal(flow.trajectory.states, states), f"{rule!r} changed the flow's trajectory")
    return compare(again, first, f"update of {rule!r} the second time", tolerance=1e-12)


@rule_is_pure.differs
def _other_error(case: RuleCase) -> Residual | None:
    problem, rule = case.flow.problem, _rule(case)
    if not rule.linear:
        return None
    errors = (_error(rule, problem.flow, problem.vector(problem.space, i)) for i in (0, 1))
    first, second = (_flat(rule, problem.flow, err) for err in errors)
    return contrast(first, second)


@identity(
    "rule",
    source="docs/mathematics.md: identities, batch permutation equivariance",
    look="what the rule picks by trial index, or feeds back with a matrix that depends on the trial",
)
def trial_order_does_not_matter(case: RuleCase) -> Residual:
    """Trials in another order, errors with them, give the same update."""
    rule, problem = _rule(case), case.flow.problem
    if isinstance(rule, StochasticRule) and rule.draws_by_trial:
        raise NotApplicable("each trial has a draw of its own")
    err = _error(rule, problem.flow, problem.vector(problem.space))
    h0 = None if problem.h0 is None else problem.h0.flip(0)
    mask = None if problem.mask is None else problem.mask.flip(0)
    flipped = linearize(problem.model, problem.x.flip(0), h0, mask)
    return compare(_flat(rule, flipped, err.flip(0)), _flat(rule, problem.flow, err), f"update of {rule!r}")


@trial_order_does_not_matter.differs
def _errors_only(case: RuleCase) -> Residual | None:
    rule, problem = _rule(case), case.flow.problem
    err = _error(rule, problem.flow, problem.vector(problem.space))
    first, second = _flat(rule, problem.flow, err), _flat(rule, problem.flow, 1.5 * err)
    return contrast(first, second) if rule.linear else None


@identity(
    "rule",
    source="docs/mathematics.md: learning rules, bptt",
    look="change(): a rule that says exact = True replaces nothing",
)
def exact_rule_equals_backward(case: RuleCase) -> Residual:
    """A rule that is ``exact`` gives the gradient of ``loss.backward()``."""
    rule, problem = _rule(case), case.flow.problem
    if not rule.exact:
        raise NotApplicable("the rule does not say that it is exact")
    err = _error(rule, problem.flow, problem.vector(problem.space))
    expected = problem.G.mT @ err.reshape(-1)
    scale = float(problem.G.norm() * err.norm())
    return compare(
        _flat(rule, problem.flow, err),
        expected,
        f"update of {rule!r}",
        scale=scale,
        spaces=(problem.flow.J.domain,),
    )


@exact_rule_equals_backward.differs
def _without_propagation(case: RuleCase) -> Residual | None:
    gradient = case.flow.problem.G
    return contrast(1.1 * gradient, gradient)


@identity(
    "rule",
    source="docs/mathematics.md: identities, dtype preserved",
    look="tensors the rule makes itself: give them the flow's dtype",
)
def rule_dtype_kept(case: RuleCase) -> Residual:
    """On a float32 flow the update is float32, and agrees with float64."""
    rule, double, single = _rule(case), case.flow.problem, case.flow.single()
    err = _error(rule, double.flow, double.vector(double.space))
    out = _flat(rule, single.flow, err.float())
    require(
        out.dtype == torch.float32, f"{rule!r} on a float32 flow: expected torch.float32, got {out.dtype}"
    )
    expected = _flat(rule, double.flow, err)
    if case.flow.kind != "normal":
        return Residual(0.0, 1e-2)
    scale = float(double.G.norm() * err.norm())
    return compare(out.double(), expected, f"{rule!r} in float32", tolerance=1e-2, scale=scale)


def _flat(rule: LearningRule, flow: Flow, err: torch.Tensor) -> torch.Tensor:
    return torch.cat([g.reshape(-1) for g in rule.gradient(flow, err, _readout(rule, flow)).values()])
