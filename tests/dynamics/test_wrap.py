"""Any cell as a model: the ones torch brings, other signatures, and misuse."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kpframe import linearize, wrap
from kpframe.errors import ArgumentError, ShapeError


class Cell(nn.Module):
    """A cell with its own signature: ``(h, x) -> (output, state)``."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 3)

    def forward(self, h, x):
        new = torch.tanh(self.linear(torch.cat([h, x], dim=-1)))
        return new.sum(-1), new


class Pair(nn.Module):
    """A cell on a tuple of states of unlike widths."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 3), nn.Linear(3, 2)

    def forward(self, x, state):
        slow, fast = state
        new = torch.tanh(self.a(torch.cat([slow, x[:, :0], fast], dim=-1)) + x.sum(-1, keepdim=True))
        return new, torch.sigmoid(self.b(new)) * fast


class One(nn.Module):
    """Returns one tensor for a tuple of states."""

    def forward(self, x, state):
        return torch.cat(state, dim=-1)


@pytest.mark.parametrize("cell", [nn.RNNCell, nn.GRUCell, nn.LSTMCell])
@pytest.mark.parametrize("bias", [True, False])
def test_cells_of_torch(lab, cell, bias) -> None:
    module = cell(2, 3, bias=bias).double()
    model = wrap(module)
    assert model.cell is module
    assert model.components == ({"h": 3, "c": 3} if cell is nn.LSTMCell else {"h": 3})
    assert model.input_size == 2
    assert tuple(model.trainable()) == tuple(name for name, _ in module.named_parameters())
    data = lab.trials(model, time=5)
    states = model.rollout(**data).states
    layer = {nn.RNNCell: nn.RNN, nn.GRUCell: nn.GRU, nn.LSTMCell: nn.LSTM}[cell](
        2, 3, bias=bias, batch_first=True
    ).double()
    layer.load_state_dict({f"{name}_l0": value for name, value in module.state_dict().items()})
    lab.close(states[..., :3].detach(), layer(data["x"])[0].detach(), 1e-12)
    G = lab.total_jacobian(model, **data)
    lab.close(linearize(model, **data).Phi.to_dense(), G @ G.T)


def test_other_signatures(lab) -> None:
    model = wrap(Cell(), "h,x", input_size=2, state=3, returns="output,state").double()
    x = lab.randn(1, 2, 4, 2)
    h = torch.zeros(2, 3, dtype=torch.float64)
    for t in range(4):
        _, h = model.cell(h, x[:, t])
    lab.close(model.rollout(x).final.detach(), h.detach(), 1e-12)
    G = lab.total_jacobian(model, x)
    lab.close(linearize(model, x).Phi.to_dense(), G @ G.T)
    assert tuple(model.trainable()) == ("linear.weight", "linear.bias")


def test_tuple_states(lab) -> None:
    model = wrap(Pair(), input_size=2, state={"slow": 3, "fast": 2}, trainable_initial_state=True).double()
    assert next(iter(model.trainable())) == "h0"
    with torch.no_grad():
        model.h0.copy_(lab.randn(0, 5))
    x = lab.randn(1, 2, 4, 2)
    G = lab.total_jacobian(model, x)
    flow = linearize(model, x)
    lab.close(flow.Phi.to_dense(), G @ G.T)
    assert [part.name for part in flow.Phi.domain["hidden"].parts] == ["slow", "fast"]
    lab.check_operator(flow.Phi.select(hidden="fast"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wrap(nn.GRU(2, 3)), r"^module: expected a cell that computes one step .*, got GRU$"),
        (lambda: wrap(nn.LSTM(2, 3)), r"^module: expected a cell .*, got LSTM$"),
        (lambda: wrap(torch.tanh), r"^module: expected a torch.nn.Module, got builtin"),
        (lambda: wrap(nn.GRUCell), r"^module: expected a torch.nn.Module, got type$"),
        (
            lambda: wrap(Cell()),
            r"^input_size: expected a size, as Cell has no integer attribute 'input_size'",
        ),
        (
            lambda: wrap(Cell(), input_size=2),
            r"^state: expected a size, as Cell has no .* 'hidden_size', got no",
        ),
        (lambda: wrap(nn.GRUCell(2, 3), "x"), r"^call: expected one of \('x,h', 'h,x'\), got 'x'$"),
        (lambda: wrap(nn.GRUCell(2, 3), "x, h"), r"^call: expected one of .*, got 'x, h'$"),
        (
            lambda: wrap(nn.GRUCell(2, 3), returns="h"),
            r"^returns: expected one of \('state', 'output,state'\)",
        ),
        (lambda: wrap(nn.GRUCell(2, 3), state=0), r"^state\['h'\]: expected a whole number >= 1, got 0$"),
    ],
)
def test_misuse(call, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        call()


def test_a_cell_that_returns_another_state() -> None:
    x = torch.zeros(2, 4, 2)
    with pytest.raises(ShapeError, match=r"WrappedCell.step: expected a state \[2, 3\], got tuple"):
        linearize(wrap(Cell(), "h,x", input_size=2, state=3), x)

    class Forgets(Pair):
        def forward(self, x, state):
            return super().forward(x, state)[:1]

    for module, got in ((Forgets(), "1 parts"), (One(), "Tensor")):
        model = wrap(module, input_size=2, state={"slow": 3, "fast": 2})
        message = rf"state returned by \w+: expected \{{'slow': 3, 'fast': 2\}}, got {got}"
        with pytest.raises(ArgumentError, match=message):
            linearize(model, x)


def test_one_named_component_is_a_plain_tensor(lab) -> None:
    cell = nn.GRUCell(2, 3)
    x = torch.randn(4, 5, 2)
    named = wrap(cell, state={"rate": 3}).rollout(x)
    assert [part.name for part in named.space["hidden"].parts] == ["rate"]
    assert torch.equal(named.states, wrap(cell).rollout(x).states)
