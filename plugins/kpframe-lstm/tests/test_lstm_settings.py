"""Settings of the model ``lstm``: initial weights, defaults and refusals."""

from __future__ import annotations

import copy

import pytest
import torch
from kpframe_lstm.model import LSTM

from kpframe import create_model
from kpframe.errors import ArgumentError, SettingsError


def same(one: torch.nn.Module, other: torch.nn.Module) -> dict[str, bool]:
    theirs = other.state_dict()
    return {name: torch.equal(value, theirs[name]) for name, value in one.state_dict().items()}


def test_weights_are_uniform_as_in_torch() -> None:
    model = create_model("lstm", input_size=200, hidden_size=200, proj_size=100, seed=1)
    for parameter in (model.weight_ih_l0, model.weight_hh_l0, model.weight_hr_l0):
        weights = parameter.detach() * 200**0.5
        assert 0.999 < float(weights.abs().max()) <= 1
        assert float(weights.std()) == pytest.approx(3**-0.5, rel=0.01)


def test_torch_draws_the_same_weights() -> None:
    torch.manual_seed(0)
    twin = torch.nn.LSTM(3, 4, num_layers=2, proj_size=2)
    torch.manual_seed(0)
    assert all(
        same(twin, create_model("lstm", input_size=3, hidden_size=4, num_layers=2, proj_size=2)).values()
    )
    assert not any(
        same(twin, create_model("lstm", input_size=3, hidden_size=4, num_layers=2, proj_size=2)).values()
    )


def test_seed() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one = create_model("lstm", input_size=3, hidden_size=4, seed=7)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(same(one, create_model("lstm", input_size=3, hidden_size=4, seed=7)).values())
    assert not any(same(one, create_model("lstm", input_size=3, hidden_size=4, seed=8)).values())


@pytest.mark.parametrize("forget_bias", [1.0, -2.0, 0.0])
def test_forget_bias(forget_bias) -> None:
    plain, model = (
        create_model("lstm", input_size=3, hidden_size=4, num_layers=2, seed=7, forget_bias=value)
        for value in (None, forget_bias)
    )
    for layer in ("l0", "l1"):
        total = model.state_dict()[f"bias_ih_{layer}"] + model.state_dict()[f"bias_hh_{layer}"]
        expected = plain.state_dict()[f"bias_ih_{layer}"] + plain.state_dict()[f"bias_hh_{layer}"]
        assert torch.equal(total[4:8], torch.full((4,), forget_bias))
        assert torch.equal(torch.cat([total[:4], total[8:]]), torch.cat([expected[:4], expected[8:]]))
        assert not torch.equal(total[4:8], expected[4:8])
        assert torch.equal(model.state_dict()[f"weight_hh_{layer}"], plain.state_dict()[f"weight_hh_{layer}"])


def test_repr() -> None:
    assert repr(LSTM(3, 4, num_layers=2, proj_size=2)) == "LSTM(3, 4, num_layers=2, proj_size=2)"


def test_initial_state_starts_at_zero() -> None:
    model = create_model("lstm", input_size=3, hidden_size=4, trainable_initial_state=True, seed=0)
    assert torch.equal(model.h0.detach(), torch.zeros(8))
    assert "h0" in model.trainable()
    assert "h0" not in create_model("lstm", input_size=3, hidden_size=4).trainable()


def test_a_copy_has_its_own_weights() -> None:
    model = LSTM(3, 4, num_layers=2, proj_size=2, seed=0)
    x, twin = torch.ones(1, 3, 3), copy.deepcopy(model)
    with torch.no_grad():
        twin.weight_hh_l1.zero_()
    assert torch.equal(
        model.rollout(x).states, LSTM(3, 4, num_layers=2, proj_size=2, seed=0).rollout(x).states
    )
    assert not torch.equal(twin.rollout(x).states, model.rollout(x).states)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hiden_size": 4}, "hiden_size: expected one of its settings .* did you mean 'hidden_size'"),
        ({"hidden_size": 0}, "hidden_size: expected .* >= 1, got 0"),
        ({"hidden_size": 4.0}, "hidden_size: expected .* >= 1, got 4.0"),
        ({"num_layers": 0}, "num_layers: expected .* >= 1, got 0"),
        ({"proj_size": -1}, "proj_size: expected .* >= 0, got -1"),
        ({"bias": 1}, "bias: expected .* got 1"),
        ({"forget_bias": float("nan")}, "forget_bias: expected .* got nan"),
        ({"forget_bias": float("inf")}, "forget_bias: expected .* got inf"),
        ({"seed": -1}, "seed: expected .* >= 0 and < 4294967296, got -1"),
    ],
)
def test_refused_settings(settings, message) -> None:
    with pytest.raises(SettingsError, match=message):
        create_model("lstm", **{"input_size": 3, "hidden_size": 4} | settings)
    assert create_model("lstm", input_size=3, hidden_size=4).width == 8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_size": 0}, "hidden_size: expected int >= 1, got 0"),
        ({"hidden_size": True}, "hidden_size: expected int >= 1, got True"),
        ({"input_size": 0}, "input_size: expected int >= 1, got 0"),
        ({"num_layers": 1.5}, "num_layers: expected int >= 1, got 1.5"),
        ({"proj_size": -1}, "proj_size: expected int >= 0, got -1"),
        ({"proj_size": 4}, "proj_size: expected less than hidden_size=4, got 4"),
        ({"bias": False, "forget_bias": 1.0}, "forget_bias: expected None with bias=False, got 1.0"),
        ({"forget_bias": float("inf")}, "forget_bias: expected float . None > -inf and < inf, got inf"),
    ],
)
def test_the_class_itself_refuses_too(settings, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        LSTM(**{"input_size": 3, "hidden_size": 4} | settings)


def test_all_errors_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        create_model("lstm", hidden_size=0, bias="yes", gain=2)
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    for name in ("gain", "input_size", "hidden_size", "bias"):
        assert sum(f"model 'lstm': {name}: expected" in line for line in lines) == 1
