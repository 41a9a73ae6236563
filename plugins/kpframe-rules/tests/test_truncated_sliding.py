"""Truncated backpropagation with a sliding window."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kpframe import create_rule

SEEDS = st.integers(0, 2**31 - 1)


def sliding(window: int):
    return create_rule("truncated_bptt", window=window)


@settings(max_examples=8)
@given(seed=SEEDS, time=st.integers(3, 7), data=st.data())
@pytest.mark.rows(4)
def test_update_is_windowed_autograd(problem, close, differ, name, seed, time, data) -> None:
    window = data.draw(st.integers(1, time - 1), label="window")
    start = data.draw(st.sampled_from(["zero", "given", "trainable"]), label="start")
    here = problem(name, seed, time, start)
    update = sliding(window).update_operator(here.flow())(here.err)
    close(update, here.windowed(window))
    differ(update, here.backward())
    differ(update, here.windowed(window + 1))


@pytest.mark.parametrize("window", [1, 2, 4])
@pytest.mark.rows(4)
def test_padded_steps(problem, close, differ, name, window) -> None:
    here = problem(name, masked=True)
    update = sliding(window).update_operator(here.flow())(here.err)
    close(update, here.windowed(window))
    differ(update, problem(name).windowed(window))


@pytest.mark.parametrize("window", [6, 7, 100])
@pytest.mark.rows(4)
def test_a_window_over_all_steps_is_P(problem, close, differ, name, window) -> None:
    here = problem(name)
    flow = here.flow()
    close(sliding(window).propagator(flow)(here.err), flow.P(here.err))
    close(sliding(window).update_operator(flow)(here.err), here.backward())
    close(sliding(window).flow_operator(flow)(here.err), flow.Phi(here.err))
    differ(sliding(5).propagator(flow)(here.err), flow.P(here.err))
    differ(sliding(5).update_operator(flow)(here.err), here.backward(), 1e-5)


def test_window_one_is_the_identity(problem, close, differ, name) -> None:
    here = problem(name)
    flow = here.flow()
    close(sliding(1).propagator(flow)(here.err), here.err, 0)
    close(sliding(1).update_operator(flow)(here.err), flow.J.T(here.err))
    close(sliding(1).flow_operator(flow)(here.err), flow.P(flow.K(here.err)))
    differ(sliding(2).propagator(flow)(here.err), here.err)


@pytest.mark.parametrize("window", [1, 2, 3, 5])
@pytest.mark.rows(4)
def test_terms_and_remainder(problem, close, differ, powers, name, window) -> None:
    here = problem(name)
    flow = here.flow()
    P_k = sliding(window).propagator(flow)
    close(P_k(here.err), sum(powers(flow, here.err, window)))
    *_, remainder = powers(flow, flow.P(here.err), window + 1)
    close(flow.P(here.err) - P_k(here.err), remainder, 1e-11)
    *_, shorter = powers(flow, flow.P(here.err), window)
    differ(flow.P(here.err) - P_k(here.err), shorter)


@pytest.mark.parametrize(("window", "formula"), [(1, "P_1"), (3, "P_3"), (5, "P_5"), (20, "P_20")])
def test_formula(problem, window, formula) -> None:
    flow = problem("lstm").flow()
    rule = sliding(window)
    assert repr(rule) == f"TruncatedBPTT(window={window}, mode='sliding', offset=0)"
    assert repr(rule.propagator(flow)) == formula
    assert repr(rule.flow_operator(flow)) == f"P K {formula}*"
    assert repr(rule.update_operator(flow)) == f"J* {formula}*"


def test_flow_is_not_symmetric(problem, differ, name) -> None:
    here = problem(name)
    Phi = sliding(2).flow_operator(here.flow())
    assert not Phi.self_adjoint
    assert not Phi.positive
    differ(Phi(here.err), Phi.T(here.err))
