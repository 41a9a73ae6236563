"""Settings of the model ``gru``: initial weights, defaults and refusals."""

from __future__ import annotations

import copy

import pytest
import torch
from kpframe_gru.model import GRU

from kpframe import create_model
from kpframe.errors import ArgumentError, SettingsError


def same(one: torch.nn.Module, other: torch.nn.Module) -> dict[str, bool]:
    theirs = other.state_dict()
    return {name: torch.equal(value, theirs[name]) for name, value in one.state_dict().items()}


def test_weights_are_uniform_as_in_torch() -> None:
    model = create_model("gru", input_size=200, hidden_size=200, seed=1)
    for parameter in (model.weight_ih_l0, model.weight_hh_l0):
        weights = parameter.detach() * 200**0.5
        assert 0.999 < float(weights.abs().max()) <= 1
        assert float(weights.std()) == pytest.approx(3**-0.5, rel=0.01)


def test_torch_draws_the_same_weights() -> None:
    settings = {"input_size": 3, "hidden_size": 4, "num_layers": 2}
    torch.manual_seed(0)
    twin = torch.nn.GRU(**settings)
    for reset in ("after", "before"):
        torch.manual_seed(0)
        assert all(same(twin, create_model("gru", **settings, reset=reset)).values())
        assert not any(same(twin, create_model("gru", **settings, reset=reset)).values())


def test_seed() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one = create_model("gru", input_size=3, hidden_size=4, seed=7)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(same(one, create_model("gru", input_size=3, hidden_size=4, seed=7)).values())
    assert not any(same(one, create_model("gru", input_size=3, hidden_size=4, seed=8)).values())


def test_without_a_seed_torch_draws() -> None:
    torch.manual_seed(0)
    one = create_model("gru", input_size=3, hidden_size=4)
    assert not any(same(one, create_model("gru", input_size=3, hidden_size=4)).values())
    torch.manual_seed(0)
    assert all(same(one, create_model("gru", input_size=3, hidden_size=4)).values())


def test_repr() -> None:
    assert repr(GRU(3, 4, num_layers=2, reset="before")) == "GRU(3, 4, num_layers=2, reset='before')"


def test_initial_state_starts_at_zero() -> None:
    model = create_model("gru", input_size=3, hidden_size=4, trainable_initial_state=True, seed=0)
    assert torch.equal(model.h0.detach(), torch.zeros(4))
    assert "h0" in model.trainable()
    assert "h0" not in create_model("gru", input_size=3, hidden_size=4).trainable()


@pytest.mark.parametrize("reset", ["after", "before"])
def test_a_copy_has_its_own_weights(reset) -> None:
    model, x = GRU(3, 4, num_layers=2, reset=reset, seed=0), torch.ones(1, 3, 3)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.weight_hh_l1.zero_()
    again = GRU(3, 4, num_layers=2, reset=reset, seed=0)
    assert torch.equal(model.rollout(x).states, again.rollout(x).states)
    assert not torch.equal(twin.rollout(x).states, model.rollout(x).states)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hiden_size": 4}, "hiden_size: expected one of its settings .* did you mean 'hidden_size'"),
        ({"hidden_size": 0}, "hidden_size: expected .* >= 1, got 0"),
        ({"hidden_size": 4.0}, "hidden_size: expected .* >= 1, got 4.0"),
        ({"num_layers": 0}, "num_layers: expected .* >= 1, got 0"),
        ({"bias": 1}, "bias: expected .* got 1"),
        ({"reset": "befor"}, "reset: expected one of 'after', 'before'.* did you mean 'before'"),
        ({"seed": -1}, "seed: expected .* >= 0 and < 4294967296, got -1"),
    ],
)
def test_refused_settings(settings, message) -> None:
    with pytest.raises(SettingsError, match=message):
        create_model("gru", **{"input_size": 3, "hidden_size": 4} | settings)
    assert create_model("gru", input_size=3, hidden_size=4).width == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_size": 0}, "hidden_size: expected int >= 1, got 0"),
        ({"input_size": 0}, "input_size: expected int >= 1, got 0"),
        ({"num_layers": True}, "num_layers: expected int >= 1, got True"),
        ({"reset": "between"}, "reset: expected one of 'after', 'before', got 'between'"),
    ],
)
def test_the_class_itself_refuses_too(settings, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        GRU(**{"input_size": 3, "hidden_size": 4} | settings)


def test_all_errors_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        create_model("gru", hidden_size=0, bias="yes", gain=2)
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    for name in ("gain", "input_size", "hidden_size", "bias"):
        assert sum(f"model 'gru': {name}: expected" in line for line in lines) == 1
