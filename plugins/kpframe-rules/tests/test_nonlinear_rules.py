"""Clipping and Adam from scratch, against torch's own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kpframe_rules.bptt import BPTT
from kpframe_rules.feedback_alignment import FeedbackAlignment
from kpframe_rules.frozen import Frozen
from kpframe_rules.nonlinear import AdamFromScratch, Clipped
from kpframe_rules.preconditioned import FrozenAdam
from kpframe_rules.truncated import TruncatedBPTT

from kpframe import Readout, linearize
from kpframe.errors import ArgumentError, NotLinearError, UnsupportedError
from kpframe.testing import parametrize_with_checks

F64 = torch.float64
SEEDS = st.integers(0, 2**31 - 1)


def flat(gradient: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([g.reshape(-1) for g in gradient.values()])


@settings(max_examples=4)
@given(seed=SEEDS, part=st.floats(0.1, 0.9))
@pytest.mark.rows(2)
def test_clipped_to_a_norm(problem, close, differ, name, seed, part) -> None:
    here = problem(name, seed)
    flow, exact = here.flow(), here.backward()
    size = float(exact.norm())
    found = Clipped(part * size).gradient(flow, here.err)
    close(flat(found), part * exact, 1e-10)
    close(flat(Clipped(2 * size).gradient(flow, here.err)), exact, 1e-10)
    differ(flat(found), exact)
    theta = here.model.trainable()
    for (key, p), g in zip(theta.items(), flow.J.domain["parameter"].parts, strict=True):
        assert key == g.name
        p.grad = exact[g.slice].reshape(p.shape).clone()
    torch.nn.utils.clip_grad_norm_(list(theta.values()), part * size)
    close(flat(found), torch.cat([p.grad.reshape(-1) for p in theta.values()]), 2e-6 / size + 1e-10)


@pytest.mark.parametrize("inner", [None, TruncatedBPTT(2)])
def test_the_first_step_of_adam(problem, close, differ, name, inner) -> None:
    here = problem(name)
    flow = here.flow()
    exact = here.backward() if inner is None else here.windowed(2)
    found = AdamFromScratch(1e-3, inner).gradient(flow, here.err)
    close(flat(found), exact / (exact.abs() + 1e-3), 1e-9)
    differ(flat(found), exact)
    theta = here.model.trainable()
    before = torch.cat([p.detach().reshape(-1).clone() for p in theta.values()])
    optimizer = torch.optim.Adam(theta.values(), lr=0.01, eps=1e-3)
    for part, p in zip(flow.J.domain["parameter"].parts, theta.values(), strict=True):
        p.grad = exact[part.slice].reshape(p.shape).clone()
    optimizer.step()
    after = torch.cat([p.detach().reshape(-1) for p in theta.values()])
    close((before - after) / 0.01, flat(found), 1e-9)
    # its own preconditioner, held fixed, is linear and agrees at this one error
    held = FrozenAdam.of_optimizer(optimizer, here.model)
    close(flat(held.gradient(flow, here.err)) if inner is None else flat(found), flat(found), 1e-9)


def test_not_linear_and_no_operator(problem, differ, name) -> None:
    here = problem(name)
    flow = here.flow()
    for rule in (Clipped(0.01), AdamFromScratch()):
        assert not rule.linear
        one, two = flat(rule.gradient(flow, here.err)), flat(rule.gradient(flow, 2 * here.err))
        differ(two, 2 * one, 0.1)
        for operator in (
            rule.update_operator,
            rule.flow_operator,
            rule.update,
            rule.propagator,
            rule.parameter_operator,
        ):
            with pytest.raises(NotLinearError, match=r"is not linear in the error, so it has no"):
                operator(flow)
        with pytest.raises(NotLinearError, match="rules that are linear in the error"):
            rule @ Frozen(["*"])


def test_around_other_rules(problem, close, differ) -> None:
    here = problem("gru")
    flow = here.flow()
    found = Clipped(0.01, Frozen(["weight*"]) @ TruncatedBPTT(2)).gradient(flow, here.err)
    assert not found["weight_hh_l0"].any()
    close(flat(found).norm(), torch.tensor(0.01, dtype=F64))
    readout = Readout(4, 2, generator=0, dtype=F64)
    through, e = Clipped(1e9, FeedbackAlignment()), here.err[..., :2]
    err = e @ readout.weight.detach()
    expected = flat(FeedbackAlignment().gradient(flow, err, readout))
    close(flat(through.gradient(flow, err, readout)), expected)
    close(flat(through.gradient(flow, readout=readout, output_err=e)), expected)
    differ(flat(BPTT().gradient(flow, err)), expected)
    assert through.needs_readout
    with pytest.raises(UnsupportedError, match="readout"):
        through.gradient(flow, here.err)
    twice = Clipped(0.5, AdamFromScratch()).gradient(flow, here.err)
    close(flat(twice).norm(), torch.tensor(0.5, dtype=F64))


def test_apply_gradient(problem, close) -> None:
    here = problem("gru")
    Clipped(0.01).apply_gradient(here.model, here.flow(), here.err)
    close(
        torch.cat([p.grad.reshape(-1) for p in here.model.parameters()]).norm(), torch.tensor(0.01, dtype=F64)
    )


def test_pure_and_equivariant(problem, close, differ, name) -> None:
    here, other = problem(name, start="trainable"), problem(name, 5, start="trainable")
    flow, kept = here.flow(), here.err.clone()
    turned = linearize(here.model, here.x.flip(0))
    for rule in (Clipped(0.1), AdamFromScratch(1e-2)):
        first = flat(rule.gradient(flow, here.err))
        rule.gradient(other.flow(), other.err)
        assert torch.equal(flat(rule.gradient(flow, here.err)), first)
        assert torch.equal(here.err, kept)
        close(flat(rule.gradient(turned, here.err.flip(0))), first, 1e-9)
        differ(flat(rule.gradient(turned, here.err)), first)


def test_a_gradient_of_zero(problem) -> None:
    here = problem("gru")
    flow, nothing = here.flow(), torch.zeros_like(here.err)
    for rule in (Clipped(1.0), AdamFromScratch()):
        assert not flat(rule.gradient(flow, nothing)).any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Clipped(0), "max_norm: expected float > 0 .*, got 0"),
        (lambda: Clipped(float("nan")), "max_norm: expected a number .*, got nan"),
        (lambda: Clipped(1.0, "bptt"), "rule: expected a LearningRule, or None for bptt, got 'bptt'"),
        (lambda: AdamFromScratch(0), "eps: expected float > 0 .*, got 0"),
        (lambda: AdamFromScratch(rule=3), "rule: expected a LearningRule"),
    ],
)
def test_arguments(make, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        make()
    assert repr(Clipped(0.5)) == "Clipped(max_norm=0.5, rule=BPTT())"
    assert repr(AdamFromScratch()) == "AdamFromScratch(eps=1e-08, rule=BPTT())"


class ClippedHere(Clipped):
    def __init__(self) -> None:
        super().__init__(0.1)


class AdamHere(AdamFromScratch):
    def __init__(self) -> None:
        super().__init__(1e-3)  # less, and entries that are zero but for rounding come out as anything


@parametrize_with_checks([ClippedHere, AdamHere], kind="rule")
@pytest.mark.rows(4)
def test_conformance(check) -> None:
    if check.name in ("rule_is_pure", "trial_order_does_not_matter"):
        pytest.skip("their partners are for linear rules; test_pure_and_equivariant has others")
    check()
