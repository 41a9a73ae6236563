"""Masks: how they are drawn, set and saved, and what they keep from learning."""

from __future__ import annotations

import pytest
import torch
from kpframe_rnn.model import RNN

from kpframe import create_model, linearize
from kpframe.checkpoint import load_checkpoint, save_checkpoint
from kpframe.errors import ArgumentError, CheckpointError, ShapeError


@pytest.mark.parametrize(("density", "count"), [(0.1, 2), (0.25, 5), (0.5, 10), (1.0, 20), (0.001, 1)])
def test_each_unit_receives_from_equally_many(density, count) -> None:
    model = create_model("rnn", input_size=2, hidden_size=20, density=density, seed=1)
    assert torch.equal(model.mask_hh_l0.sum(dim=1), torch.full((20,), float(count)))
    sparse = create_model(
        "rnn", input_size=2, hidden_size=21, density=density, self_connections=False, seed=1
    )
    assert torch.equal(sparse.mask_hh_l0.sum(dim=1), torch.full((21,), float(count)))
    assert not sparse.mask_hh_l0.diagonal().any()
    if density < 1:
        assert len({tuple(row) for row in model.mask_hh_l0.tolist()}) > 1
        other = create_model("rnn", input_size=2, hidden_size=20, density=density, seed=2)
        assert not torch.equal(model.mask_hh_l0, other.mask_hh_l0)


def test_connections_are_drawn_uniformly() -> None:
    model = create_model("rnn", input_size=1, hidden_size=400, density=0.25, seed=3)
    arriving = model.mask_hh_l0.sum(dim=0)  # binomial(400, 1/4): standard deviation 8.66
    assert float(arriving.mean()) == 100
    assert float(arriving.std()) == pytest.approx(8.66, rel=0.15)  # four standard errors
    assert float(model.mask_hh_l0.diagonal().mean()) == pytest.approx(0.25, abs=0.09)


def test_the_weights_of_a_seed_do_not_depend_on_the_mask() -> None:
    whole = create_model("rnn", input_size=2, hidden_size=20, gain=1.2, seed=1)
    masked = create_model("rnn", input_size=2, hidden_size=20, gain=1.2, density=0.25, seed=1)
    assert torch.equal(masked.weight_ih_l0, whole.weight_ih_l0)
    assert torch.allclose(masked.weight_hh_l0, 2 * whole.weight_hh_l0, rtol=1e-6)  # 1 / sqrt(0.25)


@pytest.mark.parametrize("gain", [None, 1.3])
def test_a_mask_keeps_the_variance_of_summed_inputs(gain) -> None:
    model = create_model("rnn", input_size=2, hidden_size=400, gain=gain, density=0.1, seed=2)
    variance = float(model.site_weight("weight_hh_l0").detach().square().sum(dim=1).mean())
    assert variance == pytest.approx(1 / 3 if gain is None else gain**2, rel=0.03)


def test_set_mask(make, draw, x, close, differ) -> None:
    model = make()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    mask = torch.tensor([[0, 1, 1, 0]] * 4)
    model.set_mask(mask)
    model.set_mask(torch.tensor([[True, False, True]] * 4), "weight_ih_l0")
    assert set(model.state_dict()) == set(before) | {"mask_hh_l0", "mask_ih_l0"}
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    twin = make()
    with torch.no_grad():
        twin.weight_hh_l0.mul_(mask)
        twin.weight_ih_l0[:, 1] = 0
    close(model.rollout(x).states, twin.rollout(x).states, 1e-15)
    differ(model.rollout(x).states, make().rollout(x).states)
    flow, dense = linearize(model, x), linearize(twin, x)
    close(flow.A.blocks(), dense.A.blocks(), 1e-14)
    differ(flow.K.to_dense(), dense.K.to_dense())
    part = flow.J.domain["parameter"].part("weight_hh_l0").slice
    columns = flow.J.to_dense()[:, part].reshape(-1, 4, 4)
    assert not columns[:, mask == 0].any()
    assert bool(columns[:, mask == 1].any(dim=0).all())
    mask[:] = 0  # the model's own is a copy
    assert float(model.mask_hh_l0.sum()) == 8
    model.set_mask(torch.ones(4, 4))
    model.set_mask(torch.ones(4, 3), "weight_ih_l0")
    close(model.rollout(x).states, make().rollout(x).states, 1e-15)


def test_weights_drawn_to_fit_masks_of_ones_own() -> None:
    ring = torch.eye(4).roll(1, dims=1)
    model = RNN(3, 4, density=0.5, num_layers=2, seed=1)
    for weight in ("weight_hh_l1", "weight_ih_l1"):
        model.set_mask(ring, weight)
    model.reset_parameters(seed=1)
    assert torch.equal(model.mask_hh_l1, ring)
    assert torch.equal(model.mask_ih_l1, ring)
    assert torch.equal(model.mask_hh_l0.sum(dim=1), torch.full((4,), 2.0))
    assert torch.equal(model.site_weight("weight_ih_l1"), ring * model.weight_ih_l1)
    assert float(model.weight_hh_l1.detach().abs().max()) > 0.5  # one input a unit: 1/sqrt(4), times sqrt(4)


def test_masked_weights_do_not_learn(make, x) -> None:
    model = make(density=0.5)
    before = model.weight_hh_l0.detach().clone()
    optimizer = torch.optim.Adam(model.parameters())
    model.rollout(x).states.square().sum().backward()
    optimizer.step()
    moved = model.weight_hh_l0.detach() != before
    assert torch.equal(moved, model.mask_hh_l0 == 1)


@pytest.mark.parametrize(
    ("mask", "weight", "error", "message"),
    [
        (torch.ones(4, 3), "weight_hh_l0", ShapeError, r"expected shape \[4, 4\], got shape \[4, 3\]"),
        (torch.ones(4, 4), "weight_ih_l0", ShapeError, r"expected shape \[4, 3\], got shape \[4, 4\]"),
        (None, "weight_hh_l0", ShapeError, r"mask of weight_hh_l0: expected shape \[4, 4\], got NoneType"),
        (torch.full((4, 4), 0.5), "weight_hh_l0", ArgumentError, r"expected zeros and ones, got 0\.5"),
        (torch.ones(4, 4), "weight_hh_l1", ArgumentError, r"one of \['weight_ih_l0', 'weight_hh_l0'\], got"),
        (torch.ones(4, 4), "weight_hh", ArgumentError, "did you mean 'weight_hh_l0'"),
    ],
)
def test_refused_masks(make, mask, weight, error, message) -> None:
    with pytest.raises(error, match=message):
        make().set_mask(mask, weight)


def test_a_masked_network_is_saved_and_loaded(tmp_path, x, make) -> None:
    settings = {"input_size": 3, "hidden_size": 4, "density": 1.0, "seed": 2}
    model = create_model("rnn", **settings).double()
    model.set_mask(torch.eye(4).roll(1, dims=0))
    path = save_checkpoint(tmp_path / "masked.safetensors", model, name="rnn", settings=settings)
    loaded = load_checkpoint(path).build_model()
    assert torch.equal(loaded.mask_hh_l0, model.mask_hh_l0)
    assert torch.equal(loaded.rollout(x).states, model.rollout(x).states)
    with pytest.raises(CheckpointError, match="mask_hh_l0: expected nothing"):
        load_checkpoint(path).load_into(make())
