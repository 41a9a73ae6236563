"""Stopped gates and h-detach, against autograd with ``detach``."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kpframe import StochasticRule, create_rule
from kpframe.errors import ArgumentError, SettingsError, UnsupportedError

SEEDS = st.integers(0, 2**31 - 1)
GATES = {
    "vanilla": ["u"],
    "rate": ["u"],
    "current": ["u"],
    "gru": ["r", "z", "n_hidden"],
    "lstm": ["i", "f", "g", "o"],
}


@settings(max_examples=6)
@given(seed=SEEDS, masked=st.booleans(), data=st.data())
@pytest.mark.rows(4)
def test_update_is_autograd_with_detached_gates(
    make, gradient, stopped, close, differ, known, seed, masked, data
) -> None:
    here = make(known, seed, 5, masked=masked)
    paths = data.draw(st.lists(st.sampled_from(GATES[known]), min_size=1, unique=True), label="paths")
    update = create_rule("gate_stop", paths=paths).update_operator(here.flow())(here.err)
    close(update, gradient(here, lambda t, h: stopped(known, here.model, here.x[:, t], h, paths)))
    close(gradient(here, lambda t, h: stopped(known, here.model, here.x[:, t], h, [])), here.backward())
    differ(update, here.backward(), 1e-7)


def test_nothing_cut_is_exact_and_all_weights_cut_is_eprop(make, close, differ, known) -> None:
    here = make(known, masked=True)
    flow = here.flow()
    assert create_rule("gate_stop").flow_operator(flow) is flow.Phi
    close(create_rule("gate_stop").update_operator(flow)(here.err), here.backward())
    eprop = create_rule("eprop").update_operator(flow)(here.err)
    for paths in (GATES[known], ["weight_hh_l0"], ["weight_*"]):
        close(create_rule("gate_stop", paths=paths).update_operator(flow)(here.err), eprop)
    differ(eprop, here.backward())


def test_cutting_the_direct_path_leaves_the_weights(make, dense, close, differ, known) -> None:
    here = make(known, masked=True)
    flow, loops = here.flow(), dense(here)
    around = flow.A.direct().blocks()
    A = loops.A - around
    A[~here.mask] = loops.A[~here.mask]  # a padded step still holds the state
    update = create_rule("gate_stop", paths=["direct"]).update_operator(flow)
    close(update(here.err), loops.forward(A))
    if known != "vanilla":  # it has none
        differ(update(here.err), here.backward())
    everything = create_rule("gate_stop", paths=["*"]).propagator(flow).to_dense()
    P = everything.reshape(*flow.P.domain.shape, *flow.P.domain.shape)
    assert not P[0, 1:, :, 0, 0].any()
    close(P[1, 5, :, 1, 3], torch.eye(here.model.width, dtype=torch.float64))


def detached_at(here, gradient, stopped, known: str, cut: tuple[bool, ...]) -> torch.Tensor:
    """Return the gradient with the state detached where a weight reads it, at some steps."""

    def advance(t: int, h: torch.Tensor) -> torch.Tensor:
        return stopped(known, here.model, here.x[:, t], h, ["all"] if cut[t] else [])

    return gradient(here, advance)


@settings(max_examples=3)
@given(seed=SEEDS, probability=st.sampled_from([0.2, 0.5, 0.75]), masked=st.booleans())
@pytest.mark.rows(2)
def test_h_detach_and_its_mean(
    make, gradient, stopped, close, differ, known, seed, probability, masked
) -> None:
    here = make(known, seed, 4, masked=masked)
    flow = here.flow()
    rule = create_rule("h_detach", probability=probability, seed=seed % 1000)
    outcomes = {
        cut: detached_at(here, gradient, stopped, known, (False, *cut))
        for cut in product((False, True), repeat=3)
    }
    update = rule.update_operator(flow)(here.err)
    near = [cut for cut, expected in outcomes.items() if float((update - expected).norm()) < 1e-10]
    assert len(near) >= 1  # two may agree where a trial is over
    close(rule.update_operator(flow)(here.err), update, 0)
    mean = sum(
        probability ** sum(cut) * (1 - probability) ** (3 - sum(cut)) * outcome
        for cut, outcome in outcomes.items()
    )
    close(rule.expectation(flow)(here.err), mean)
    close(StochasticRule.expectation(rule, flow)(here.err), mean)  # one outcome after the other
    differ(mean, here.backward(), 1e-7)


def test_h_detach_at_the_ends(make, close, differ, known) -> None:
    here = make(known)
    flow = here.flow()
    never, always = (create_rule("h_detach", probability=p) for p in (0, 1))
    close(never.update_operator(flow)(here.err), here.backward())
    eprop = create_rule("eprop").update_operator(flow)(here.err)
    close(always.update_operator(flow)(here.err), eprop)
    for rule in (never, always):
        close(rule.expectation(flow)(here.err), rule.update_operator(flow)(here.err))
    differ(eprop, here.backward())


@pytest.mark.parametrize("count", [100, pytest.param(400, marks=pytest.mark.slow)])
def test_the_mean_of_draws_is_the_expectation(make, differ, count) -> None:
    here = make("lstm", seed=3, time=8)
    flow = here.flow()
    rule = create_rule("h_detach", probability=0.4)
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([rule.sample(generator).update_operator(flow)(here.err) for _ in range(count)])
    exact = rule.expectation(flow)(here.err)
    direction = exact / exact.norm()
    along = draws @ direction
    stderr = float(along.std()) / count**0.5
    assert abs(float(along.mean() - exact @ direction)) < 4 * stderr
    spread = float((draws.var(dim=0).sum() / count).sqrt())
    assert float((draws.mean(dim=0) - exact).norm()) < 3 * spread
    assert float((here.backward() - exact).norm()) > 6 * spread
    differ(draws[0], draws[1])


def test_h_detach_of_chosen_paths(make, close, differ) -> None:
    here = make("lstm")
    flow = here.flow()
    some = create_rule("h_detach", probability=1.0, paths=["f", "o"])
    expected = create_rule("gate_stop", paths=["f", "o"]).update_operator(flow)(here.err)
    close(some.update_operator(flow)(here.err), expected)
    differ(create_rule("h_detach", probability=1.0).update_operator(flow)(here.err), expected)


def test_formula_and_refusals(make) -> None:
    flow = make("gru").flow()
    rule = create_rule("gate_stop", paths=["z", "r"])
    assert repr(rule) == "GateStop(paths=['z', 'r'])"
    assert repr(rule.flow_operator(flow)) == "P K P[cut z, r]*"
    detach = create_rule("h_detach", probability=0.5, seed=2)
    assert repr(detach) == "HDetach(probability=0.5, paths=None, seed=2)"
    assert repr(detach.flow_operator(flow)) == "P K P_detach*"
    assert repr(detach.expectation(flow)) == "J* E[P_detach]*"
    known = "'r', 'z', 'n_hidden', 'weight_hh_l0', 'direct'"
    with pytest.raises(ArgumentError, match=f"paths: expected names among {known}, got 'f'"):
        create_rule("gate_stop", paths=["f"]).update(flow)
    for paths in ("z", [1]):
        with pytest.raises(SettingsError, match="paths: expected"):
            create_rule("gate_stop", paths=paths)
    with pytest.raises(ArgumentError, match=r"paths: expected a list such as \['z'\], got 'z'"):
        type(rule)("z")
    with pytest.raises(UnsupportedError, match=r"gate_stop needs a model that knows its paths.*snap1 and"):
        rule.update(make("cell").flow())
    with pytest.raises(UnsupportedError, match="h_detach needs a model that knows its paths apart"):
        detach.update(make("cell").flow())
    with pytest.raises(SettingsError, match=r"probability: expected float >= 0 and <= 1, got 1\.5"):
        create_rule("h_detach", probability=1.5)
    for probability in (-0.1, 2, True, "half"):
        with pytest.raises(ArgumentError, match=r"probability: expected float >= 0 and <= 1, got"):
            type(detach)(probability)
