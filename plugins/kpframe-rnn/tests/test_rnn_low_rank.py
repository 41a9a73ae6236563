"""Low rank: the matrix, its bulk, and the latent variable of a network of rank one."""

from __future__ import annotations

import math

import pytest
import torch

from kpframe import create_model, linearize
from kpframe.errors import ArgumentError


@pytest.mark.parametrize("rank", [1, 3])
def test_rank(rank) -> None:
    model = create_model("rnn", input_size=3, hidden_size=40, rank=rank, seed=1)
    names = [name for name, _ in model.named_parameters()]
    assert names == ["weight_ih_l0", "m_l0", "n_l0", "bias_ih_l0", "bias_hh_l0"]
    singular = torch.linalg.svdvals(model.site_weight("weight_hh_l0").detach().double())
    assert float(singular[rank - 1]) > 0.3  # |m| |n| / N is about 1
    assert float(singular[rank]) < 1e-6
    for factor in (model.m_l0, model.n_l0):
        assert float(factor.detach().std()) == pytest.approx(1, abs=0.4)


def test_the_bulk_is_fixed_unless_asked(x, make) -> None:
    fixed, trained = make(rank=1), make(rank=1, train_bulk=True)
    assert torch.equal(fixed.bulk_hh_l0, trained.bulk_hh_l0)
    assert "bulk_hh_l0" in fixed.state_dict()
    assert set(trained.trainable()) - set(fixed.trainable()) == {"bulk_hh_l0"}
    assert torch.equal(fixed.rollout(x).states, trained.rollout(x).states)
    learning = linearize(fixed, x).K.parameters
    assert set(learning) == set(fixed.trainable())


def test_the_bulk_has_the_gain() -> None:
    model = create_model("rnn", input_size=3, hidden_size=300, rank=2, gain=0.7, seed=1)
    assert float(model.bulk_hh_l0.std()) * math.sqrt(300) == pytest.approx(0.7, rel=0.01)
    assert not hasattr(create_model("rnn", input_size=3, hidden_size=300, rank=2), "bulk_hh_l0")


def test_a_rank_one_network_is_its_latent_variable(make, draw) -> None:
    """In the current form without input the state converges to the line of m, where one number moves.

    With ``h = kappa m + decaying`` that number obeys ``kappa' = (1-a) kappa + a n . tanh(h) / N``.
    """
    model = make(rank=1, gain=None, form="current", alpha=0.2, bias=False)
    m, n = model.m_l0.detach()[:, 0], model.n_l0.detach()[:, 0]
    kappa = torch.tensor(0.7, dtype=torch.float64)
    h = model.rollout(torch.zeros(1, 30, 3, dtype=torch.float64), (kappa * m)[None]).states[0].detach()
    for state in h:
        kappa = 0.8 * kappa + 0.2 * (n @ torch.tanh(kappa * m)) / 4
        assert float((state - kappa * m).norm()) <= 1e-14 * float(m.norm())
    assert abs(float(kappa)) < 0.69


@pytest.mark.parametrize("gain", [None, 0.8])
def test_a_matrix_may_start_with_a_low_rank_at_the_norm_it_has_without(gain) -> None:
    given = {"input_size": 3, "hidden_size": 40, "gain": gain, "seed": 1, "num_layers": 2}
    full = create_model("rnn", **given)
    for rank in (1, 7, 40):
        model = create_model("rnn", **given, initial_rank=rank)
        for name in ("weight_hh_l0", "weight_hh_l1"):
            weight, whole = (one.get_parameter(name).detach().double() for one in (model, full))
            sizes = torch.linalg.svdvals(weight)
            assert int((sizes > 1e-5 * sizes[0]).sum()) == rank
            assert float(weight.norm()) == pytest.approx(float(whole.norm()), rel=1e-6)
            kept = torch.linalg.svdvals(whole)[:rank]  # the leading directions, each as much larger
            torch.testing.assert_close(sizes[:rank] / sizes[0], kept / kept[0], rtol=1e-4, atol=1e-5)
            assert model.get_parameter(name).requires_grad
        assert torch.equal(model.weight_ih_l0, full.weight_ih_l0)
        assert torch.allclose(model.weight_hh_l0, full.weight_hh_l0, atol=1e-6) == (rank == 40)


@pytest.mark.parametrize(
    ("other", "match"),
    [
        ({"rank": 2}, "initial_rank: expected none beside rank"),
        ({"density": 0.5, "excitatory_fraction": 0.8}, "none beside density, excitatory_fraction"),
        ({"self_connections": False}, "none beside self_connections"),
        ({"initial_rank": 9}, "initial_rank: expected a whole number from 1 to hidden_size = 8, got 9"),
    ],
)
def test_what_would_change_the_initial_rank_is_refused(other, match) -> None:
    with pytest.raises(ArgumentError, match=match):
        create_model("rnn", input_size=2, hidden_size=8, **{"initial_rank": 3} | other)
