"""Real-time recurrent learning is backpropagation through time by another way."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kpframe import create_rule
from kpframe.errors import MemoryBudgetError, SettingsError, ShapeError

SEEDS = st.integers(0, 2**31 - 1)


def flat(gradient) -> torch.Tensor:
    return torch.cat([g.reshape(-1) for g in gradient.values()])


@settings(max_examples=5)
@given(
    seed=SEEDS,
    time=st.integers(1, 6),
    start=st.sampled_from(["zero", "given", "trainable"]),
    masked=st.booleans(),
)
@pytest.mark.rows(4)
def test_update_is_the_gradient(make, dense, close, differ, name, seed, time, start, masked) -> None:
    here = make(name, seed, time, start, masked)
    flow = here.flow()
    rule = create_rule("rtrl")
    loops = dense(here)
    for update in (rule.update_operator(flow)(here.err), flat(rule.gradient(flow, here.err))):
        close(update, here.backward())
        close(update, loops.forward(loops.A))
        if time > 1:
            differ(update, flow.J.T(here.err), 1e-6)


@pytest.mark.rows(3)
def test_influences_are_total_derivatives(make, close, differ, name) -> None:
    here = make(name)
    flow = here.flow()
    rule = create_rule("rtrl")
    batch, time, hidden = flow.P.domain.shape
    influence = torch.stack(list(rule.influence(create_rule("bptt").update(flow))), dim=1)
    assert influence.shape == (batch, time, hidden, flow.J.domain.size)
    G = (flow.P @ flow.J).to_dense()
    close(influence.reshape(G.shape), G)
    close(rule.update_operator(flow).to_dense(), G.T)
    differ(flow.J.to_dense(), G)
    close(rule.flow_operator(flow).to_dense(), flow.Phi.to_dense())


def test_online_each_trial_for_itself(make, close, differ, name) -> None:
    here = make(name, masked=True)
    flow = here.flow()
    parts = list(create_rule("rtrl").contributions(flow, here.err))
    assert [part.shape for part in parts] == [(2, flow.J.domain.size)] * 6
    for trial in range(2):
        for until in (2, 6):
            one = type(here)(
                here.model,
                here.x[trial : trial + 1, :until],
                here.h0[trial : trial + 1],
                here.mask[trial : trial + 1, :until],
                here.err[trial : trial + 1, :until],
            )
            close(sum(part[trial] for part in parts[:until]), one.backward())
    differ(parts[-1][0], parts[-1][1])


def test_with_frozen_parameters(make, close, differ, name) -> None:
    here = make(name)
    flow = here.flow()
    frozen = create_rule("frozen", parameters=["*weight_hh*"])
    update = (frozen @ create_rule("rtrl")).update_operator(flow)(here.err)
    close(update, frozen.update_operator(flow)(here.err))
    differ(update, here.backward())


def test_budget(make) -> None:
    here = make("gru")
    flow = here.flow()
    rule = create_rule("rtrl")
    online = 2 * 4 * flow.J.domain.size * 8  # [bytes]
    rule.max_bytes = online  # less than a setting may be, for a flow that is small
    assert set(rule.gradient(flow, here.err)) == set(here.model.trainable())
    with pytest.raises(MemoryBudgetError, match=r"RTRL\(max_bytes=.*influence matrices: expected .* within"):
        rule.update_operator(flow)
    rule.max_bytes = 6 * online
    assert rule.update_operator(flow).codomain.size == flow.J.domain.size
    rule.max_bytes = online - 1
    with pytest.raises(MemoryBudgetError, match="an influence matrix: expected"):
        rule.gradient(flow, here.err)


def test_formula_and_refusals(make) -> None:
    here = make("gru")
    flow = here.flow()
    rule = create_rule("rtrl")
    assert repr(rule) == "RTRL(max_bytes=2147483648)"
    assert repr(rule.update_operator(flow)) == "G*"
    assert repr(rule.flow_operator(flow)) == "P J G*"
    with pytest.raises(ShapeError, match="err: expected shape"):
        rule.gradient(flow, here.err[0])
    for make_rule in (type(rule), partial(create_rule, "rtrl")):
        with pytest.raises(SettingsError, match="max_bytes: expected int >= 1048576, got 10"):
            make_rule(max_bytes=10)
