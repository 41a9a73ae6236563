"""Any cell as a model: the ones torch brings, and what a wrapped cell keeps of its module."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from kpframe import linearize, wrap
from kpframe.study._networks.checkpoint import load_checkpoint, save_checkpoint

LAYERS = {nn.RNNCell: nn.RNN, nn.GRUCell: nn.GRU, nn.LSTMCell: nn.LSTM}


class Sized(nn.Module):
    """A cell that says its sizes under other names."""

    def __init__(self, **sizes: object) -> None:
        super().__init__()
        self.core = nn.GRUCell(2, 3)
        for name, value in sizes.items():
            setattr(self, name, value)

    def forward(self, x, h):
        return self.core(x, h)


class Started(nn.GRUCell):
    """A cell with a parameter ``h0`` of its own."""

    def __init__(self) -> None:
        super().__init__(2, 3)
        self.h0 = nn.Parameter(torch.zeros(3))


@pytest.mark.parametrize("cell", LAYERS)
@pytest.mark.parametrize("bias", [True, False])
def test_cells_of_torch(lab, cell, bias) -> None:
    module = cell(2, 3, bias=bias).double()
    model = wrap(module)
    assert model.cell is module
    assert model.components == ({"h": 3, "c": 3} if cell is nn.LSTMCell else {"h": 3})
    assert model.input_size == 2
    assert tuple(model.trainable()) == tuple(name for name, _ in module.named_parameters())
    data = lab.trials(model, time=5)
    flow = linearize(model, **data)
    states = flow.trajectory.states
    layer = LAYERS[cell](2, 3, bias=bias, batch_first=True).double()
    other = layer(data["x"])[0].detach()
    layer.load_state_dict({f"{name}_l0": value for name, value in module.state_dict().items()})
    out = layer(data["x"])[0]
    lab.close(states[..., :3], out.detach(), 1e-12)
    lab.differ(states[..., :3], other)
    err = lab.randn(3, *states.shape)
    err[..., 3:] = 0  # a layer returns h alone
    (out * err[..., :3]).sum().backward()
    gradient = torch.cat([getattr(layer, f"{name}_l0").grad.reshape(-1) for name in model.trainable()])
    lab.close(flow.J.T(flow.P.T(err)), gradient)
    lab.differ(flow.J.T(err), gradient)
    G = lab.total_jacobian(model, **data)
    lab.close(flow.Phi.to_dense(), G @ G.T)


def test_components_of_a_trainable_initial_state(lab) -> None:
    state = {"slow": 3, "fast": 2}
    core = nn.Linear(7, 5)

    def step(module, x, parts):
        return torch.tanh(module(torch.cat([*parts, x], dim=-1))).split([3, 2], dim=-1)

    model = wrap(core, step, input_size=2, state=state, trainable_initial_state=True).double()
    assert tuple(model.trainable()) == ("h0", "weight", "bias")
    with torch.no_grad():
        model.h0.copy_(lab.randn(0, 5))
    x = lab.randn(1, 2, 4, 2)
    G = lab.total_jacobian(model, x)
    flow = linearize(model, x)
    lab.close(flow.Phi.to_dense(), G @ G.T)
    assert [part.name for part in flow.Phi.domain["hidden"].parts] == ["slow", "fast"]
    lab.check_operator(flow.Phi.select(hidden="fast"))


def test_one_named_component_is_a_plain_tensor() -> None:
    cell = nn.GRUCell(2, 3)
    x = torch.randn(4, 5, 2)
    named = wrap(cell, state={"rate": 3}).rollout(x)
    assert [part.name for part in named.space["hidden"].parts] == ["rate"]
    for same in (wrap(cell), wrap(cell, "x, state"), wrap(cell, "x,rate", state={"rate": 3}, returns="rate")):
        assert torch.equal(named.states, same.rollout(x).states)


@pytest.mark.parametrize("names", [("input_size", "hidden_size"), ("input_dim", "state_size")])
def test_sizes_are_read_from_the_module(names) -> None:
    model = wrap(Sized(**dict(zip(names, (2, 3), strict=True)), hidden_dim=3))
    assert (model.input_size, model.components) == (2, {"h": 3})


def test_frozen_parameters_are_not_part_of_theta() -> None:
    cell = nn.GRUCell(2, 3)
    cell.weight_hh.requires_grad_(False)
    model = wrap(cell)
    assert tuple(model.trainable()) == ("weight_ih", "bias_ih", "bias_hh")
    assert model.parameter_space.shape == (18 + 9 + 9,)
    cell.weight_hh.requires_grad_(True)
    assert len(model.trainable()) == 4


@pytest.mark.parametrize("remake", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_are_independent_and_equal(remake) -> None:
    model = wrap(nn.LSTMCell(2, 3), trainable_initial_state=True, constants={})
    x = torch.randn(2, 4, 2)
    other = remake(model)
    states = model.rollout(x).states
    assert torch.equal(other.rollout(x).states, states)
    with torch.no_grad():
        other.cell.weight_hh.mul_(2)
    assert torch.equal(model.rollout(x).states, states)
    assert not torch.allclose(other.rollout(x).states, states, rtol=1e-3)
    assert tuple(other.trainable()) == tuple(model.trainable())


def test_states_are_loaded_from_dictionaries_and_checkpoints(tmp_path) -> None:
    first, second, third = (wrap(nn.LSTMCell(2, 3), trainable_initial_state=True) for _ in range(3))
    assert set(first.state_dict()) == {"h0", *(f"cell.{name}" for name in first.cell.state_dict())}
    x = torch.randn(2, 4, 2)
    states = first.rollout(x).states
    assert not torch.allclose(second.rollout(x).states, states, rtol=1e-3)
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.rollout(x).states, states)
    load_checkpoint(save_checkpoint(tmp_path / "cell.safetensors", first)).load_into(third)
    assert torch.equal(third.rollout(x).states, states)


def test_repr_says_how_the_cell_is_called() -> None:
    text = repr(wrap(nn.LSTMCell(2, 3)))
    assert "input_size=2, state={'h': (3,), 'c': (3,)}, call='x,h', returns='state'" in text
    assert "(cell): LSTMCell(2, 3)" in text
    assert "call=run_cell" in repr(wrap(nn.GRUCell(2, 3), run_cell))


def run_cell(module, x, h):
    return module(x, h)


def test_a_parameter_h0_of_the_cells_own_keeps_its_name() -> None:
    assert tuple(wrap(Started()).trainable()) == tuple(name for name, _ in Started().named_parameters())


def test_a_trainable_initial_state_has_the_cells_dtype() -> None:
    model = wrap(nn.LSTMCell(3, 4).double(), trainable_initial_state=True)
    assert model.h0.dtype == torch.float64
    assert wrap(nn.LSTMCell(3, 4), trainable_initial_state=True).h0.dtype == torch.float32
