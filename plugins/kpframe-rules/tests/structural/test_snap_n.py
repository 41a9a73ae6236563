"""SnAp-n: real-time recurrent learning in which influences stay within what is reached in n steps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kpframe import create_model, create_rule
from kpframe.errors import ArgumentError, SettingsError

SEEDS = st.integers(0, 2**31 - 1)


def ring(here) -> None:
    """Leave each unit with connections from itself and from the unit before it."""
    weight = next(p for key, p in here.model.trainable().items() if "weight_hh" in key)
    with torch.no_grad():
        around = torch.eye(4, dtype=weight.dtype) + torch.eye(4, dtype=weight.dtype).roll(1, dims=0)
        weight.mul_(around.repeat(len(weight) // 4, 1)).mul_(2)


def reached_on_a_ring(own: torch.Tensor, steps: int) -> torch.Tensor:  # [H, M]
    """Return what parameters reach in some steps around a ring of four units, by walking it."""
    out = own.clone()
    for unit in range(own.shape[0]):
        for column in range(own.shape[1]):
            if own[unit, column]:
                for step in range(1, steps + 1):
                    out[unit - unit % 4 + (unit % 4 + step) % 4, column] = True
    return out


@settings(max_examples=4)
@given(seed=SEEDS, n=st.integers(1, 3), masked=st.booleans())
@pytest.mark.rows(4)
def test_update_is_masked_rtrl_on_a_ring(
    make, dense, own_entries, close, differ, name, seed, n, masked
) -> None:
    here = make(name, seed, 6, masked=masked)
    ring(here)
    loops = dense(here)
    _, own = own_entries(here.model)
    rule = create_rule("snap_n", n=n)
    update = rule.update_operator(here.flow())
    close(update(here.err), loops.forward(loops.A, keep=reached_on_a_ring(own, n - 1)))
    differ(update(here.err), loops.forward(loops.A, keep=reached_on_a_ring(own, n)), 1e-7)
    differ(update(here.err), here.backward(), 1e-7)


@pytest.mark.rows(3)
def test_the_ring_once_around_is_exact(make, close, differ, name) -> None:
    here = make(name)
    ring(here)
    flow = here.flow()
    for n in (4, 9):
        close(create_rule("snap_n", n=n).update_operator(flow)(here.err), here.backward())
        assert create_rule("snap_n", n=n).flow_operator(flow) is flow.Phi
    differ(create_rule("snap_n", n=3).update_operator(flow)(here.err), here.backward(), 1e-7)


def test_dense_weights_are_exact_from_two_steps_on(make, close, differ, name) -> None:
    here = make(name)
    flow = here.flow()
    close(create_rule("snap_n", n=2).update_operator(flow)(here.err), here.backward())
    differ(create_rule("snap_n", n=1).update_operator(flow)(here.err), here.backward())


@pytest.mark.rows(3)
def test_one_step_is_snap1_where_parameters_act_on_one_unit(make, close, differ, name) -> None:
    here = make(name)
    flow = here.flow()
    first, block = create_rule("snap_n", n=1), create_rule("snap1")
    close(first.update_operator(flow)(here.err), block.update_operator(flow)(here.err))
    close(first.flow_operator(flow)(here.err), block.flow_operator(flow)(here.err))
    here = make(name, start="trainable")  # h_0 acts on all units, by all of A_1
    flow = here.flow()
    differ(first.update_operator(flow)(here.err), block.update_operator(flow)(here.err), 1e-7)


def test_layers(make, dense, close, differ) -> None:
    pytest.importorskip("kpframe_gru")
    model = create_model("gru", input_size=3, hidden_size=3, num_layers=2, seed=2).double()
    here = make("gru")
    here = type(here)(model, here.x, None, None, torch.cat([here.err, here.err], dim=-1)[..., :6])
    loops = dense(here)
    touched = loops.J.abs().amax(dim=(0, 1)) > 0  # the lower layer's parameters act on the upper one, too
    assert (touched.sum(dim=0) > 1).any()
    flow = here.flow()
    update = create_rule("snap_n", n=1).update_operator(flow)(here.err)
    close(update, loops.forward(loops.A, keep=touched))
    differ(update, create_rule("snap1").update_operator(flow)(here.err))
    differ(update, here.backward())


@pytest.mark.parametrize("n", [1, 2])
def test_it_is_a_proper_operator(make, close, differ, n) -> None:
    here = make("lstm")
    ring(here)
    flow = here.flow()
    G = create_rule("snap_n", n=n).update_operator(flow).T
    matrix = G.to_dense()
    close(G.T.to_dense(), matrix.T)
    d = torch.randn(2, 3, G.domain.size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    close(G(d).flatten(2), d @ matrix.T)
    q = torch.randn(2, 3, *G.codomain.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    close(G.T(q), q.flatten(2) @ matrix)
    close(G.T(q)[1, 2], G.T(q[1, 2]))
    differ(matrix, (flow.P @ flow.J).to_dense(), 1e-7)


@pytest.mark.rows(3)
def test_with_other_rules(make, dense, own_entries, close, differ, name) -> None:
    here = make(name)
    ring(here)
    flow = here.flow()
    loops = dense(here)
    _, own = own_entries(here.model)
    frozen = create_rule("frozen", parameters=["*weight_ih*"])
    rule = create_rule("snap_n", n=2)
    keep = reached_on_a_ring(own, 1)
    update = (frozen @ rule).update_operator(flow)(here.err)
    parts = {part.name: part.slice for part in flow.J.domain.axes[0].parts}
    expected = loops.forward(loops.A, keep=keep)
    differ(update, expected)
    expected[next(part for key, part in parts.items() if "weight_ih" in key)] = 0
    close(update, expected)
    A = loops.A.clone()
    A[:, ::3] = 0
    chunks = rule @ create_rule("truncated_bptt", window=3, mode="chunked")
    close(chunks.update_operator(flow)(here.err), loops.forward(A, keep=keep))
    differ(chunks.update_operator(flow)(here.err), loops.forward(loops.A, keep=keep), 1e-6)


def test_formula_and_refusals(make) -> None:
    flow = make("gru").flow()
    rule = create_rule("snap_n", n=1)
    assert repr(rule) == "SnapN(n=1)"
    assert repr(rule.update_operator(flow)) == "G_1*"
    assert repr(rule.flow_operator(flow)) == "P J G_1*"
    with pytest.raises(SettingsError, match="rule 'snap_n': n: expected int >= 1, got 0"):
        create_rule("snap_n", n=0)
    with pytest.raises(ArgumentError, match=r"n: expected int >= 1, got 1\.5"):
        type(rule)(1.5)
