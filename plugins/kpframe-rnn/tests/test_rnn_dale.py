"""Dale's law: signs, initial balance and spectral radius, and gradients at zero."""

from __future__ import annotations

import pytest
import torch
from kpframe_rnn.model import RNN

from kpframe import create_model


@pytest.mark.parametrize("rectifier", ["abs", "relu", "softplus"])
@pytest.mark.parametrize("layers", [1, 2])
def test_columns_have_one_sign(scramble, rectifier, layers) -> None:
    settings = {"excitatory_fraction": 0.8, "rectifier": rectifier, "num_layers": layers}
    model = scramble(create_model("rnn", input_size=3, hidden_size=10, seed=1, **settings).double())
    for name in [f"weight_hh_l{k}" for k in range(layers)] + ["weight_ih_l1"] * (layers - 1):
        W = model.site_weight(name).detach()
        assert float(W[:, :8].min()) >= 0
        assert float(W[:, 8:].max()) <= 0
        assert bool((W[:, :8].amax(dim=0) > 0).all())
        assert bool((W[:, 8:].amin(dim=0) < 0).all())
    inputs = model.weight_ih_l0.detach()
    assert float(inputs.min()) < 0 < float(inputs.max())


@pytest.mark.parametrize("rectifier", ["abs", "relu", "softplus"])
@pytest.mark.parametrize("density", [None, 0.3])
def test_initial_balance_and_spectral_radius(rectifier, density) -> None:
    settings = {"excitatory_fraction": 0.8, "rectifier": rectifier, "density": density, "gain": 1.5}
    model = create_model("rnn", input_size=3, hidden_size=100, seed=1, **settings)
    W = model.site_weight("weight_hh_l0").detach().double()
    assert float(torch.linalg.eigvals(W).abs().max()) == pytest.approx(1.5, rel=1e-5)
    excitation, inhibition = float(W[:, :80].sum()), float(-W[:, 80:].sum())
    assert excitation == pytest.approx(inhibition, rel=1e-5)
    assert inhibition > 10  # not for want of weights
    plain = create_model("rnn", input_size=3, hidden_size=100, seed=1, density=density, gain=1.5)
    sizes = plain.site_weight("weight_hh_l0").detach().abs().double()
    assert float(sizes[:, :80].sum() / sizes[:, 80:].sum()) > 3.5  # unbalanced, were it not for the scaling
    ratio = W[:, :80] / sizes[:, :80]
    kept = sizes[:, :80] > 0
    assert float(ratio[kept].std() / ratio[kept].mean()) < 1e-4  # one factor for all


def test_without_gain_excitatory_weights_are_as_drawn() -> None:
    settings = {"input_size": 3, "hidden_size": 10, "seed": 1}
    W = create_model("rnn", **settings, excitatory_fraction=0.5).site_weight("weight_hh_l0").detach()
    plain = create_model("rnn", **settings).weight_hh_l0.detach()
    assert torch.equal(W[:, :5], plain[:, :5].abs())
    assert float(W.sum()) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(("fraction", "excitatory"), [(0.0, 0), (1.0, 10), (0.26, 3)])
def test_all_fractions(fraction, excitatory) -> None:
    model = create_model("rnn", input_size=3, hidden_size=10, excitatory_fraction=fraction, gain=0.9, seed=1)
    assert int((model.signs > 0).sum()) == excitatory
    W = model.site_weight("weight_hh_l0").detach().double()
    assert float(torch.linalg.eigvals(W).abs().max()) == pytest.approx(0.9, rel=1e-5)


def test_without_a_cycle_there_is_no_spectral_radius_to_scale() -> None:
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    mask = torch.ones(6, 6).tril(-1)[order][:, order]
    model = RNN(3, 6, gain=1.2, excitatory_fraction=0.5)
    model.set_mask(mask)
    model.reset_parameters(seed=1)
    W = model.site_weight("weight_hh_l0").detach()
    assert float(torch.linalg.eigvals(W).abs().max()) == 0
    assert 0.1 < float(W.abs().max()) < 20


def test_gradient_at_and_below_zero(make) -> None:
    """What is lost: with relu every weight that is not positive; with abs an exact zero only."""
    alive = {"abs": [1, 1, 0], "relu": [1, 0, 0], "softplus": [1, 1, 1]}
    for rectifier, expected in alive.items():
        model = make(excitatory_fraction=1.0, rectifier=rectifier)
        with torch.no_grad():
            model.weight_hh_l0[0, :3] = torch.tensor([0.3, -0.3, 0.0])
        model.site_weight("weight_hh_l0").sum().backward()
        assert (model.weight_hh_l0.grad[0, :3] != 0).int().tolist() == expected
