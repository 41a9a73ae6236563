"""A seed gives the same numbers under any default dtype, in every bundled model, readout, task and rule."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from kpframe import Flow, Model, Readout, create_model, create_rule, create_task, linearize
from kpframe.models._initial_weights import normal_, uniform_
from kpframe.plugin import get_manager

SIZES = {"input_size": 4, "hidden_size": 4}
MODELS = {
    "attention": ("attention", {"tokens": 2}),
    "gru": ("gru", {}),
    "gru that resets before": ("gru", {"reset": "before"}),
    "hh": ("hh", {}),
    "hh of positive weights": ("hh", {"nonnegative": True, "trainable_conductances": ("g_l",)}),
    "hopfield": ("hopfield", {}),
    "lru": ("lru", {}),
    "lstm": ("lstm", {"num_layers": 2}),
    "lti": ("lti", {}),
    "mamba": ("mamba", {"bias": True}),
    "mlp": ("mlp", {}),
    "morris_lecar": ("morris_lecar", {}),
    "mpn": ("mpn", {}),
    "neural_ode": ("neural_ode", {}),
    "noisy_rnn": ("noisy_rnn", {}),
    "rnn": ("rnn", {}),
    "rnn with a mask": ("rnn", {"density": 0.5, "gain": 1.2}),
    "rnn of Dale's law": ("rnn", {"excitatory_fraction": 0.5, "gain": 1.0}),
    "rnn of low rank": ("rnn", {"rank": 2, "gain": 0.5}),
    "s4d": ("s4d", {}),
    "s5": ("s5", {}),
    "soft_spin": ("soft_spin", {}),
    "ssm": ("ssm", {"kind": "lru"}),
}

#: Sums over the parameters in float32 of seed 5, as the first release drew them.
SUMS = {
    "attention": 8.635659,
    "gru": 1.615393,
    "gru that resets before": 1.615393,
    "hh": 1.788162,
    "hh of positive weights": -45.86561,
    "hopfield": 3.882601,
    "lru": -2.503113,
    "lstm": -2.567203,
    "lti": 1.748534,
    "mamba": 104.3894,
    "mlp": 0.2819818,
    "morris_lecar": 1.788162,
    "mpn": 4.512097,
    "neural_ode": -2.296814,
    "noisy_rnn": 1.096718,
    "rnn": 1.096718,
    "rnn with a mask": 4.931077,
    "rnn of Dale's law": 7.737975,
    "rnn of low rank": -3.659179,
    "s4d": 1499.454,
    "s5": 10.23737,
    "soft_spin": 3.882601,
    "ssm": -2.503113,
}


@contextmanager
def default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def made(case: str, seed: int = 5) -> Model:
    name, settings = MODELS[case]
    return create_model(name, **SIZES, **settings, seed=seed)


def test_every_bundled_model_is_here() -> None:
    assert {name for name, _ in MODELS.values()} == {spec.name for spec in get_manager().specs("model")}


@pytest.mark.parametrize("case", MODELS)
def test_weights_do_not_depend_on_the_default_dtype(case: str) -> None:
    single = made(case)
    with default(torch.float64):
        double = made(case)
        state = torch.random.get_rng_state()
    assert {p.dtype for p in double.parameters()} == {torch.float64}
    assert torch.equal(state, torch.random.get_rng_state())
    other = dict(made(case, seed=6).named_parameters())
    apart = []
    for name, value in double.named_parameters():
        own = single.get_parameter(name)
        torch.testing.assert_close(value.float(), own, rtol=3e-7, atol=1e-7)  # one rounding
        apart.append(float((other[name] - own).detach().norm() / (1e-9 + own.detach().norm())))
    assert max(apart) > 0.3


@pytest.mark.parametrize("case", ["gru", "lstm", "rnn", "mlp", "hopfield", "neural_ode", "attention", "hh"])
def test_weights_of_float64_are_those_of_float32_cast_up(case: str) -> None:
    single = made(case)
    with default(torch.float64):
        double = made(case)
    assert all(torch.equal(p, single.get_parameter(n).double()) for n, p in double.named_parameters())
    double.reset_parameters(seed=7)
    single.reset_parameters(seed=7)
    assert all(torch.equal(p, single.get_parameter(n).double()) for n, p in double.named_parameters())


@pytest.mark.parametrize("case", MODELS)
def test_float32_weights_are_what_they_were(case: str) -> None:
    total = sum(float(p.detach().double().sum()) for p in made(case).parameters())
    assert total == pytest.approx(SUMS[case], rel=1e-5, abs=1e-4)


@pytest.mark.parametrize("case", MODELS)
def test_another_default_device(case: str) -> None:
    """Parameters are made there; a device without values shows that nothing is read from them."""
    own = made(case)
    with torch.device("meta"):
        elsewhere = made(case)
    assert {name: p.shape for name, p in elsewhere.named_parameters()} == {
        name: p.shape for name, p in own.named_parameters()
    }
    assert all(p.is_meta for p in elsewhere.parameters())
    assert not any(p.is_meta for p in own.parameters())


def test_draws_fill_any_dtype_with_the_same_numbers() -> None:
    for fill in (uniform_, normal_):
        found = [
            fill(torch.zeros(3, 2, dtype=dtype), -1, 2, torch.Generator().manual_seed(0))
            for dtype in (torch.float32, torch.float64, torch.float16)
        ]
        assert torch.equal(found[1], found[0].double())
        assert torch.equal(found[2], found[0].half())
        torch.manual_seed(3)
        expected = torch.empty(3, 2)
        expected = expected.uniform_(-1, 2) if fill is uniform_ else expected.normal_(-1, 2)
        torch.manual_seed(3)
        assert torch.equal(fill(torch.zeros(3, 2, requires_grad=True), -1, 2), expected)


def test_readouts_and_tasks() -> None:
    single = Readout(4, 3, generator=0)
    task = {name: create_task(name) for name in ("memory_pro", "flip_flop")}
    trials = {name: own.sample(3, generator=1) for name, own in task.items()}
    with default(torch.float64):
        double = Readout(4, 3, generator=0)
        again = {name: own.sample(3, generator=1) for name, own in task.items()}
    assert torch.equal(double.weight.float(), single.weight)
    assert double.weight.dtype == torch.float64
    for name, one in trials.items():
        assert torch.equal(again[name].inputs.float(), one.inputs)
        assert again[name].inputs.dtype == torch.float64


RULES = {
    "rflo": {"feedback": "random"},
    "eprop": {"feedback": "random"},
    "feedback_alignment": {},
    "dfa": {},
    "feedback_through_time": {},
    "kernl": {"kernel": "random"},
    "h_detach": {"probability": 0.5},
    "artbp": {"length": 2},
    "uoro": {},
    "kf_rtrl": {},
    "node_perturbation": {},
    "weight_perturbation": {},
    "low_rank_projection": {"rank": 1},
    "three_factor": {"modulator": "neuron"},
}


def flow_of(model: Model) -> Flow:
    x = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return linearize(model, x)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.rows(4)
def test_draws_of_rules(name: str) -> None:
    flow, readout = flow_of(made("rnn").double()), Readout(4, 3, generator=0, dtype=torch.float64)
    err = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def update(seed: int) -> torch.Tensor:
        return create_rule(name, **RULES[name], seed=seed).update_operator(flow, readout)(err)

    found = update(3)
    with default(torch.float64):
        assert torch.equal(update(3), found)
    assert not torch.allclose(update(4), found, rtol=1e-3)
