"""Settings of the model ``rnn``: initial weights, defaults and refusals."""

from __future__ import annotations

import math

import pytest
import torch
from kpframe_rnn.model import RNN, NoisyRNN

from kpframe import create_model
from kpframe.errors import ArgumentError, SettingsError, StabilityWarning


@pytest.mark.parametrize("gain", [0.5, 1.5])
def test_gain_is_the_standard_deviation(gain) -> None:
    model = create_model("rnn", input_size=2, hidden_size=300, gain=gain, seed=1)
    weights = model.weight_hh_l0.detach() * 300**0.5
    assert float(weights.std()) == pytest.approx(gain, rel=0.01)  # stderr: gain / sqrt(2 * 300^2) = 0.24 %
    assert abs(float(weights.mean())) < 0.02 * gain
    assert float((weights.abs() < gain).double().mean()) == pytest.approx(0.6827, abs=0.006)
    assert float(model.weight_ih_l0.detach().abs().max()) <= 300**-0.5


def test_input_gain_is_that_of_a_sum_over_inputs_whatever_the_width() -> None:
    for size, width in ((4, 2000), (40, 300)):
        model = create_model("rnn", input_size=size, hidden_size=width, input_gain=0.7, seed=1)
        weights = model.weight_ih_l0.detach() * size**0.5
        assert float(weights.std()) == pytest.approx(0.7, rel=0.03)
        assert float(weights.abs().max()) > 1.5  # normal, not uniform
    layers = create_model("rnn", input_size=4, hidden_size=300, num_layers=2, input_gain=0.7, seed=1)
    assert (
        float(layers.weight_ih_l1.detach().abs().max()) < 1.001 * 300**-0.5
    )  # from the layer below, not the input


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
        ({"num_layers": 0}, "num_layers: expected .* >= 1, got 0"),
        ({"density": 0}, "density: expected .* > 0 and <= 1, got 0"),
        ({"density": 1.2}, "density: expected .* > 0 and <= 1, got 1.2"),
        ({"excitatory_fraction": -0.1}, "excitatory_fraction: expected .* >= 0 and <= 1, got -0.1"),
        ({"rectifier": "exp"}, "rectifier: expected one of 'abs', 'relu', 'softplus', got 'exp'"),
        ({"rank": 0}, "rank: expected .* >= 1, got 0"),
        ({"state_noise": 0.1}, "state_noise: expected one of its settings"),
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
        ({"nonlinearity": "sin"}, "nonlinearity: expected one of 'tanh', 'relu', got 'sin'"),
        ({"form": "leaky"}, "form: expected one of 'vanilla', 'rate', 'current', got 'leaky'"),
        ({"form": "rate", "alpha": 3}, "alpha: expected float > 0 and <= 1, got 3"),
        ({"gain": -1.0}, "gain: expected float . None > 0 and < inf, got -1"),
        ({"num_layers": 1.5}, r"num_layers: expected int >= 1, got 1\.5"),
        ({"density": 0.0}, "density: expected float . None > 0 and <= 1, got 0"),
        ({"excitatory_fraction": 2}, "excitatory_fraction: expected float . None >= 0 and <= 1, got 2"),
        ({"rectifier": "square"}, "rectifier: expected one of 'abs', 'relu', 'softplus', got 'square'"),
        ({"rectifier": "relu"}, "rectifier: expected none without an excitatory_fraction .*got 'relu'"),
        ({"rank": 5}, "rank: expected a whole number from 1 to hidden_size = 4, got 5"),
        ({"rank": True}, "rank: expected int . None >= 1, got True"),
        ({"rank": 1, "excitatory_fraction": 0.8}, "rank: expected none beside excitatory_fraction"),
        ({"train_bulk": True}, "train_bulk: expected False without a rank"),
        ({"train_bulk": True, "rank": 1}, "train_bulk: expected False without a gain"),
        ({"input_noise": -1}, "input_noise: expected float >= 0 and < inf, got -1"),
        ({"state_noise": float("inf")}, "state_noise: expected float >= 0 and < inf, got inf"),
    ],
)
def test_the_class_itself_refuses_too(settings, message) -> None:
    noisy = set(settings) & {"input_noise", "state_noise"}
    with pytest.raises(ArgumentError, match=message):
        (NoisyRNN if noisy else RNN)(3, 4, **settings)


def test_a_noisy_network_says_how_many_signals_it_reads() -> None:
    model = create_model("noisy_rnn", input_size=3, hidden_size=4)
    assert (model.signal_size, model.input_size) == (3, 7)
    with pytest.raises(SettingsError, match="input_size: expected int >= 1, got nothing"):
        create_model("noisy_rnn", hidden_size=4)


GROWS = "activity grows without bound"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"gain": 1.42},
            f"gain: expected at most sqrt.2. in a large network of relu units, got 1.42; {GROWS}",
        ),
        ({"gain": 2.0, "density": 0.5, "form": "rate", "alpha": 0.1}, GROWS),
        ({"gain": 2.0, "rank": 1}, GROWS),
        (
            {"gain": 1.1, "excitatory_fraction": 1.0},
            "gain: expected at most 1 where all units are excitatory",
        ),
    ],
)
def test_growing_activity_is_warned_of(settings, message) -> None:
    settings = {"input_size": 3, "hidden_size": 4, "nonlinearity": "relu", "seed": 1} | settings
    with pytest.warns(StabilityWarning, match=message):
        create_model("rnn", **settings)
    create_model("rnn", **settings | {"nonlinearity": "tanh"})  # bounded: a warning would be an error here
    create_model("rnn", **settings | {"gain": 0.99})


def growth(form: str, gain: float, seed: int, **settings) -> float:
    """Return by what the logarithm of a relu network's activity grows a step, nothing driving it."""
    alpha = 1.0 if form == "vanilla" else 0.5
    settings |= {"nonlinearity": "relu", "bias": False, "form": form, "alpha": alpha}
    model = RNN(1, 200, gain=gain, seed=seed, **settings).double()
    start = torch.rand(1, 200, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    states = model.rollout(torch.zeros(1, 120, 1, dtype=torch.float64), start).states.detach()
    return float((states[0, -1].norm() / states[0, 40].norm()).log()) / 79


@pytest.mark.parametrize("form", ["vanilla", "rate", "current"])
@pytest.mark.filterwarnings("ignore::kpframe.errors.StabilityWarning")
@pytest.mark.rows(3)
def test_activity_grows_above_the_gains_that_are_warned_of(form) -> None:
    for gain, sign in ((1.25, -1), (1.6, 1)):  # below and above sqrt(2), for networks of 200 units
        rates = torch.tensor([growth(form, gain, seed) for seed in range(8)])
        assert sign * float(rates.mean()) > 3 * float(rates.std()) / 8**0.5
    for gain in (0.99, 1.01):
        expected = math.log(gain if form == "vanilla" else 0.5 + 0.5 * gain)
        assert growth(form, gain, 0, excitatory_fraction=1.0) == pytest.approx(expected, abs=1e-6)
