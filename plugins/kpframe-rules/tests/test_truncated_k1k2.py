"""Truncation by Williams and Peng's k1 and k2, and the windows that it and long sliding ones are made of."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kpframe import create_rule
from kpframe.errors import ArgumentError
from kpframe.flow import TruncatedPropagator, WindowedPropagator

SEEDS = st.integers(0, 2**31 - 1)
STARTS = st.sampled_from(["zero", "given", "trainable"])


def by_blocks(here, k1: int, k2: int) -> torch.Tensor:
    """Return the gradient of one backward pass after every k1 steps, through the k2 steps before it."""
    time = here.x.shape[1]
    with torch.no_grad():
        states = here.model.rollout(here.x, here.h0, here.mask).states
    total = 0.0
    for block in range(0, time, k1):
        first = max(0, block + k1 - k2)
        h = here._start() if first == 0 else states[:, first - 1]
        for t in range(first, min(block + k1, time)):
            h = here._advance(t, h)
            if t >= block:
                total = total + (here.err[:, t] * h).sum()
    return here._gradient(total)


@settings(max_examples=8)
@given(seed=SEEDS, time=st.integers(3, 8), start=STARTS, data=st.data())
@pytest.mark.rows(4)
def test_update_is_autograd_block_by_block(problem, close, differ, name, seed, time, start, data) -> None:
    k1 = data.draw(st.integers(1, time - 1), label="k1")
    k2 = data.draw(st.integers(k1, time), label="k2")
    here = problem(name, seed, time, start, data.draw(st.booleans(), label="masked"))
    flow = here.flow()
    update = create_rule("truncated_bptt", mode="k1k2", k1=k1, k2=k2).update_operator(flow)(here.err)
    close(update, by_blocks(here, k1, k2))
    if k2 < time:
        differ(update, by_blocks(here, k1, k2 + 1), 1e-7)
    chunks = create_rule("truncated_bptt", window=k1, mode="chunked").update_operator(flow)(here.err)
    if k2 == k1:
        close(update, chunks)
    else:
        differ(update, chunks, 1e-7)


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.rows(4)
def test_the_ends_are_sliding_and_chunked(problem, close, differ, name, k) -> None:
    flow = problem(name).flow()
    err = problem(name).err
    sliding = create_rule("truncated_bptt", window=k).update_operator(flow)(err)
    chunked = create_rule("truncated_bptt", window=k, mode="chunked").update_operator(flow)(err)
    close(create_rule("truncated_bptt", mode="k1k2", k1=1, k2=k).update_operator(flow)(err), sliding)
    close(create_rule("truncated_bptt", mode="k1k2", k1=k, k2=k).update_operator(flow)(err), chunked)
    if k > 1:
        differ(sliding, chunked)
        between = create_rule("truncated_bptt", mode="k1k2", k1=k, k2=k + 1).update_operator(flow)(err)
        differ(between, chunked)
        differ(between, sliding)


@pytest.mark.parametrize("window", [5, 7, 8])
@pytest.mark.rows(4)
def test_long_windows_drop_instead_of_add(problem, close, differ, name, window) -> None:
    here = problem(name, time=8)
    flow = here.flow()
    own = create_rule("truncated_bptt", window=window).propagator(flow)
    terms = TruncatedPropagator(flow.P, window)  # term by term
    close(own(here.err), terms(here.err))
    close(own.T(here.err), terms.T(here.err))
    assert repr(own) == repr(terms) == f"P_{window}"
    if window == 7:
        assert isinstance(own, WindowedPropagator)
        assert own.riding == 2
        differ(own(here.err), flow.P(here.err), 1e-6)


@settings(max_examples=10)
@given(seed=SEEDS, lags=st.lists(st.integers(0, 7), min_size=1, max_size=7))
@pytest.mark.rows(4)
def test_any_windows_are_a_mask_on_P(problem, close, differ, name, seed, lags) -> None:
    starts: list[int] = []
    for t, lag in enumerate(lags):
        starts.append(max(starts[-1] if starts else 0, t - lag))
    here = problem(name, seed, len(lags))
    flow = here.flow()
    batch, time, hidden = flow.P.domain.shape
    P = flow.P.to_dense().reshape(batch, time, hidden, batch, time, hidden)
    kept = torch.tensor([[s >= start for s in range(time)] for start in starts])
    own = WindowedPropagator(flow.A, starts)
    expected = (P * kept[None, :, None, None, :, None]).reshape(batch * time * hidden, -1)
    close(own.to_dense(), expected)
    close(own.T.to_dense(), expected.mT)
    if any(start > 0 for start in starts):
        differ(own.to_dense(), flow.P.to_dense(), 1e-7)
    q = torch.stack([here.err, here.err.flip(0)])
    close(own(q)[1], own(q[1]))


@pytest.mark.parametrize(
    ("starts", "riding"),
    [
        ([0, 0, 0, 0, 0, 0], 1),
        ([0, 0, 2, 2, 4, 4], 1),
        ([0, 0, 0, 1, 2, 3], 3),
        ([0, 0, 0, 0, 0, 1], 2),
        ([0, 1, 2, 3, 4, 5], 1),
    ],
)
def test_as_many_vectors_ride_as_windows_are_open(problem, starts, riding) -> None:
    assert WindowedPropagator(problem("gru").flow().A, starts).riding == riding


def test_windows_that_make_no_sense(problem) -> None:
    A = problem("gru").flow().A
    for starts in ([0, 0, 0], [0, 2, 2, 2, 2, 2], [0, 0, 1, 0, 1, 1], [-1, 0, 0, 0, 0, 0]):
        with pytest.raises(ArgumentError, match="starts: expected 6 steps that never go back"):
            WindowedPropagator(A, starts)


def test_formula(problem) -> None:
    flow = problem("lstm").flow()
    rule = create_rule("truncated_bptt", mode="k1k2", k1=2, k2=5)
    assert repr(rule) == "TruncatedBPTT(mode='k1k2', k1=2, k2=5)"
    assert repr(rule.flow_operator(flow)) == "P K P_(2,5)*"
    assert rule.propagator(flow).method == flow.A.method
