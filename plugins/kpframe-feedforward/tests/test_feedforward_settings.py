"""Settings of the feedforward models: initial weights, parametrisations, defaults and refusals."""

from __future__ import annotations

import math

import kpframe_feedforward
import pytest
import torch
from kpframe_feedforward.attention import Attention
from kpframe_feedforward.layers import PHI
from kpframe_feedforward.mlp import MLP

from kpframe import create_model
from kpframe.errors import ArgumentError, SettingsError

MLP_SIZES = {"input_size": 3, "hidden_size": 4}
ATTENTION_SIZES = {"input_size": 6, "hidden_size": 4, "tokens": 3}


def test_settings_name_the_functions_there_are() -> None:
    assert tuple(PHI) == kpframe_feedforward.ACTIVATIONS


@pytest.mark.parametrize(
    ("activation", "given", "sigma_w"),
    [("tanh", None, 1), ("erf", None, 1), ("relu", None, 2**0.5), ("gelu", None, 2**0.5), ("relu", 0.6, 0.6)],
)
@pytest.mark.parametrize("parametrisation", ["standard", "ntk"])
def test_initial_values(activation, given, sigma_w, parametrisation) -> None:
    """Standard deviations to 1 %: the standard error over 3 * 200^2 normal values is 0.2 %."""
    settings = {
        "activation": activation,
        "sigma_w": given,
        "sigma_b": 0.3,
        "parametrisation": parametrisation,
    }
    model = create_model("mlp", input_size=800, hidden_size=200, depth=4, seed=1, **settings)
    explicit = parametrisation == "ntk"
    for weight, fan_in in ((model.weight_in, 800), (model.weight, 200)):
        expected = 1.0 if explicit else sigma_w / math.sqrt(fan_in)
        assert float(weight.detach().std()) == pytest.approx(expected, rel=0.01)
        assert abs(float(weight.detach().mean())) < 0.01 * expected
    assert float(model.bias.detach().std()) == pytest.approx(1.0 if explicit else 0.3, rel=0.1)


def test_parametrisations_compute_one_family_of_functions(close, samples) -> None:
    """The ntk form of weights w is the standard form of weights sigma/sqrt(fan_in) w."""
    settings = {**MLP_SIZES, "depth": 3, "sigma_w": 1.4, "sigma_b": 0.6, "seed": 2}
    explicit = create_model("mlp", parametrisation="ntk", **settings).double()
    standard = create_model("mlp", **settings).double()
    with torch.no_grad():
        standard.weight_in.copy_(1.4 / 3**0.5 * explicit.weight_in)
        standard.weight.copy_(1.4 / 4**0.5 * explicit.weight)
        standard.bias.copy_(0.6 * explicit.bias)
    x = explicit.inputs(samples)
    close(standard.rollout(x).states, explicit.rollout(x).states, 1e-12)


def test_attention_starts_as_torch_does() -> None:
    """Ranges and zeros of torch.nn.TransformerEncoderLayer; a range of m values is reached to 5 / m."""
    model = create_model("attention", input_size=128, hidden_size=64, tokens=2, blocks=2, seed=1)
    torch.manual_seed(0)
    twin = torch.nn.TransformerEncoderLayer(64, 1, 256, norm_first=True)
    for block in model.layers:
        for name, theirs in twin.named_parameters():
            ours = block.get_parameter(name).detach()
            assert ours.shape == theirs.shape
            if name.startswith("norm") or ("self_attn" in name and name.endswith("bias")):
                assert torch.equal(ours, theirs), name
            else:
                bound = float(theirs.detach().abs().max())
                assert float(ours.abs().max()) == pytest.approx(bound, rel=0.05), name
                if ours.numel() > 1000:
                    assert float(ours.std()) == pytest.approx(bound / 3**0.5, rel=0.05), name
    assert float(model.position.detach().std()) == pytest.approx(0.02, rel=0.25)
    assert not torch.equal(model.layers[0].linear1.weight, model.layers[1].linear1.weight)


@pytest.mark.parametrize(("name", "sizes"), [("mlp", MLP_SIZES), ("attention", ATTENTION_SIZES)])
def test_seed(name, sizes) -> None:
    def values(**seed) -> torch.Tensor:
        model = create_model(name, **sizes, **seed)
        return torch.cat([p.detach().reshape(-1) for p in model.parameters()])

    torch.manual_seed(0)
    before = torch.get_rng_state()
    one = values(seed=7)
    drawn = values(seed=8)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, values(seed=7))
    assert not torch.equal(one, drawn)
    torch.manual_seed(0)
    free = values()
    assert not torch.equal(free, values())
    torch.manual_seed(0)
    assert torch.equal(free, values())


def test_parameters() -> None:
    shapes = {name: list(p.shape) for name, p in create_model("mlp", **MLP_SIZES, depth=5).named_parameters()}
    assert shapes == {"weight_in": [4, 3], "weight": [4, 4, 4], "bias": [5, 4]}
    assert list(create_model("mlp", **MLP_SIZES, depth=1).trainable()) == ["weight_in", "bias"]
    assert list(create_model("mlp", **MLP_SIZES, bias=False).trainable()) == ["weight_in", "weight"]
    attention = create_model("attention", **ATTENTION_SIZES, blocks=2)
    assert (attention.steps, attention.width) == (5, 12)
    assert attention.layers[1].linear1.weight.shape == (16, 4)
    assert create_model("attention", **ATTENTION_SIZES, mlp_size=7).layers[0].linear1.weight.shape == (7, 4)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("mlp", {"depht": 3}, "depht: expected one of its settings .* did you mean 'depth'"),
        ("mlp", {"depth": 0}, "depth: expected .* >= 1, got 0"),
        ("mlp", {"depth": 2.5}, "depth: expected .* >= 1, got 2.5"),
        ("mlp", {"activation": "softmax"}, "activation: expected one of .* got 'softmax'"),
        ("mlp", {"form": "dense"}, "form: expected one of 'plain', 'residual'.* got 'dense'"),
        ("mlp", {"parametrisation": "nkt"}, "parametrisation: expected one of .* did you mean 'ntk'"),
        ("mlp", {"sigma_w": 0}, "sigma_w: expected .* > 0 .*got 0"),
        ("mlp", {"sigma_b": -1}, "sigma_b: expected .* >= 0 .*got -1"),
        ("mlp", {"seed": -1}, "seed: expected .* >= 0 and < 4294967296, got -1"),
        ("attention", {"hidden_size": 1}, "hidden_size: expected .* >= 2, got 1"),
        ("attention", {"heads": 0}, "heads: expected .* >= 1, got 0"),
        ("attention", {"blocks": True}, "blocks: expected .* >= 1, got True"),
        ("attention", {"causal": "yes"}, "causal: expected .* got 'yes'"),
    ],
)
def test_refused_settings(name, settings, message) -> None:
    sizes = MLP_SIZES if name == "mlp" else ATTENTION_SIZES
    with pytest.raises(SettingsError, match=message):
        create_model(name, **sizes | settings)
    assert create_model(name, **sizes).components == {"h": 4 if name == "mlp" else 12}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": 0.5}, r"scale: expected 1 with form='plain', got 0\.5; 'residual' has a scale"),
        ({"form": "residual", "scale": -1}, "scale: expected float > 0 and < inf, got -1"),
        ({"parametrisation": "ntk", "sigma_b": 0}, "sigma_b: expected a factor other than 0 .* bias=False"),
        ({"sigma_b": math.nan}, "sigma_b: expected a number >= 0 and < inf, got nan"),
        ({"sigma_w": math.inf}, "sigma_w: expected float . None > 0 and < inf, got inf"),
        ({"depth": True}, "depth: expected int >= 1, got True"),
        ({"hidden_size": 0}, "hidden_size: expected int >= 1, got 0"),
        ({"input_size": 0}, "input_size: expected int >= 1, got 0"),
        ({"activation": "rulu"}, "activation: expected one of 'tanh', .*'rulu'; did you mean 'relu'"),
        ({"form": "deep"}, "form: expected one of 'plain', 'residual', got 'deep'"),
        ({"parametrisation": "mup"}, "parametrisation: expected one of 'standard', 'ntk', got 'mup'"),
    ],
)
def test_the_perceptron_refuses(settings, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        MLP(**MLP_SIZES | settings)
    assert MLP(**MLP_SIZES, form="residual", scale=0.5).scale == 0.5
    assert MLP(**MLP_SIZES, parametrisation="ntk", sigma_b=0, bias=False).steps == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"input_size": 7}, "input_size: expected a multiple of tokens = 3, got 7"),
        ({"input_size": 0}, "input_size: expected int >= 1, got 0"),
        ({"heads": 3}, "hidden_size: expected a multiple of heads = 3, got 4"),
        ({"hidden_size": 1}, "hidden_size: expected int >= 2, got 1"),
        ({"tokens": 0}, "tokens: expected int >= 1, got 0"),
        ({"blocks": 0}, "blocks: expected int >= 1, got 0"),
        ({"mlp_size": 0}, "mlp_size: expected int . None >= 1, got 0"),
        ({"activation": "swish"}, "activation: expected one of .*got 'swish'"),
    ],
)
def test_attention_refuses(settings, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        Attention(**ATTENTION_SIZES | settings)
    assert Attention(**ATTENTION_SIZES, heads=2).steps == 3
