"""The state of several layers: its components, and torch's layout and back."""

from __future__ import annotations

import pytest
import torch
from kpframe_gru.model import GRU

from kpframe import linearize
from kpframe.errors import ShapeError


def test_components() -> None:
    assert GRU(3, 4).components == {"h": 4}
    assert list(GRU(3, 4, num_layers=3).components.items()) == [("h_l0", 4), ("h_l1", 4), ("h_l2", 4)]


def test_states_go_to_torch_and_back(draw) -> None:
    model, h = GRU(3, 4, num_layers=2), draw(2, 5, 4, seed=1)
    state = model.pack_state(h)
    assert torch.equal(state, torch.cat([h[0], h[1]], dim=-1))
    assert torch.equal(model.unpack_state(state), h)
    run = draw(5, 7, 8, seed=3)  # states [B, T, width]
    assert model.unpack_state(run).shape == (2, 5, 7, 4)
    assert torch.equal(model.pack_state(model.unpack_state(run)), run)
    single = draw(8, seed=4)
    assert torch.equal(model.pack_state(model.unpack_state(single)), single)


@pytest.mark.parametrize("shape", [(1, 5, 4), (2, 5, 3), (4,)])
def test_refused_states_of_torch(draw, shape) -> None:
    with pytest.raises(ShapeError, match=r"h: expected shape \[2, ..., 4\], got \["):
        GRU(3, 4, num_layers=2).pack_state(draw(*shape))


def test_refused_states(draw) -> None:
    with pytest.raises(ShapeError, match=r"state: expected shape \[..., 8\], got \[5, 4\]"):
        GRU(3, 4, num_layers=2).unpack_state(draw(5, 4))


@pytest.mark.parametrize("reset", ["after", "before"])
def test_a_layer_of_phi_is_the_dense_block(make, close, differ, x, reset) -> None:
    flow = linearize(make(num_layers=2, reset=reset), x)
    blocks = flow.Phi.to_dense().reshape(10, 2, 4, 10, 2, 4)
    for place in (0, 1):
        part = flow.Phi.select(hidden=f"h_l{place}").to_dense()
        close(part, blocks[:, place, :, :, place].reshape(40, 40), 1e-13)
        differ(part, blocks[:, 1 - place, :, :, 1 - place].reshape(40, 40))
