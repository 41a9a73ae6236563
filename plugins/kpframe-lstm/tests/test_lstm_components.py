"""One component of the state: its part of Phi, traces and ranks of it; torch's pair (h, c) and back."""

from __future__ import annotations

import itertools

import pytest
import torch
from kpframe_lstm.model import LSTM

from kpframe import effective_rank, linearize
from kpframe.errors import AxisError, DeviceError, DtypeError, ShapeError


def test_order_and_widths_of_the_components() -> None:
    assert LSTM(3, 4).components == {"h": 4, "c": 4}
    assert LSTM(3, 4, proj_size=2).components == {"h": 2, "c": 4}
    layered = {"h_l0": 2, "c_l0": 4, "h_l1": 2, "c_l1": 4}
    assert list(LSTM(3, 4, num_layers=2, proj_size=2).components.items()) == list(layered.items())


def rows_of(model, name: str) -> torch.Tensor:
    """Return which rows of a dense operator on two trials of five steps belong to a component."""
    names = [part for part, width in model.components.items() for _ in range(width)]
    return torch.tensor([part == name for part in names] * 10)


def test_a_component_of_phi_is_the_dense_block(make, close, differ, x, form) -> None:
    model = make(**form)
    flow = linearize(model, x)
    for op in (flow.K, flow.Phi):
        dense = op.to_dense()
        parts = {}
        for name, width in model.components.items():
            part = op.select(hidden=name)
            kept = rows_of(model, name)
            assert part.domain.shape == (2, 5, width)
            assert part.positive
            parts[name] = part.to_dense()
            close(parts[name], dense[kept][:, kept], 1e-13)
        for one, other in itertools.combinations(parts.values(), 2):
            if one.shape == other.shape:
                differ(one, other)


def test_an_unknown_component_is_refused(make, x) -> None:
    flow = linearize(make(num_layers=2), x)
    with pytest.raises(AxisError, match=r"has no part 'c' .*it has h_l0, c_l0, h_l1, c_l1"):
        flow.Phi.select(hidden="c")


def test_partial_traces_of_a_component(make, close, differ, x) -> None:
    flow = linearize(make(), x)
    dense = flow.Phi.to_dense().reshape(10, 2, 4, 10, 2, 4)  # steps of trials, component, unit
    by_unit = dense.diagonal(dim1=2, dim2=5).sum(-1)  # [10, 2, 10, 2]
    for place, name in enumerate(("h", "c")):
        traced = flow.Phi.select(hidden=name).partial_trace("hidden").to_dense()
        close(traced, by_unit[:, place, :, place], 1e-12)
        differ(traced, by_unit[:, 1 - place, :, 1 - place])
    both = flow.Phi.partial_trace("hidden").to_dense()
    close(both, by_unit[:, 0, :, 0] + by_unit[:, 1, :, 1], 1e-12)


@pytest.mark.parametrize("kind", ["participation", "entropy"])
def test_effective_rank_of_a_component(make, x, kind) -> None:
    model = make()
    flow = linearize(model, x)
    ranks = {}
    for name in model.components:
        kept = rows_of(model, name)
        p = torch.linalg.eigvalsh(flow.Phi.to_dense()[kept][:, kept]).clamp(min=0)
        p = p / p.sum()
        rank = 1 / (p**2).sum() if kind == "participation" else torch.exp(-torch.xlogy(p, p).sum())
        ranks[name] = effective_rank(flow.Phi.select(hidden=name), kind=kind, budget=40)
        assert ranks[name].stderr == 0
        assert ranks[name].value == pytest.approx(float(rank), rel=1e-9)
    assert ranks["h"].value != pytest.approx(ranks["c"].value, rel=0.01)


def test_states_go_to_torch_and_back(draw) -> None:
    model = LSTM(3, 4, num_layers=2, proj_size=2)
    h, c = draw(2, 5, 2, seed=1), draw(2, 5, 4, seed=2)
    state = model.pack_state(h, c)
    assert torch.equal(state, torch.cat([h[0], c[0], h[1], c[1]], dim=-1))
    assert all(torch.equal(a, b) for a, b in zip(model.unpack_state(state), (h, c), strict=True))
    run = draw(5, 7, 12, seed=3)  # states [B, T, width]
    assert torch.equal(model.pack_state(*model.unpack_state(run)), run)
    assert model.unpack_state(run)[0].shape == (2, 5, 7, 2)
    single = draw(12, seed=4)
    assert torch.equal(model.pack_state(*model.unpack_state(single)), single)


def test_refused_states(draw) -> None:
    model = LSTM(3, 4, num_layers=2, proj_size=2)
    h, c = draw(2, 5, 2), draw(2, 5, 4)
    with pytest.raises(ShapeError, match=r"h: expected shape \[2, 5, 2\], got \[2, 5, 4\]"):
        model.pack_state(c, c)
    with pytest.raises(ShapeError, match=r"c: expected shape \[2, 5, 4\], got \[2, 6, 4\]"):
        model.pack_state(h, draw(2, 6, 4))
    with pytest.raises(ShapeError, match=r"h: expected shape \[2, 5, 2\], got \[1, 5, 2\]"):
        model.pack_state(h[:1], c)
    with pytest.raises(DtypeError, match=r"c: expected the dtype torch.float64 of h, got torch.float32"):
        model.pack_state(h, c.float())
    with pytest.raises(DeviceError, match=r"c: expected the device cpu of h, got meta"):
        model.pack_state(h, c.to("meta"))
    with pytest.raises(ShapeError, match=r"state: expected shape \[..., 12\], got \[5, 11\]"):
        model.unpack_state(draw(5, 11))
