"""The Duhamel series: its terms, its remainder, and where it ends."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kpframe import create_rule
from kpframe.errors import ArgumentError, SettingsError, UnsupportedError

SEEDS = st.integers(0, 2**31 - 1)
ALPHA = {"vanilla": 1.0, "rate": 0.4, "current": 0.4}
ANY, PATHS = ("zero", "diagonal", "units"), ("direct", "leak")


def base_of(base: str, name: str, here, loops, own_entries, stopped) -> torch.Tensor:  # [B, T, H, H]
    """Return A_0, from dense Jacobians and the models written out."""
    A = loops.A
    if base == "zero":
        return torch.zeros_like(A)
    if base == "diagonal":
        return A.diagonal(dim1=-2, dim2=-1).diag_embed()
    if base == "units":
        return A * own_entries(here.model)[0]
    if base == "leak":
        return (1 - ALPHA[name]) * torch.eye(4, dtype=A.dtype).expand_as(A)
    with torch.no_grad():
        previous = here.model.rollout(here.x, here.h0).states.roll(1, dims=1)
        previous[:, 0] = here.h0
    rows = []
    for t in range(A.shape[1]):
        old = previous[:, t].clone().requires_grad_()
        new = stopped(name, here.model, here.x[:, t], old).sum(dim=0)
        # where nothing goes around the weights, there is no graph to the old state
        rows.append(torch.stack([gradient_or_zero(entry, old) for entry in new], dim=1))
    return torch.stack(rows, dim=1)


def gradient_or_zero(entry: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(entry, old, retain_graph=True, allow_unused=True, materialize_grads=True)[0]


@settings(max_examples=5)
@given(seed=SEEDS, order=st.integers(1, 4), data=st.data())
@pytest.mark.rows(4)
def test_terms_and_remainder(
    make, dense, own_entries, stopped, close, differ, name, seed, order, data
) -> None:
    known = ANY + (() if name == "cell" else PATHS[: 1 + (name in ALPHA)])
    base = data.draw(st.sampled_from(known), label="base")
    here = make(name, seed, 5)
    loops = dense(here)
    A0 = base_of(base, name, here, loops, own_entries, stopped)
    P, P0, R = loops.propagator(loops.A), loops.propagator(A0), loops.shifted(loops.A - A0)
    flow = here.flow()
    close(flow.P.to_dense(), P)
    own = create_rule("duhamel", order=order, base=base).propagator(flow)
    powers = [torch.linalg.matrix_power(R @ P0, j) for j in range(order)]
    close(own.to_dense(), P0 @ sum(powers))
    close(own.T.to_dense(), (P0 @ sum(powers)).mT)
    remainder = torch.linalg.matrix_power(P0 @ R, order) @ P
    assert float((P - own.to_dense() - remainder).norm()) <= 1e-12 * float(P.norm())
    assert float(remainder.norm()) > 1e-9 * float(P.norm())
    differ(own.to_dense(), P0 @ sum(powers) + remainder, 1e-9)


@pytest.mark.parametrize("base", ANY)
@pytest.mark.rows(4)
def test_as_many_terms_as_steps_are_exact(make, close, differ, name, base) -> None:
    here = make(name)
    flow = here.flow()
    for order in (6, 11):
        close(create_rule("duhamel", order=order, base=base).update_operator(flow)(here.err), here.backward())
    differ(create_rule("duhamel", order=1, base=base).update_operator(flow)(here.err), here.backward())
    short = create_rule("duhamel", order=3, base=base).update_operator(flow)(here.err)
    differ(short, here.backward(), 1e-9)


def test_the_first_term_is_a_rule_of_its_own(make, close, differ, leaky) -> None:
    here = make(leaky, masked=True)
    flow = here.flow()
    firsts = {
        "zero": create_rule("truncated_bptt", window=1),
        "leak": create_rule("rflo"),
        "direct": create_rule("eprop"),
        "units": create_rule("snap1"),
    }
    for base, rule in firsts.items():
        update = create_rule("duhamel", order=1, base=base).update_operator(flow)(here.err)
        close(update, rule.update_operator(flow)(here.err))
        second = create_rule("duhamel", order=2, base=base).update_operator(flow)(here.err)
        differ(second, rule.update_operator(flow)(here.err))
    two = create_rule("duhamel", order=2, base="zero").update_operator(flow)(here.err)
    close(two, create_rule("truncated_bptt", window=2).update_operator(flow)(here.err))


def test_a_base_nearer_to_A_leaves_less(make, name) -> None:
    here = make(name)
    flow = here.flow()
    P = flow.P.to_dense()
    left = {
        base: float((P - create_rule("duhamel", order=2, base=base).propagator(flow).to_dense()).norm())
        for base in ("zero", "units")
    }
    assert left["units"] < left["zero"]


def test_formula_and_refusals(make) -> None:
    flow = make("gru").flow()
    rule = create_rule("duhamel", order=3)
    assert repr(rule) == "Duhamel(order=3, base='diagonal')"
    assert repr(rule.flow_operator(flow)) == "P K P_3[diagonal]*"
    assert repr(create_rule("duhamel", order=1, base="units").propagator(flow)) == "P[units]"
    assert rule.propagator(flow).method == "diagonal"
    with pytest.raises(UnsupportedError, match=r"duhamel\(base='leak'\) needs a constant leak"):
        create_rule("duhamel", order=2, base="leak").update(flow)
    with pytest.raises(UnsupportedError, match=r"duhamel\(base='direct'\) needs the direct path"):
        create_rule("duhamel", order=2, base="direct").update(make("cell").flow())
    with pytest.raises(SettingsError, match=r"order: expected int >= 1, got nothing"):
        create_rule("duhamel")
    with pytest.raises(SettingsError, match=r"base: expected one of 'zero', .*got 'diag'; did you mean"):
        create_rule("duhamel", order=1, base="diag")
    with pytest.raises(ArgumentError, match="order: expected int >= 1, got True"):
        type(rule)(True)
    with pytest.raises(ArgumentError, match="base: expected one of 'zero', 'leak'"):
        type(rule)(1, "A_0")


def test_the_base_is_in_the_form_of_P(make, close) -> None:
    flow = make("rate", 0, 5).flow()
    other = flow.with_propagator("stepwise")
    rule = create_rule("duhamel", order=2, base="diagonal")
    found, plain = rule.propagator(other), rule.propagator(flow)
    assert (found.method, plain.method) == ("stepwise", "diagonal")
    close(found.to_dense(), plain.to_dense())


@pytest.mark.parametrize(
    ("rule", "arguments"),
    [
        ("duhamel", {"order": 2, "base": "diagonal"}),
        ("truncated_bptt", {"window": 2}),
        ("truncated_bptt", {"mode": "k1k2", "k1": 2, "k2": 3}),
    ],
)
def test_what_stands_for_P_is_the_inverse_of_no_step(make, close, differ, rule, arguments) -> None:
    """Hence no Propagator: another rule that takes A from it would leave out what this one did."""
    flow = make("rate", 0, 6).flow()
    update = create_rule(rule, **arguments).update(flow)
    identity = torch.eye(flow.P.domain.size, dtype=flow.P.dtype)
    inverse = flow.P.inverse.to_dense()
    close(flow.P.to_dense() @ inverse, identity)
    differ(update.P.to_dense() @ inverse, identity)
    with pytest.raises(UnsupportedError, match="is no propagator of a step Jacobian any more"):
        _ = update.A
