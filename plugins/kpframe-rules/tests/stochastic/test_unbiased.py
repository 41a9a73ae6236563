"""What all stochastic rules satisfy: the mean of every draw is backpropagation through time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kpframe_rules.artbp import ARTBP
from kpframe_rules.kf_rtrl import KFRTRL
from kpframe_rules.perturbation import NodePerturbation, WeightPerturbation
from kpframe_rules.uoro import UORO

from kpframe import Update, create_model, create_rule, linearize
from kpframe.errors import ArgumentError
from kpframe.testing import parametrize_with_checks

SEEDS = st.integers(0, 2**31 - 1)
RULES = {
    "artbp": ("artbp", {"length": 2.5}),
    "artbp_alpha": ("artbp", {"length": 2.5, "alpha": 4.0}),
    "uoro": ("uoro", {}),
    "uoro_plain": ("uoro", {"normalise": False}),
    "node": ("node_perturbation", {}),
    "weight": ("weight_perturbation", {}),
    "kf_rtrl": ("kf_rtrl", {}),
}
MODELS = ("vanilla", "rate", "current", "gru", "lstm", "wrapped")
PAIRS = [(r, m) for r in RULES for m in MODELS if r != "kf_rtrl" or m not in ("gru", "wrapped")]
pairs = pytest.mark.parametrize(("kind", "model"), PAIRS)
kinds = pytest.mark.parametrize("kind", list(RULES))


def make(kind: str, **more):
    name, given_settings = RULES[kind]
    return create_rule(name, **given_settings, **more)


def sizes(kind: str, model: str) -> dict:
    """Return sizes at which the outcomes can be gone through: at most 2**8 of them."""
    if kind == "weight":  # one sign a parameter
        return {"inputs": 1, "units": 2 if model in ("vanilla", "rate", "current") else 1, "biases": False}
    if kind.startswith(("artbp", "kf")):  # one choice a step
        return {"time": 5}
    return {"time": 2 if model == "lstm" else 3}  # one sign for each entry of the state at each step


@pairs
@settings(max_examples=2)
@given(seed=SEEDS)
@pytest.mark.rows(6)
def test_exact_expectation(tiny, close, differ, kind, model, seed) -> None:
    here = tiny(model, seed, **sizes(kind, model))
    rule, flow = make(kind), here.flow()
    exact = here.exact()
    close(rule.expectation(flow)(here.err), exact, 1e-9)
    every = [rule.sample(torch.Generator().manual_seed(i)) for i in range(4)]  # one may be close by chance
    drawn = [one.update_operator(flow)(here.err) for one in every]
    assert max(float((one - exact).norm()) for one in drawn) > 1e-2 * float(exact.norm())


@kinds
@pytest.mark.parametrize("start", ["given", "trainable"])
@pytest.mark.rows(4)
def test_exact_expectation_with_padded_steps(tiny, close, differ, kind, start) -> None:
    if (kind, start) == ("kf_rtrl", "trainable"):
        pytest.skip("refused")
    time = 5 if kind.startswith(("artbp", "kf")) else 3
    here = tiny("vanilla", 3, **{**sizes(kind, "vanilla"), "time": time}, masked=True, start=start)
    rule, flow = make(kind), here.flow()
    close(rule.expectation(flow)(here.err), here.exact(), 1e-9)
    without = tiny("vanilla", 3, **{**sizes(kind, "vanilla"), "time": time}, start=start)
    differ(rule.expectation(flow)(here.err), without.exact())


@kinds
def test_half_of_the_outcomes_are_not_enough(tiny, differ, kind) -> None:
    here = tiny("vanilla", 1, **sizes(kind, "vanilla"))
    rule = make(kind)
    found = list(rule.outcomes(Update.exact(here.flow())))
    half = found[: len(found) // 2]
    mass = sum(probability for probability, _ in half)
    mean = sum(probability / mass * update.operator(here.err) for probability, update in half)
    differ(mean, here.exact(), 1e-2)


@kinds
@pytest.mark.rows(10)
def test_standard_error_covers_the_gradient(tiny, kind) -> None:
    check_coverage(tiny, kind, 100)


@pytest.mark.slow
@kinds
def test_a_standard_error_half_as_large_covers_it_too(tiny, kind) -> None:
    check_coverage(tiny, kind, 400)


def check_coverage(tiny, kind: str, count: int) -> None:
    here = tiny("vanilla", 5, time=8, units=4, inputs=3)
    rule, flow, exact = make(kind), here.flow(), here.exact()
    generator = torch.Generator().manual_seed(11)
    draws = torch.stack([rule.sample(generator).update_operator(flow)(here.err) for _ in range(count)])
    ways = torch.randn(6, len(exact), generator=generator, dtype=torch.float64)
    ways[0] = exact
    along = draws @ ways.T
    error = along.std(dim=0) / count**0.5
    assert bool(((along.mean(dim=0) - ways @ exact).abs() <= 4 * error).all())
    assert float((along.mean(dim=0) - 3 * (ways @ exact))[0].abs()) > 6 * float(error[0])


@kinds
def test_draws_are_those_of_the_seed(tiny, differ, kind) -> None:
    here = tiny("gru" if kind != "kf_rtrl" else "vanilla", time=5, units=4)
    flow = here.flow()
    first = make(kind, seed=3).update_operator(flow)(here.err)
    assert torch.equal(first, make(kind, seed=3).update_operator(flow)(here.err))
    assert torch.equal(first, make(kind, seed=3).update_operator(here.flow())(here.err))
    others = [make(kind, seed=seed).update_operator(flow)(here.err) for seed in range(4, 8)]
    assert all(not torch.equal(one, first) for one in others) or kind.startswith("artbp")
    assert any(not torch.equal(one, first) for one in others)
    rule = make(kind)
    sampled = rule.sample(torch.Generator().manual_seed(0))
    assert sampled.seed != rule.seed
    assert type(sampled) is type(rule)


@kinds
def test_each_trial_has_its_own_draw(tiny, close, differ, kind) -> None:
    """Two equal trials: one error at the first or at the second gives other updates."""
    here = tiny("vanilla", time=6, units=4)
    flow = linearize(here.model, here.x[:1].expand(2, -1, -1).clone(), here.h0[:1].expand(2, -1).clone())
    err = torch.stack([here.err[0], torch.zeros_like(here.err[0])])
    rule = make(kind, seed=1)
    first, second = rule.update_operator(flow)(err), rule.update_operator(flow)(err.flip(0))
    if kind == "weight":  # all trials share the perturbed weights
        close(first, second)
    else:
        differ(first, second)


@kinds
def test_dtype_and_device(tiny, close, kind, device) -> None:
    here = tiny("vanilla", time=6, units=4)
    rule = make(kind, seed=2)
    double = rule.update_operator(here.flow())(here.err)
    single = linearize(here.model.float().to(device), here.x.float().to(device), here.h0.float().to(device))
    update = rule.update_operator(single)
    found = update(here.err.float().to(device))
    assert (found.dtype, found.device.type) == (torch.float32, device.type)
    close(found.double().cpu(), double, 1e-4)  # the draw does not depend on the dtype


@kinds
@pytest.mark.rows(3)
def test_composes_with_frozen_parameters(tiny, close, differ, kind) -> None:
    here = tiny("vanilla", 2, **sizes(kind, "vanilla"))
    flow, rule = here.flow(), make(kind)
    frozen = create_rule("frozen", parameters=["weight_ih*"])
    part = next(p for p in flow.J.domain["parameter"].parts if p.name == "weight_ih_l0")
    expected = here.exact()
    expected[part.slice] = 0
    for both in (frozen @ rule, rule @ frozen):
        found = both.update_operator(flow)(here.err)
        assert not found[part.slice].any()
        differ(found, rule.update_operator(flow)(here.err))
    means = [
        sum(p * frozen.change(update).operator(here.err) for p, update in rule.outcomes(Update.exact(flow))),
        sum(p * u.operator(here.err) for p, u in rule.outcomes(frozen.change(Update.exact(flow)))),
    ]
    for mean in means:
        close(mean, expected, 1e-9)


@kinds
def test_too_many_outcomes_are_refused_at_once(tiny, kind) -> None:
    here = tiny("vanilla", time=20, units=4)
    with pytest.raises(ArgumentError, match=r"flow: expected a trajectory with at most 16384 outcomes of "):
        make(kind).expectation(here.flow())


@pytest.mark.slow
def test_figures_of_the_docstrings() -> None:
    """Cosines with the gradient (medians), and root of the mean squared deviation over the gradient.

    Those told are of 4000 draws; of 400 they differ by up to 8 %.
    """
    generator = torch.Generator().manual_seed(0)
    model = create_model("rnn", input_size=3, hidden_size=32, seed=0, gain=1.2).double()
    x = torch.randn(1, 50, 3, generator=generator, dtype=torch.float64)
    err = torch.randn(1, 50, 32, generator=generator, dtype=torch.float64)
    flow = linearize(model, x)
    exact = flow.J.T(flow.P.T(err))
    expected = [
        (ARTBP(10), 0.56, 2.6),
        (ARTBP(10, 4.0), 0.57, 2.0),
        (ARTBP(50), 0.94, 0.61),
        (UORO(), 0.04, 23),
        (UORO(normalise=False), 0.04, 24),
        (NodePerturbation(), 0.03, 30),
        (WeightPerturbation(), 0.02, 1183**0.5),
        (WeightPerturbation(distribution="normal"), 0.02, 1185**0.5),
        (KFRTRL(), 0.22, 4.1),
    ]
    for rule, cosine, deviation in expected:
        generator = torch.Generator().manual_seed(1)
        draws = torch.stack([rule.sample(generator).update_operator(flow)(err) for _ in range(400)])
        cosines = draws @ exact / draws.norm(dim=1) / exact.norm()
        found = float(((draws - exact).square().sum(dim=1).mean() / exact.square().sum()).sqrt())
        assert float(cosines.median()) == pytest.approx(cosine, rel=0.1, abs=0.01), rule
        assert found == pytest.approx(deviation, rel=0.1), rule


class KroneckerWhereItApplies(KFRTRL):
    """The rule on models of one set of preactivations; on the kit's other models it replaces nothing."""

    def change(self, update):
        return super().change(update) if update.flow.A.method == "sites" else update


@parametrize_with_checks(["artbp", "uoro", "node_perturbation", KroneckerWhereItApplies], kind="rule")
@pytest.mark.rows(9)
def test_conformance(check) -> None:
    check()


class SharedCuts(ARTBP):
    def __init__(self) -> None:
        super().__init__(2.0, shared=True)


@parametrize_with_checks(["weight_perturbation", SharedCuts], kind="rule")
@pytest.mark.rows(6)
def test_conformance_in_any_order(check) -> None:
    check()
