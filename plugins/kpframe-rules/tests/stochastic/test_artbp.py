"""Random truncation: against a backward loop, the compensation, and the lengths between cuts."""

from __future__ import annotations

import math

import pytest
import torch
from kpframe_rules.artbp import ARTBP

from kpframe import Space, Update, create_rule
from kpframe.errors import ArgumentError, SettingsError
from kpframe.operators import trial_generators

MODELS = ("vanilla", "rate", "current", "gru", "lstm", "wrapped")


def chance(length: float, alpha: float | None, k: int) -> float:
    return 1 / length if alpha is None else (alpha - 1) / ((alpha - 2) * length + k)


def backward(here, factor) -> torch.Tensor:
    """Return the gradient of the paper's backward recursion, ``factor(b, t)`` in front of each ``A_t``."""
    A, J = here.jacobians()
    total = torch.zeros(J.shape[-1], dtype=torch.float64)
    for b in range(len(A)):
        delta = torch.zeros(A.shape[-1], dtype=torch.float64)
        for t in reversed(range(A.shape[1])):
            delta = delta + here.err[b, t]
            total = total + delta @ J[b, t]
            delta = factor(b, t) * (delta @ A[b, t])
    return total


def drawn(here, length: float, alpha: float | None, seed: int, shared: bool) -> list[list[float]]:
    """Return the factors from uniform numbers, one for each step of each trial."""
    batch, time, _ = here.err.shape
    generator = torch.Generator().manual_seed(seed)
    sources = [generator] if shared else trial_generators(Space.of(batch=batch), generator)
    uniform = torch.stack([torch.rand(time, generator=own, dtype=torch.float64) for own in sources])
    out = []
    for b in range(batch):
        last, row = 0, [1.0]
        for t in range(1, time):
            c = chance(length, alpha, t - last)
            if uniform[0 if shared else b, t] < c:
                last = t
                row.append(0.0)
            else:
                row.append(1 / (1 - c))
        out.append(row)
    return out


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("alpha", "shared"), [(None, False), (4.0, False), (None, True)])
@pytest.mark.rows(4)
def test_update_is_the_backward_recursion(tiny, close, differ, model, alpha, shared) -> None:
    here = tiny(model, time=7, masked=True)
    factors = drawn(here, 3.0, alpha, 5, shared)
    assert 0.0 in factors[0]
    update = ARTBP(3.0, alpha, shared, seed=5).update_operator(here.flow())(here.err)
    close(update, backward(here, lambda b, t: factors[b][t]), 1e-10)
    differ(update, backward(here, lambda b, t: float(factors[b][t] > 0)))  # without compensation
    differ(update, here.exact())
    close(backward(here, lambda b, t: 1.0), here.exact(), 1e-10)


def test_without_compensation_the_mean_is_off(tiny, close, differ) -> None:
    here = tiny("vanilla", time=5)
    rule, flow = ARTBP(2.5), here.flow()
    mean = torch.zeros_like(here.exact())
    for probability, update in rule.outcomes(Update.exact(flow)):
        kept = update.A.factors[..., 0] > 0
        mean = mean + probability * flow.J.T(type(flow.P)(flow.A.masked(kept)).T(here.err))
    decayed = backward(here, lambda b, t: 1 - 1 / 2.5)  # E[keep] = 1 - c
    close(mean, decayed, 1e-10)
    differ(mean, here.exact(), 1e-2)


@pytest.mark.parametrize("alpha", [None, 3.5, 6.0])
def test_mean_and_tail_of_the_lengths(alpha) -> None:
    rule, survival, mean, tail = ARTBP(8.0, alpha), 1.0, 0.0, []
    for k in range(1, 400_001):
        mean += survival
        survival *= 1 - rule.probability(k)
        tail.append(survival)
    assert mean == pytest.approx(8.0, rel=1e-3)
    if alpha is None:
        assert tail[49] == pytest.approx(0.875**50, rel=1e-12)
    else:
        slope = math.log(tail[199_999] / tail[99_999]) / math.log(2)
        assert slope == pytest.approx(1 - alpha, abs=3e-3)


def test_shared_cuts(tiny) -> None:
    here = tiny("vanilla", time=12)
    shared = ARTBP(3.0, shared=True).update(here.flow()).A.factors
    own = ARTBP(3.0).update(here.flow()).A.factors
    assert torch.equal(shared[0], shared[1])
    assert not torch.equal(own[0], own[1])


def test_no_cut_is_backpropagation(tiny, close, differ) -> None:
    here = tiny("gru", time=6)
    flow = here.flow()
    for alpha in (None, 4.0):
        close(ARTBP(math.inf, alpha).update_operator(flow)(here.err), here.exact(), 1e-12)
    differ(ARTBP(2.0).update_operator(flow)(here.err), here.exact())


def test_composes_with_other_rules(tiny, close, differ) -> None:
    here = tiny("lstm", time=6, units=4)
    flow, rule = here.flow(), ARTBP(2.5, seed=1)
    stop = create_rule("gate_stop", paths=["f"])
    first = (stop @ rule).update_operator(flow)(here.err)
    close(first, (rule @ stop).update_operator(flow)(here.err), 1e-12)
    differ(first, rule.update_operator(flow)(here.err))
    local = create_rule("eprop")
    close(
        (local @ rule).update_operator(flow)(here.err), (rule @ local).update_operator(flow)(here.err), 1e-12
    )
    units = create_rule("snap1")
    close(
        (units @ rule).update_operator(flow)(here.err), (rule @ units).update_operator(flow)(here.err), 1e-12
    )
    update = rule.update_operator(flow)
    close(update.T.to_dense(), update.to_dense().T)
    close(update.to_dense() @ here.err.flatten(), update(here.err))


def test_printed(tiny) -> None:
    flow = tiny("vanilla").flow()
    assert repr(ARTBP(10)) == "ARTBP(length=10.0, alpha=None, shared=False, seed=0)"
    assert repr(ARTBP(10).flow_operator(flow)) == "P K P_artbp*"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1,), r"length: expected float > 1, got 1"),
        ((math.nan,), r"length: expected a number > 1, got nan"),
        (("5",), r"length: expected float > 1, got '5'"),
        ((5, 2), r"alpha: expected .* > 2 .*, got 2"),
        ((5, None, False, -1), r"seed: expected int >= 0 .*, got -1"),
    ],
)
def test_refusals(arguments, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        ARTBP(*arguments)


def test_settings() -> None:
    with pytest.raises(SettingsError, match=r"rule 'artbp': length: expected .*> 1, got 1"):
        create_rule("artbp", length=1)
    assert create_rule("artbp", length=4, alpha=5.0).alpha == 5.0
