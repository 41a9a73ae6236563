"""Eligibility propagation: backpropagation in the model whose weights read the detached state."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kpframe import Readout, create_rule
from kpframe.errors import ArgumentError, SettingsError, UnsupportedError

SEEDS = st.integers(0, 2**31 - 1)


@settings(max_examples=6)
@given(
    seed=SEEDS,
    time=st.integers(3, 6),
    start=st.sampled_from(["zero", "given", "trainable"]),
    masked=st.booleans(),
)
@pytest.mark.rows(4)
def test_update_is_the_gradient_of_the_stop_gradient_model(
    make, gradient, stopped, close, differ, known, seed, time, start, masked
) -> None:
    here = make(known, seed, time, start, masked)
    update = create_rule("eprop").update_operator(here.flow())(here.err)
    close(update, gradient(here, lambda t, h: stopped(known, here.model, here.x[:, t], h)))
    differ(update, here.backward(), 1e-6)
    differ(update, create_rule("snap1").update_operator(here.flow())(here.err), 1e-6)


def test_eligibility_traces_of_the_lstm(make, close, differ) -> None:
    """Bellec et al. 2020, Supplementary Note 2: traces of dc/dW decay by the forget gate; o acts at once."""
    here = make("lstm", seed=5)
    model, units = here.model, 4
    err_h, err_c = here.err.chunk(2, dim=-1)
    W_ih, W_hh = model.weight_ih_l0.detach(), model.weight_hh_l0.detach()
    bias = (model.bias_ih_l0 + model.bias_hh_l0).detach()
    gradient = torch.zeros_like(W_hh)
    for b in range(len(here.x)):
        h, c = here.h0[b].chunk(2)
        trace = torch.zeros_like(W_hh)  # [4 units, units]: dc_i/dW of each gate's row
        for t in range(here.x.shape[1]):
            u = W_ih @ here.x[b, t] + W_hh @ h + bias
            i, f, o = (torch.sigmoid(u.reshape(4, units)[k]) for k in (0, 1, 3))
            g = torch.tanh(u.reshape(4, units)[2])
            new = f * c + i * g
            drive = torch.cat([g * i * (1 - i), c * f * (1 - f), i * (1 - g**2), torch.zeros(units)])
            trace = f.repeat(4)[:, None] * trace + drive[:, None] * h
            squashed = torch.tanh(new)
            at_once = torch.cat([torch.zeros(3 * units), squashed * o * (1 - o)])[:, None] * h
            signal = err_h[b, t] * o * (1 - squashed**2) + err_c[b, t]
            gradient += signal.repeat(4)[:, None] * trace + err_h[b, t].repeat(4)[:, None] * at_once
            h, c = o * squashed, new
    update = create_rule("eprop").gradient(here.flow(), here.err)["weight_hh_l0"]
    close(update, gradient)
    differ(create_rule("bptt").gradient(here.flow(), here.err)["weight_hh_l0"], gradient)


@settings(max_examples=5)
@given(seed=SEEDS)
@pytest.mark.rows(2)
def test_random_feedback(make, gradient, stopped, close, differ, known, seed) -> None:
    here = make(known, seed)
    flow = here.flow()
    width = here.model.width
    readout = Readout(width, 2, hidden=slice(0, 4), generator=7, dtype=torch.float64)
    e = here.err[..., :2]
    rule = create_rule("eprop", feedback="random", seed=3)
    assert rule.needs_readout
    err = e @ readout.full_weight().detach()
    update = rule.update_operator(flow, readout)(err)
    B = rule.update(flow, readout).feedback
    assert B.shape == (2, width)
    assert not B[:, 4:].any()
    assert float(B.abs().max()) <= 0.5  # uniform in +-1/sqrt(4)
    close(update, gradient(here, lambda t, h: stopped(known, here.model, here.x[:, t], h), e @ B))
    close(rule.update(flow, readout).output_operator(e), update)
    symmetric = create_rule("eprop").update_operator(flow, readout)(err)
    differ(symmetric, update)
    close(symmetric, create_rule("eprop").update_operator(flow)(err))
    with torch.no_grad():
        readout.weight.mul_(2)
    assert torch.equal(rule.update(flow, readout).feedback, B)  # learning does not change it
    differ(create_rule("eprop", feedback="random", seed=4).update(flow, readout).feedback, B)


def test_without_self_connections_it_is_snap1(make, close, differ) -> None:
    here = make("vanilla")
    eprop, snap1 = create_rule("eprop"), create_rule("snap1")
    differ(eprop.update_operator(here.flow())(here.err), snap1.update_operator(here.flow())(here.err))
    with torch.no_grad():
        here.model.weight_hh_l0.fill_diagonal_(0)
    close(eprop.update_operator(here.flow())(here.err), snap1.update_operator(here.flow())(here.err))


def test_formula_and_refusals(make) -> None:
    flow = make("lstm").flow()
    rule = create_rule("eprop")
    assert repr(rule) == "EProp(feedback='readout', seed=0)"
    assert repr(rule.flow_operator(flow)) == "P K P[direct]*"
    readout = Readout(8, 2, generator=0, dtype=torch.float64)
    random = create_rule("eprop", feedback="random")
    assert repr(random.update_operator(flow, readout)) == "J* P[direct]* E"
    with pytest.raises(UnsupportedError, match="readout: expected the readout that the error comes through"):
        random.update(flow)
    with pytest.raises(UnsupportedError, match=r"eprop needs the direct path .*SiteModel.*snap1 and trunc"):
        rule.update(make("cell").flow())
    with pytest.raises(SettingsError, match="feedback: expected one of 'readout', 'random', got 'symmetric'"):
        create_rule("eprop", feedback="symmetric")
    with pytest.raises(ArgumentError, match="feedback: expected one of 'readout', 'random', got 'B'"):
        type(rule)("B")
    with pytest.raises(ArgumentError, match="seed: expected int >= 0"):
        type(rule)("random", -1)
