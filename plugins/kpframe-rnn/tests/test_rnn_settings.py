"""Settings of the model ``rnn``: initial weights, defaults and refusals."""

from __future__ import annotations

import pytest
import torch
from kpframe_rnn.model import RNN

from kpframe import create_model
from kpframe.errors import ArgumentError, SettingsError


@pytest.mark.parametrize("gain", [0.5, 1.5])
def test_gain_is_the_standard_deviation(gain) -> None:
    model = create_model("rnn", input_size=2, hidden_size=300, gain=gain, seed=1)
    weights = model.weight_hh_l0.detach() * 300**0.5
    assert float(weights.std()) == pytest.approx(gain, rel=0.01)  # stderr: gain / sqrt(2 * 300^2) = 0.24 %
    assert abs(float(weights.mean())) < 0.02 * gain
    assert float((weights.abs() < gain).double().mean()) == pytest.approx(0.6827, abs=0.006)
    assert float(model.weight_ih_l0.detach().abs().max()) <= 300**-0.5


def test_without_gain_all_weights_are_uniform_as_in_torch() -> None:
    model = create_model("rnn", input_size=300, hidden_size=300, seed=1)
    for name in ("weight_ih_l0", "weight_hh_l0"):
        weights = getattr(model, name).detach() * 300**0.5
        assert 0.999 < float(weights.abs().max()) <= 1
        assert float(weights.std()) == pytest.approx(3**-0.5, rel=0.01)


def same(one: RNN, other: RNN) -> dict[str, bool]:
    theirs = other.state_dict()
    return {name: torch.equal(value, theirs[name]) for name, value in one.state_dict().items()}


@pytest.mark.parametrize("gain", [None, 1.2])
def test_seed(gain) -> None:
    settings = {"input_size": 3, "hidden_size": 4, "gain": gain}
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one = create_model("rnn", **settings, seed=7)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(same(one, create_model("rnn", **settings, seed=7)).values())
    assert not any(same(one, create_model("rnn", **settings, seed=8)).values())


def test_without_a_seed_torch_draws() -> None:
    torch.manual_seed(0)
    one = create_model("rnn", input_size=3, hidden_size=4)
    assert not any(same(one, create_model("rnn", input_size=3, hidden_size=4)).values())
    torch.manual_seed(0)
    assert all(same(one, create_model("rnn", input_size=3, hidden_size=4)).values())


def test_initial_state_starts_at_zero() -> None:
    model = create_model("rnn", input_size=3, hidden_size=4, trainable_initial_state=True, gain=1.0, seed=0)
    assert torch.equal(model.h0.detach(), torch.zeros(4))
    assert "h0" in model.trainable()
    assert "h0" not in create_model("rnn", input_size=3, hidden_size=4).trainable()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gian": 1.0}, "gian: expected one of its settings .* did you mean 'gain'"),
        ({"alpha": 0.0}, "alpha: expected .* > 0 and <= 1, got 0.0"),
        ({"alpha": 1.5, "form": "rate"}, "alpha: expected .* > 0 and <= 1, got 1.5"),
        ({"alpha": float("nan")}, "alpha: expected .*got nan"),
        ({"hidden_size": 0}, "hidden_size: expected .* >= 1, got 0"),
        ({"hidden_size": 2.5}, "hidden_size: expected .* >= 1, got 2.5"),
        ({"hidden_size": True}, "hidden_size: expected .* >= 1, got True"),
        ({"gain": 0}, "gain: expected .* > 0 and < inf, got 0"),
        ({"seed": -1}, "seed: expected .* >= 0 and < 4294967296, got -1"),
        ({"form": "curent"}, "form: expected one of .* did you mean 'current'"),
        ({"nonlinearity": "sigmoid"}, "nonlinearity: expected one of 'tanh', 'relu'.* got 'sigmoid'"),
    ],
)
def test_refused_settings(settings, message) -> None:
    with pytest.raises(SettingsError, match=message):
        create_model("rnn", **{"input_size": 3, "hidden_size": 4} | settings)
    assert create_model("rnn", input_size=3, hidden_size=4).width == 4


def test_all_errors_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        create_model("rnn", hidden_size=0, alpha=-1, gian=2)
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    for name in ("gian", "input_size", "hidden_size", "alpha"):
        assert sum(f"model 'rnn': {name}: expected" in line for line in lines) == 1


def test_vanilla_takes_no_leak() -> None:
    with pytest.raises(ArgumentError, match=r"alpha: expected 1 with form='vanilla', got 0\.5"):
        create_model("rnn", input_size=3, hidden_size=4, alpha=0.5)
    assert create_model("rnn", input_size=3, hidden_size=4, alpha=0.5, form="rate").alpha == 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nonlinearity": "sin"}, "nonlinearity: expected 'tanh' or 'relu', got 'sin'"),
        ({"form": "leaky"}, "form: expected 'vanilla', 'rate' or 'current', got 'leaky'"),
        ({"form": "rate", "alpha": 3}, r"alpha: expected a number in \(0, 1\], got 3"),
    ],
)
def test_the_class_itself_refuses_too(settings, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        RNN(3, 4, **settings)
