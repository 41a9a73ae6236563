"""SnAp-1: real-time recurrent learning in which influences stay within units."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kpframe import create_rule, linearize
from kpframe.errors import UnsupportedError

SEEDS = st.integers(0, 2**31 - 1)


@settings(max_examples=6)
@given(seed=SEEDS, time=st.integers(3, 6), start=st.sampled_from(["zero", "given", "trainable"]))
@pytest.mark.rows(4)
def test_update_is_masked_rtrl(make, dense, own_entries, close, differ, name, seed, time, start) -> None:
    here = make(name, seed, time, start)
    loops = dense(here)
    within, own = own_entries(here.model)
    update = create_rule("snap1").update_operator(here.flow())(here.err)
    close(update, loops.forward(loops.A, keep=own))
    J = loops.J
    if start == "trainable":  # h_0 enters by the blocks, too
        J = J.clone()
        J[:, 0, :, : here.model.width] = loops.A[:, 0] * within
        differ(update, loops.forward(loops.A * within))
    close(update, loops.forward(loops.A * within, J=J))
    differ(update, here.backward(), 1e-6)
    differ(update, loops.forward(loops.A.diagonal(dim1=-2, dim2=-1).diag_embed() * 0.5), 1e-6)


@pytest.mark.rows(3)
def test_padded_steps(make, dense, own_entries, close, differ, name) -> None:
    here = make(name, masked=True)
    loops = dense(here)
    within, _ = own_entries(here.model)
    update = create_rule("snap1").update_operator(here.flow())(here.err)
    close(update, loops.forward(loops.A * within))
    differ(update, create_rule("snap1").update_operator(make(name).flow())(here.err))


def test_components_of_a_unit_stay_together(make, dense, close, differ) -> None:
    here = make("lstm")
    loops = dense(here)
    update = create_rule("snap1").update_operator(here.flow())(here.err)
    differ(update, loops.forward(loops.A.diagonal(dim1=-2, dim2=-1).diag_embed()))
    twin = linearize(here.model, here.x, here.h0, method="autograd")
    close(update, create_rule("snap1").update_operator(twin)(here.err))


@settings(max_examples=5)
@given(seed=SEEDS)
@pytest.mark.rows(4)
def test_with_weights_from_a_unit_to_itself_it_is_exact(make, close, differ, name, seed) -> None:
    here = make(name, seed)
    weight = next(p for key, p in here.model.trainable().items() if "weight_hh" in key)
    with torch.no_grad():
        weight.mul_(torch.eye(4, dtype=weight.dtype).repeat(len(weight) // 4, 1))
    update = create_rule("snap1").update_operator(here.flow())(here.err)
    close(update, here.backward())
    if name != "cell":
        eprop = create_rule("eprop").update_operator(here.flow())(here.err)
        differ(eprop, update)  # it leaves out W_ii
    with torch.no_grad():
        weight[0, 1] = 0.7
    differ(create_rule("snap1").update_operator(here.flow())(here.err), here.backward(), 1e-6)


def test_differs_from_its_neighbours(make, differ, name) -> None:
    here = make(name)
    flow = here.flow()
    update = create_rule("snap1").update_operator(flow)(here.err)
    others = [create_rule("truncated_bptt", window=1), create_rule("bptt")]
    if name != "cell":
        others.append(create_rule("eprop"))
    for other in others:
        differ(update, other.update_operator(flow)(here.err))


def test_formula_and_form(make) -> None:
    flow = make("gru").flow()
    rule = create_rule("snap1")
    assert repr(rule) == "Snap1()"
    assert repr(rule.flow_operator(flow)) == "P K P[units]*"
    assert repr(rule.update_operator(flow)) == "J* P[units]*"
    assert rule.propagator(flow).method == "diagonal"  # no product with a weight is left
    assert rule.propagator(make("lstm").flow()).method == "sites"
    assert rule.propagator(make("cell").flow()).method == "entries"


@pytest.mark.parametrize("inner", [{"window": 2, "mode": "chunked"}, {"window": 9}])
@pytest.mark.rows(4)
def test_after_a_truncation(make, dense, own_entries, close, differ, name, inner) -> None:
    here = make(name)
    flow = here.flow()
    both = create_rule("snap1") @ create_rule("truncated_bptt", **inner)
    if inner.get("mode") != "chunked":  # a sum over windows has no step Jacobian
        with pytest.raises(UnsupportedError, match="P_9 is no propagator of a step Jacobian any more"):
            both.update(flow)
        return
    loops = dense(here)
    within, _ = own_entries(here.model)
    A = loops.A * within
    A[:, ::2] = 0
    close(both.update_operator(flow)(here.err), loops.forward(A))
    differ(both.update_operator(flow)(here.err), create_rule("snap1").update_operator(flow)(here.err))
