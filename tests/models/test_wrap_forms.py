"""Cells of every form: order of arguments, containers, shapes, constants, functions; against plain loops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from kpframe import Model, linearize, wrap
from kpframe.testing import check_model


class Pair(NamedTuple):
    v: Tensor
    w: Tensor


@dataclass
class Cells:
    v: Tensor
    w: Tensor


class Spiking(nn.Module):
    """``v`` [N, H] and a slow ``w`` [N, 2]: a function of tensors that the forms below dress up."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.drive, self.recurrent = nn.Linear(inputs, hidden), nn.Linear(hidden, hidden, bias=False)
        self.slow = nn.Linear(hidden, 2)
        self.register_buffer("leak", torch.tensor(0.8))
        self.gain = nn.Parameter(torch.tensor(0.5), requires_grad=False)

    def new(self, x: Tensor, v: Tensor, w: Tensor, dt: float | Tensor = 1.0) -> tuple[Tensor, Tensor]:
        after = (
            self.leak * v
            + dt * torch.tanh(self.drive(x) + self.recurrent(v))
            - self.gain * w.sum(-1, keepdim=True)
        )
        return after, 0.9 * w + 0.1 * torch.sigmoid(self.slow(v))


class Tuple(Spiking):
    def forward(self, x, state):
        v, w = state
        return self.new(x, v, w)


class Dict(Spiking):
    def forward(self, x, state):
        v, w = self.new(x, **state)
        return {"w": w, "v": v}  # in any order


class Named(Spiking):
    def forward(self, x, state):
        return state._replace(**dict(zip("vw", self.new(x, state.v, state.w), strict=True)))


class Record(Spiking):
    def forward(self, x, state):
        return Cells(*self.new(x, state.v, state.w))


class Listed(Spiking):
    def forward(self, state, x):
        assert isinstance(state, list)
        return list(self.new(x, *state))


class Separate(Spiking):
    """The state as arguments of their own, the input in the middle, and a step size."""

    def forward(self, w, x, v, dt):
        v, w = self.new(x, v, w, dt)
        return w, v.sum(-1), v


class Positional(Spiking):
    def forward(self, dt, x, state, /):
        return self.new(x, *state, dt)


class OutputState(nn.Module):
    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.core, self.readout = nn.GRUCell(inputs, hidden), nn.Linear(hidden, 5)

    def forward(self, x, h):
        h = self.core(x, h)
        return self.readout(h), h


class StateOutput(OutputState):
    def forward(self, h, x):
        return super().forward(x, h)[::-1]


class Plastic(nn.Module):
    """Fast weights ``M`` [N, H, I] beside ``h`` [N, H], and a count of steps ``s`` [N]."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.weight, self.rate = nn.Parameter(torch.randn(hidden, inputs)), nn.Parameter(torch.tensor(0.3))

    def forward(self, x, state):
        s, M, h = state
        assert s.shape == x.shape[:1]
        assert M.shape == (len(x), *self.weight.shape)
        new = torch.tanh(0.5 * h + ((self.weight + M) @ x.unsqueeze(-1)).squeeze(-1) / (1 + s[:, None]))
        return s + 1, 0.7 * M + self.rate * new.unsqueeze(-1) * x.unsqueeze(-2), new


class Clocked(nn.Module):
    """A gain that turns with the step index."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.core = nn.RNNCell(inputs, hidden)

    def forward(self, t, h, x):
        return torch.cos(t.to(x))[:, None] * self.core(x, h)


class Stack(nn.Module):
    """Two layers that run whole sequences: only a function can make a step of it."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.encoder, self.lower, self.upper = (
            nn.Linear(inputs, 3),
            nn.LSTMCell(3, hidden),
            nn.GRUCell(hidden, 2),
        )

    def forward(self, xs):
        raise NotImplementedError


def stack_step(stack: nn.Module, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    h, c, top = state
    h, c = stack.lower(torch.relu(stack.encoder(x)), (h, c))
    return h, c, stack.upper(h, top)


@dataclass
class Case:
    """A cell's class, how it is wrapped, and a plain loop's step on a tuple of its tensors."""

    cell: Callable[[int, int], nn.Module]
    arguments: Callable[[int, int], dict[str, Any]]
    step: Callable[[nn.Module, int, Tensor, tuple[Tensor, ...]], Any]
    shapes: Callable[[int, int], tuple[tuple[int, ...], ...]] = lambda i, h: ((h,), (2,))

    def make(self, input_size: int, hidden_size: int) -> Model:
        cell = self.cell(input_size, hidden_size)
        return wrap(cell, input_size=input_size, **self.arguments(input_size, hidden_size))

    def loop(self, cell: nn.Module, x: Tensor, hidden: int) -> Tensor:
        state = tuple(x.new_zeros(len(x), *shape) for shape in self.shapes(x.shape[-1], hidden))
        states = []
        for t in range(x.shape[1]):
            state = tuple(self.step(cell, t, x[:, t], state))
            states.append(torch.cat([part.reshape(len(x), -1) for part in state], dim=-1))
        return torch.stack(states, dim=1)


def both(i: int, h: int, **kwargs: Any) -> dict[str, Any]:
    return {"state": {"v": h, "w": 2}, **kwargs}


def one(i: int, h: int) -> tuple[tuple[int, ...], ...]:
    return ((h,),)


def new(cell: Any, t: int, x: Tensor, state: Any) -> Any:
    return cell.new(x, *state)


CASES = {
    "tuple": Case(Tuple, both, new),
    "dict": Case(Dict, lambda i, h: both(i, h, container=dict), new),
    "NamedTuple": Case(Named, lambda i, h: both(i, h, container=Pair), new),
    "dataclass": Case(Record, lambda i, h: both(i, h, container=Cells), new),
    "list, state first": Case(Listed, lambda i, h: both(i, h, call="state, x", container=list), new),
    "separate arguments": Case(
        Separate,
        lambda i, h: both(i, h, call="w,x,v", returns="w,y,v", constants={"dt": 0.5}),
        lambda cell, t, x, s: cell.new(x, *s, 0.5),
    ),
    "constant by position": Case(
        Positional,
        lambda i, h: both(i, h, call="dt,x,h", constants={"dt": torch.tensor([0.25])}),
        lambda cell, t, x, s: cell.new(x, *s, 0.25),
    ),
    "h, x": Case(
        StateOutput,
        lambda i, h: {"call": "h,x", "state": h, "returns": "state,output"},
        lambda cell, t, x, s: cell(*s, x)[:1],
        one,
    ),
    "output, state": Case(
        OutputState,
        lambda i, h: {"state": {"rate": h}, "returns": "_,rate"},
        lambda cell, t, x, s: cell(x, *s)[1:],
        one,
    ),
    "matrix": Case(
        Plastic,
        lambda i, h: {"state": {"s": (), "M": (h, i), "h": h}},
        lambda cell, t, x, s: cell(x, s),
        lambda i, h: ((), (h, i), (h,)),
    ),
    "time": Case(
        Clocked,
        lambda i, h: {"call": "t,h,x", "state": h},
        lambda cell, t, x, s: (cell(torch.full((len(x),), t), *s, x),),
        one,
    ),
    "function": Case(
        Stack,
        lambda i, h: {"call": stack_step, "state": {"h": h, "c": h, "top": 2}},
        lambda cell, t, x, s: stack_step(cell, x, s),
        lambda i, h: ((h,), (h,), (2,)),
    ),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture
def drawn(case: Case, lab: SimpleNamespace) -> tuple[Model, Tensor]:
    torch.manual_seed(0)
    return case.make(2, 4).double(), lab.randn(1, 3, 5, 2)


def test_states_are_those_of_a_plain_loop(case, drawn, lab) -> None:
    model, x = drawn
    states = model.rollout(x).states.detach()
    lab.close(states, case.loop(model.cell, x, 4).detach(), 1e-12)
    lab.differ(states, case.loop(model.cell, x.flip(1), 4).detach())


@pytest.mark.rows(4)
def test_gradients_are_those_of_a_plain_loop(case, drawn, lab) -> None:
    model, x = drawn
    flow = linearize(model, x)
    err = lab.randn(2, *flow.P.domain.shape)
    (case.loop(model.cell, x, 4) * err).sum().backward()
    expected = {name: p.grad for name, p in model.cell.named_parameters() if p.grad is not None}
    used = [name for name in model.trainable() if name in expected]
    assert used
    parts = {part.name: part for part in flow.J.domain["parameter"].parts}

    def gradients(err: Tensor) -> Tensor:
        flat = flow.J.T(err)
        for name in set(parts) - set(used):  # a readout inside the cell
            assert not flat[parts[name].slice].any()
        return torch.cat([flat[parts[name].slice] for name in used])

    reference = torch.cat([expected[name].reshape(-1) for name in used])
    lab.close(gradients(flow.P.T(err)), reference)
    lab.differ(gradients(err), reference)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_kit_passes(name) -> None:
    report = check_model(CASES[name].make, examples=2)
    assert report.passed, str(report)
    left = {result.name for result in report.results if result.verdict == "not applicable"}
    left.discard("shared_parameters_are_one")  # where two parameters have one shape
    left.discard("K_keeps_its_blocks")  # where each parameter acts on one unit
    assert left == {f"structured_equals_autograd_{operator}" for operator in "AJKP"}


def test_components_of_any_shape_lie_flat_on_the_axis(lab) -> None:
    torch.manual_seed(0)
    model = CASES["matrix"].make(2, 4).double()
    assert model.components == {"s": 1, "M": 8, "h": 4}
    assert model.shapes == {"s": (), "M": (4, 2), "h": (4,)}
    x = lab.randn(1, 3, 5, 2)
    run = model.rollout(x)
    M = run.component("M").reshape(3, 5, 4, 2)
    last = torch.einsum("bi,bj->bij", run.component("h")[:, 0], x[:, 0]) * model.cell.rate
    lab.close(M[:, 0].detach(), last.detach(), 1e-12)
    lab.differ(M[:, 0].detach(), last.detach().flip(1))
    assert run.component("s")[0, :, 0].tolist() == [1, 2, 3, 4, 5]


def test_constants_are_tensors_of_the_models_dtype_but_not_saved(lab) -> None:
    model = CASES["constant by position"].make(2, 4)
    assert dict(model.named_buffers())["constant_dt"].dtype == torch.float32
    assert model.double().constant_dt.dtype == torch.float64
    assert set(model.state_dict()) == {f"cell.{name}" for name in model.cell.state_dict()}
    x = lab.randn(0, 2, 3, 2)
    states = model.rollout(x).states.detach()
    model.constant_dt.fill_(0.5)
    lab.differ(model.rollout(x).states.detach(), states)


class Spring(nn.Module):
    """A position ``x`` and a velocity, driven; returns the position beside the state."""

    def __init__(self) -> None:
        super().__init__()
        self.stiffness = nn.Parameter(torch.tensor(0.4))

    def forward(self, force, state):
        x, v = state
        v = v + 0.1 * (force - self.stiffness * x)
        return x, (x + 0.1 * v, v)


def test_a_component_may_have_the_name_of_an_argument(lab) -> None:
    model = wrap(Spring(), input_size=3, state={"x": 3, "h": 3}, returns="h,state").double()
    force = lab.randn(0, 2, 5, 3)
    states = model.rollout(force).states.detach()
    x, v = torch.zeros(2, 2, 3, dtype=force.dtype)
    for t in range(5):
        v = v + 0.1 * (force[:, t] - model.cell.stiffness.detach() * x)
        x = x + 0.1 * v
        lab.close(states[:, t], torch.cat([x, v], dim=1), 1e-12)
        lab.differ(states[:, t], torch.cat([v, x], dim=1))


def test_only_a_call_that_takes_t_makes_a_model_time_varying() -> None:
    form: dict[str, Any] = {"state": {"v": 3, "w": 2}, "returns": "w,y,v"}
    assert CASES["time"].make(2, 4).time_varying
    assert not CASES["h, x"].make(2, 4).time_varying
    assert not wrap(Separate(2, 3), "w,x,v,t", constants={"t": 0.1}, input_size=2, **form).time_varying
