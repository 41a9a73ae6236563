"""Parameters that act at several places under several names, in every bundled model.

A shared parameter is one: J adds up what it does everywhere. The reference is automatic differentiation
of the same tied model; the partner is that model with the two places untied, their values equal.
"""

from __future__ import annotations

from copy import deepcopy
from itertools import combinations

import pytest
import torch

from kpframe import Flow, Model, Readout, create_model, create_rule, linearize
from kpframe.errors import ArgumentError
from kpframe.operators._spaces import Part

SIZE = {"input_size": 3, "hidden_size": 3}
LAYERS = {"num_layers": 2}
START = {"trainable_initial_state": True}
CASES = {
    "rnn": ("rnn", START),
    "rnn of layers": ("rnn", LAYERS),
    "rnn in current form": ("rnn", {"form": "current", **LAYERS}),
    "rnn of low rank": ("rnn", {"rank": 2}),
    "rnn with a mask": ("rnn", {"density": 0.5}),
    "rnn of Dale's law": ("rnn", {"excitatory_fraction": 0.5}),
    "gru": ("gru", START),
    "gru that resets before": ("gru", {"reset": "before"}),
    "gru of layers": ("gru", LAYERS),
    "lstm": ("lstm", {}),
    "lstm of layers": ("lstm", LAYERS),
    "hh": (
        "hh",
        {"input_weights": True, "bias": True, "trainable_conductances": ("g_na", "g_k", "g_l")},
    ),
    "morris_lecar": ("morris_lecar", {"bias": True, "trainable_conductances": ("g_ca", "g_k")}),
    "mpn": (
        "mpn",
        {"train_eta": True, "train_lam": True, "eta_shape": "post", "lam_shape": "post", "bias": True},
    ),
    "hopfield": ("hopfield", START),
    "neural_ode": ("neural_ode", {}),
    "soft_spin": ("soft_spin", {}),
    "s4d": ("s4d", {"state_size": 2}),
    "s5": ("s5", START),
    "lru": ("lru", {}),
    "lti": ("lti", START),
    "mamba": ("mamba", {"state_size": 3, "conv_size": 2, "dt_rank": 3, "bias": True}),
    "mlp": ("mlp", {"depth": 3}),
    "attention": ("attention", {"tokens": 1, "mlp_size": 3}),
}


def pairs(model: Model) -> list[tuple[str, str]]:
    theta = model.trainable()
    return [pair for pair in combinations(theta, 2) if theta[pair[0]].shape == theta[pair[1]].shape]


def tied(model: Model, kept: str, other: str) -> Model:
    """Return a copy in which ``other`` is the parameter ``kept``."""
    model = deepcopy(model)
    owner, _, name = other.rpartition(".")
    setattr(model.get_submodule(owner), name, model.get_parameter(kept))
    return model


def untied(model: Model, kept: str, other: str) -> Model:
    """Return a copy with the value of ``kept`` at ``other``."""
    model = deepcopy(model)
    model.get_parameter(other).data.copy_(model.get_parameter(kept).data)
    return model


def made(case: str) -> tuple[Model, torch.Tensor]:
    name, settings = CASES[case]
    model = create_model(name, **SIZE, **settings, seed=1).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():  # none stays at zero
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.1 * noise * parameter.abs().mean().clamp(min=0.1))
    return model, torch.randn(2, model.steps or 4, 3, generator=generator, dtype=torch.float64)


def gap(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


#: With many pairs, whose kinds other cases have too; the conformance kit shares parameters of all models.
MANY = ("attention", "mamba", "gru of layers", "lstm of layers", "rnn in current form")


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.slow] * (case in MANY)) for case in CASES]
)
@pytest.mark.rows(6)
def test_every_pair_of_one_shape_that_becomes_one_parameter(case: str) -> None:
    model, x = made(case)
    found = pairs(model)
    assert found
    apart = []
    rule = create_rule("bptt")
    for kept, other in found:
        one = tied(model, kept, other)
        flow, twin = linearize(one, x), linearize(one, x, method="autograd")
        assert flow.J.domain.size == model.parameter_space.size - model.trainable()[kept].numel()
        r = torch.randn(3, *flow.P.domain.shape, generator=torch.Generator().manual_seed(2)).double()
        d = torch.randn(3, flow.J.domain.size, generator=torch.Generator().manual_seed(3)).double()
        for operator, q in (("Phi", r), ("K", r)):
            assert gap(getattr(flow, operator)(q), getattr(twin, operator)(q)) < 1e-11, (kept, other)
        for got, want in ((flow.J(d), twin.J(d)), (flow.J.T(r), twin.J.T(r))):
            assert gap(got, want) < 1e-11, (kept, other)
        gradient = rule.gradient(flow, r[0])
        (one.rollout(x).states * r[0]).sum().backward()
        for name, parameter in one.trainable().items():
            own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            torch.testing.assert_close(gradient[name], own, rtol=1e-9, atol=1e-10 * float(r[0].norm()))
        two = linearize(untied(model, kept, other), x)
        apart.append(gap(two.K(r), flow.K(r)))
        if case in ("rnn", "gru", "lstm", "rnn of layers", "lstm of layers"):
            assert apart[-1] > 1e-3, (kept, other)
    assert max(apart) > 1e-6  # not each: one of the two places may move no state (C, D of linear systems)


@pytest.mark.parametrize("case", ["rnn of layers", "lstm of layers", "mamba", "mpn", "mlp"])
@pytest.mark.rows(2)
def test_a_shared_parameter_that_is_frozen_does_not_learn_anywhere(case: str) -> None:
    model, x = made(case)
    for kept, other in pairs(model)[:3]:
        one = tied(model, kept, other)
        one.get_parameter(other).requires_grad_(False)
        flow, twin = linearize(one, x), linearize(one, x, method="autograd")
        names = [part.name for part in flow.J.domain.axes[0].parts]
        assert names == [name for name in model.trainable() if name not in (kept, other)]
        r = torch.randn(flow.P.domain.shape, generator=torch.Generator().manual_seed(2)).double()
        assert gap(flow.Phi(r), twin.Phi(r)) < 1e-11
        whole = linearize(tied(model, kept, other), x)
        assert gap(whole.K.freeze([other])(r), flow.K(r)) < 1e-11


def layers_that_are_one() -> tuple[Model, torch.Tensor]:
    """The two layers of an rnn with the same four parameters."""
    model, x = made("rnn of layers")
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        setattr(model, f"{name}_l1", getattr(model, f"{name}_l0"))
    return model, x


def test_a_layer_used_twice() -> None:
    model, x = layers_that_are_one()
    flow, twin = linearize(model, x), linearize(model, x, method="autograd")
    assert flow.K.method == "sites"
    assert [part.name for part in flow.J.domain.axes[0].parts] == list(model.trainable())
    assert flow.J.domain.axes[0].part("weight_hh_l1").name == "weight_hh_l0"
    torch.testing.assert_close(flow.Phi.to_dense(), twin.Phi.to_dense(), rtol=1e-11, atol=1e-12)
    first = linearize(made("rnn of layers")[0], x).K.restrict(["*_l0"]).to_dense()
    assert gap(first, flow.K.to_dense()) > 0.1


def test_any_name_of_a_shared_parameter_means_all_of_it() -> None:
    model, x = layers_that_are_one()
    K = linearize(model, x).K
    for pattern in ("weight_hh_l1", "weight_hh_l0", "weight_hh*", "*hh_l1"):
        chosen = K.restrict([pattern] if pattern != "*hh_l1" else ["weight_hh_l1"])
        assert chosen.parameters == ("weight_hh_l0",)
        assert torch.equal(chosen.to_dense(), K.restrict(["weight_hh_l0"]).to_dense())
        assert "weight_hh_l0" not in K.freeze([pattern]).parameters
    assert K.restrict(["*_l1"]).parameters == K.parameters
    assert K.freeze(["*_l1"]).parameters == ()
    with pytest.raises(ArgumentError, match=r"expected names among .*weight_hh_l0.*, weight_hh_l1"):
        K.restrict(["weight_hh_l2"])
    total = sum(one.to_dense() for one in K.groups().values())
    torch.testing.assert_close(total, K.to_dense(), rtol=1e-12, atol=1e-13)


#: Rules whose update is a product with J* of the sites, and that change no metric.
PLACES = {
    "bptt": {},
    "truncated_bptt": {"window": 2},
    "eprop": {},
    "rflo": {},
    "snap1": {},
    "three_factor": {},
    "kernl": {},
    "gate_stop": {"paths": ["weight_hh_l0"]},
}


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.rows(3)
def test_the_update_of_a_shared_parameter_is_the_sum_over_its_places(name: str) -> None:
    """As backpropagation has it; the places are those of the untied model with the same values."""
    model, x = made("rnn")
    readout = Readout(3, 2, generator=0, dtype=torch.float64)
    rule = create_rule(name, **PLACES[name])
    for kept, other in (("weight_ih_l0", "weight_hh_l0"), ("bias_ih_l0", "bias_hh_l0")):
        one = linearize(tied(model, kept, other), x)
        two = linearize(untied(model, kept, other), x)
        err = readout(one.trajectory.states).detach() @ readout.weight.detach()
        shared, apart = rule.gradient(one, err, readout), rule.gradient(two, err, readout)
        places = apart.pop(kept), apart.pop(other)
        torch.testing.assert_close(shared.pop(kept), places[0] + places[1], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(shared, apart, rtol=1e-10, atol=1e-12)
        assert min(float(place.norm()) for place in places) > 1e-3


METRICS = {
    "frozen": {"parameters": ["weight_hh_l0"]},
    "learning_rates": {"rates": {"weight_hh_l0": 0.3}},
    "low_rank_projection": {"rank": 1, "weights": ["weight_hh_l0"]},
    "natural_gradient": {"damping": 0.1},
}


@pytest.mark.parametrize("name", METRICS)
def test_metrics_find_a_shared_parameter_by_either_name(name: str) -> None:
    model, x = made("rnn")
    one = tied(model, "weight_ih_l0", "weight_hh_l0")
    flow, twin = linearize(one, x), linearize(one, x, method="autograd")
    rule, own = (
        create_rule(name, **{k: _renamed(v, alias) for k, v in METRICS[name].items()})
        for alias in ("weight_hh_l0", "weight_ih_l0")
    )
    q = torch.randn(flow.P.domain.shape, generator=torch.Generator().manual_seed(2)).double()
    found = rule.update_operator(flow)(q)
    torch.testing.assert_close(found, rule.update_operator(twin)(q), rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(found, own.update_operator(flow)(q), rtol=1e-12, atol=1e-13)
    assert gap(found, create_rule("bptt").update_operator(flow)(q)) > 1e-3


def _renamed(value: object, name: str) -> object:
    if isinstance(value, dict):
        return dict.fromkeys([name], *value.values())
    return [name] if isinstance(value, list) else value


def test_values_for_a_shared_parameter_are_given_once() -> None:
    model, x = made("rnn")
    flow = linearize(tied(model, "weight_ih_l0", "weight_hh_l0"), x)
    moments = {name: torch.full(part.shape, 4.0).double() for name, part in _parts(flow)}
    assert set(moments) == {"h0", "weight_ih_l0", "bias_ih_l0", "bias_hh_l0"}
    rule = create_rule("frozen_adam", second_moments=moments)
    renamed = {("weight_hh_l0" if name == "weight_ih_l0" else name): v for name, v in moments.items()}
    err = torch.ones(flow.P.domain.shape).double()
    expected = create_rule("bptt").update_operator(flow)(err) / (2 + 1e-8)
    torch.testing.assert_close(rule.update_operator(flow)(err), expected)
    found = create_rule("frozen_adam", second_moments=renamed).update_operator(flow)(err)
    torch.testing.assert_close(found, expected)
    with pytest.raises(ArgumentError, match="one value for a shared parameter, by one of its names"):
        create_rule("frozen_adam", second_moments={**moments, **renamed}).update_operator(flow)


def _parts(flow: Flow) -> list[tuple[str, Part]]:
    return [(part.name, part) for part in flow.J.domain.axes[0].parts]


@pytest.mark.parametrize("name", ["kf_rtrl", "uoro"])
def test_random_rules_have_the_exact_gradient_of_a_shared_parameter_as_their_mean(name: str) -> None:
    model = create_model("rnn", input_size=2, hidden_size=2, seed=0).double()
    model.bias_hh_l0 = model.bias_ih_l0
    x = torch.randn(1, 3, 2, generator=torch.Generator().manual_seed(0)).double()
    flow = linearize(model, x)
    err = torch.randn(flow.P.domain.shape, generator=torch.Generator().manual_seed(1)).double()
    rule = create_rule(name)
    mean = rule.expectation(flow)(err)
    torch.testing.assert_close(mean, create_rule("bptt").update_operator(flow)(err), rtol=1e-10, atol=1e-12)
    two = create_model("rnn", input_size=2, hidden_size=2, seed=0).double()
    two.bias_hh_l0.data.copy_(two.bias_ih_l0.data)
    bias = create_rule("bptt").gradient(linearize(two, x), err)["bias_ih_l0"]
    torch.testing.assert_close(create_rule("bptt").gradient(flow, err)["bias_ih_l0"], 2 * bias)
