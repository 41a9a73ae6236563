"""Truncated backpropagation in chunks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kpframe import create_rule

SEEDS = st.integers(0, 2**31 - 1)


def chunked(window: int, offset: int = 0):
    return create_rule("truncated_bptt", window=window, mode="chunked", offset=offset)


@settings(max_examples=8)
@given(seed=SEEDS, time=st.integers(3, 7), data=st.data())
@pytest.mark.rows(6)
def test_update_is_autograd_with_detach(problem, close, differ, name, seed, time, data) -> None:
    window = data.draw(st.integers(2, time - 1), label="window")
    start = data.draw(st.sampled_from(["zero", "given", "trainable"]), label="start")
    here = problem(name, seed, time, start)
    flow = here.flow()
    gradients = []
    for offset in range(window):
        gradients.append(chunked(window, offset).update_operator(flow)(here.err))
        close(gradients[-1], here.detached(window, offset))
        differ(gradients[-1], here.backward())
    differ(gradients[0], gradients[1])
    differ(gradients[0], here.windowed(window))


@pytest.mark.parametrize("offset", [0, 1, 2])
@pytest.mark.rows(4)
def test_padded_steps(problem, close, differ, name, offset) -> None:
    here = problem(name, masked=True)
    update = chunked(3, offset).update_operator(here.flow())(here.err)
    close(update, here.detached(3, offset))
    differ(update, problem(name).detached(3, offset))


@pytest.mark.parametrize("window", [2, 3, 5])
def test_mean_over_the_offsets_is_a_triangle(problem, close, differ, powers, name, window) -> None:
    here = problem(name)
    flow = here.flow()
    terms = list(powers(flow, here.err, window))
    mean = sum(chunked(window, offset).propagator(flow)(here.err) for offset in range(window)) / window
    close(mean, sum((1 - j / window) * term for j, term in enumerate(terms)))
    differ(mean, sum(terms))
    differ(mean, chunked(window).propagator(flow)(here.err))


def test_chunks_of_one_step_are_a_window_of_one(problem, close, differ, name) -> None:
    here = problem(name)
    flow = here.flow()
    close(chunked(1).propagator(flow)(here.err), here.err, 0)
    differ(chunked(2).propagator(flow)(here.err), here.err)


def test_one_chunk_over_all_steps_is_P(problem, close, differ, name) -> None:
    here = problem(name)
    flow = here.flow()
    for window, offset in ((6, 0), (9, 0), (9, 7)):
        close(chunked(window, offset).update_operator(flow)(here.err), here.backward())
    differ(chunked(9, 3).update_operator(flow)(here.err), here.backward())


def test_differs_from_a_sliding_window(problem, differ, name) -> None:
    here = problem(name)
    flow = here.flow()
    sliding = create_rule("truncated_bptt", window=3)
    differ(chunked(3).update_operator(flow)(here.err), sliding.update_operator(flow)(here.err))
    differ(chunked(3).flow_operator(flow)(here.err), sliding.flow_operator(flow)(here.err))


def test_nothing_crosses_a_cut(problem, name) -> None:
    flow = problem(name).flow()
    P = chunked(3, 1).propagator(flow).to_dense()
    blocks = P.reshape(*flow.P.domain.shape, *flow.P.domain.shape).abs().amax(dim=(0, 2, 3, 5))
    chunk = torch.tensor([0, 1, 1, 1, 2, 2])  # cuts before steps 1 and 4
    inside = (chunk[:, None] == chunk) & torch.ones(6, 6, dtype=torch.bool).tril()
    assert torch.equal(blocks > 0, inside)


@pytest.mark.parametrize(
    ("window", "offset", "formula"), [(4, 0, "P_chunk4"), (4, 3, "P_chunk4+3"), (1, 0, "P_chunk1")]
)
def test_formula(problem, window, offset, formula) -> None:
    flow = problem("lstm").flow()
    rule = chunked(window, offset)
    assert repr(rule) == f"TruncatedBPTT(window={window}, mode='chunked', offset={offset})"
    assert repr(rule.flow_operator(flow)) == f"P K {formula}*"
    assert repr(rule.update_operator(flow)) == f"J* {formula}*"
