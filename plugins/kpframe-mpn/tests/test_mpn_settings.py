"""Settings of the model ``mpn``: initial values, rates in plain units, checkpoints and refusals."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from kpframe_mpn.model import MPN

from kpframe import create_model, linearize
from kpframe.checkpoint import load_checkpoint, save_checkpoint
from kpframe.errors import ArgumentError, SettingsError

SIZES = {"input_size": 2, "hidden_size": 3}


def test_parameters_and_components() -> None:
    model = create_model("mpn", **SIZES, trainable_initial_state=True, eta_shape="pre", lam_shape="matrix")
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert shapes == {
        "h0": (9,),
        "weight_ih_l0": (3, 2),
        "bias_ih_l0": (3,),
        "eta.raw": (2,),
        "lam.raw": (3, 2),
    }
    assert model.components == {"h": 3, "M": 6}
    fixed = create_model("mpn", **SIZES, bias=False, train_eta=False, train_lam=False)
    assert list(fixed.state_dict()) == ["weight_ih_l0"]


def test_M_is_laid_out_neuron_by_neuron(close) -> None:
    model = create_model("mpn", **SIZES, form="additive", nonlinearity="identity", eta=0.0).double()
    h0 = torch.zeros(1, 9, dtype=torch.float64)
    h0[0, 3 + 2 * 1 + 0] = 1  # neuron 1, input 0
    x = torch.tensor([[[5.0, 7.0]]], dtype=torch.float64)
    moved = model.rollout(x, h0).states[0, 0, :3] - model.rollout(x).states[0, 0, :3]
    close(moved, torch.tensor([0.0, 5.0, 0.0], dtype=torch.float64), 1e-14)


def test_initial_weights_are_uniform() -> None:
    model = create_model("mpn", input_size=300, hidden_size=100, seed=1)
    weights = model.weight_ih_l0.detach() / math.sqrt(6 / 400)
    assert 0.999 < float(weights.abs().max()) <= 1
    assert float(weights.std()) == pytest.approx(3**-0.5, rel=0.01)
    assert not bool(model.bias_ih_l0.any())


def test_seed() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one = create_model("mpn", **SIZES, seed=7).weight_ih_l0
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, create_model("mpn", **SIZES, seed=7).weight_ih_l0)
    assert not torch.equal(one, create_model("mpn", **SIZES, seed=8).weight_ih_l0)
    torch.manual_seed(0)
    drawn = create_model("mpn", **SIZES).weight_ih_l0
    assert not torch.equal(drawn, create_model("mpn", **SIZES).weight_ih_l0)


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("constraint", ["free", "positive"])
@pytest.mark.parametrize(
    ("shape", "values"),
    [
        ("scalar", 0.25),
        ("pre", (0.25, 0.5)),
        ("post", [0.25, 0.5, 0.75]),
        ("matrix", (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)),
        ("matrix", np.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])),
        ("pre", 0.25),
        ("matrix", 0.25),
    ],
)
def test_rates_are_given_and_read_in_plain_units(shape, values, constraint, trained) -> None:
    model = MPN(
        **SIZES,
        eta=values,
        lam=values,
        eta_shape=shape,
        lam_shape=shape,
        eta_constraint=constraint,
        lam_max=0.8,
        train_eta=trained,
        train_lam=trained,
    )
    given = np.asarray(values, dtype=float)
    if given.ndim:
        given = given.reshape({"pre": (1, 2), "post": (3, 1), "matrix": (3, 2)}[shape])
    expected = torch.from_numpy(np.broadcast_to(given, (3, 2)).copy()).float()
    for rate in (model.eta, model.lam):
        value = torch.as_tensor(rate()).detach().expand(3, 2)
        torch.testing.assert_close(value.float(), expected, rtol=2e-6, atol=0)
        assert isinstance(rate.trained, bool)
        assert rate.trained is trained


def test_a_fixed_rate_is_exact_in_float64() -> None:
    model = create_model("mpn", **SIZES, eta=0.1, lam=0.9, train_eta=False, train_lam=False).double()
    assert (model.eta(), model.lam()) == (0.1, 0.9)


def test_repr_says_how_rates_train() -> None:
    model = create_model("mpn", **SIZES, eta_shape="post", eta_constraint="positive", train_lam=False)
    assert "post, trains within numbers > 0" in repr(model)
    assert "scalar, fixed at 0.95" in repr(model)


def pushed(model, sign: int) -> list[tuple[float, float]]:
    """Return eta and lambda along steps of 3 in the raw parameters, up (1) or down (-1)."""
    optimizer = torch.optim.Adam(model.parameters(), lr=3.0)
    found = []
    for _ in range(6):
        optimizer.zero_grad()
        (-sign * (model.eta().sum() + model.lam().sum())).backward()
        optimizer.step()
        found.append((model.eta().item(), model.lam().item()))
    return found


def test_no_optimizer_leaves_the_range() -> None:
    """Whatever the steps, and without clamping: lambda stays in (0, lam_max), a positive eta above 0."""
    bounded = create_model("mpn", **SIZES, lam_max=0.9, lam=0.5, eta_constraint="positive").double()
    rates = pushed(bounded, 1) + pushed(bounded, -1) + pushed(bounded, -1)
    assert all(eta > 0 and 0 < lam < 0.9 for eta, lam in rates)
    assert max(rates) > (10, 0.899)
    assert min(rates) < (1e-3, 1e-3)
    free = create_model("mpn", **SIZES).double()
    assert pushed(free, -1)[-1][0] < -10  # a free eta turns anti-Hebbian


def test_a_copy_and_a_checkpoint_are_the_same_network(tmp_path, draw, differ) -> None:
    settings = {
        **SIZES,
        "rule": "oja",
        "eta": (0.3, -0.2),
        "eta_shape": "pre",
        "lam": (0.3, 0.5, 0.7),
        "lam_shape": "post",
        "train_lam": False,
        "trainable_initial_state": True,
        "seed": 1,
    }
    model = create_model("mpn", **settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1
    path = save_checkpoint(tmp_path / "mpn.safetensors", model, name="mpn", settings=settings)
    x = draw(2, 4, 2).float()
    states = model.rollout(x).states
    assert torch.equal(load_checkpoint(path).build_model().rollout(x).states, states)
    assert torch.equal(copy.deepcopy(model).rollout(x).states, states)
    differ(create_model("mpn", **settings).rollout(x).states, states)


def test_a_flow_keeps_its_own_parameters(make, x, close) -> None:
    model = make()
    flow = linearize(model, x)
    K = flow.K.to_dense()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    close(flow.K.to_dense(), K, 1e-15)
    assert float(flow.model.eta().detach()) != 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"etta": 1.0}, "etta: expected one of its settings .* did you mean 'eta'"),
        ({"form": "multiplicativ"}, "form: expected one of .* did you mean 'multiplicative'"),
        ({"rule": "hebb"}, "rule: expected one of 'hebbian', 'presynaptic', 'oja'.* got 'hebb'"),
        ({"normalization": "column"}, "normalization: expected one of 'none', 'row', 'tanh'"),
        ({"nonlinearity": "gelu"}, "nonlinearity: expected one of 'tanh', 'sigmoid', 'relu', 'identity'"),
        ({"hidden_size": 0}, "hidden_size: expected .* >= 1, got 0"),
        ({"lam": -0.1}, "lam: expected .* >= 0.*, got -0.1"),
        ({"lam_max": 0}, "lam_max: expected .* > 0 .*, got 0"),
        ({"eta": math.inf}, "eta: expected .* > -inf and < inf, got inf"),
        ({"seed": -1}, "seed: expected .* >= 0 and < 4294967296, got -1"),
    ],
)
def test_refused_settings(settings, message) -> None:
    with pytest.raises(SettingsError, match=message):
        create_model("mpn", **SIZES | settings)
    assert create_model("mpn", **SIZES).width == 9


REFUSED = [
    ({"lam": 1.0}, r"lam: expected numbers > 0 and < 1, where it trains, got 1"),
    ({"lam": 0.0}, r"lam: expected numbers > 0 and < 1, where it trains, got 0"),
    ({"lam": 0.9, "lam_max": 0.9}, r"lam: expected numbers > 0 and < 0.9, where it trains, got 0.9"),
    ({"lam": 1.5, "train_lam": False}, r"lam: expected numbers from 0 to 1, got 1.5"),
    ({"eta": -1.0, "eta_constraint": "positive"}, r"eta: expected numbers > 0, where it trains, got -1"),
    (
        {"eta": -1.0, "eta_constraint": "positive", "train_eta": False},
        r"eta: expected numbers from 0 to inf, got -1",
    ),
    ({"eta": (0.1, 0.2)}, r"eta: expected one number, got shape \[2\]"),
    ({"eta": (0.1, 0.2), "eta_shape": "post"}, r"eta: expected one number, or 3 for its shape \[3\], got"),
    (
        {"lam": (0.1,) * 5, "lam_shape": "matrix"},
        r"lam: expected one number, or 6 for its shape \[3, 2\], got",
    ),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED)
def test_settings_that_do_not_go_together(settings, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        create_model("mpn", **SIZES, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"form": "both"}, "form: expected one of 'multiplicative', 'additive', got 'both'"),
        ({"rule": "bcm"}, "rule: expected one of 'hebbian', 'presynaptic', 'oja', got 'bcm'"),
        ({"normalization": None}, "normalization: expected one of 'none', 'row', 'tanh', got None"),
        (
            {"nonlinearity": "elu"},
            "nonlinearity: expected one of 'tanh', .*'identity', got 'elu'",
        ),
        (
            {"eta_constraint": "negative"},
            "eta_constraint: expected one of 'free', 'pos.*, got 'negative'",
        ),
        (
            {"eta_shape": "column"},
            "eta_shape: expected one of 'scalar', .*'matrix', got 'column'",
        ),
        ({"lam_max": math.nan}, "lam_max: expected a number > 0 and < inf, got nan"),
        ({"hidden_size": 2.0}, "hidden_size: expected int >= 1, got 2.0"),
        ({"input_size": True}, "input_size: expected int >= 1, got True"),
        ({"eta": "fast"}, "eta: expected float .* got 'fast'"),
        ({"eta": math.nan}, "eta: expected .* > -inf and < inf, got nan"),
        (
            {"eta": [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]], "eta_shape": "matrix"},
            r"eta: .* 6 for its shape \[3, 2\], got shape \[2, 3\]",
        ),
        (
            {"eta": [[0.1, 0.2], [0.4]], "eta_shape": "matrix"},
            r"eta: expected rows of one length, got \(\(0.1, 0.2\), \(0.4,\)\)",
        ),
        *REFUSED,
    ],
)
def test_the_class_itself_refuses_too(settings, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        MPN(**SIZES | settings)
