"""Misuse of ``wrap``: every message names the argument, what was expected and what came."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from kpframe import wrap
from kpframe.errors import ArgumentError, DtypeError, ShapeError


class Sized(nn.Module):
    """A cell that says its sizes under other names."""

    def __init__(self, **sizes: object) -> None:
        super().__init__()
        self.core = nn.GRUCell(2, 3)
        for name, value in sizes.items():
            setattr(self, name, value)

    def forward(self, x, h):
        return self.core(x, h)


class Layered(nn.GRU):
    """Layers whose sequences are run otherwise."""

    def forward(self, x, h=None):
        return super().forward(2 * x, h)


class Started(nn.GRUCell):
    """A cell with a parameter ``h0`` of its own."""

    def __init__(self) -> None:
        super().__init__(2, 3)
        self.h0 = nn.Parameter(torch.zeros(3))


class Pair(NamedTuple):
    v: Tensor
    w: Tensor


class Core(nn.Module):
    """Takes a dict with ``v`` and ``w`` and returns a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 3)

    def forward(self, x, state):
        return self.new(x, **state)

    def new(self, x, v, w):
        return torch.tanh(v + self.linear(x)), w + v[:, :2]


class Output(nn.Module):
    """Returns an output [N, 5] before its state [N, 3]."""

    def __init__(self) -> None:
        super().__init__()
        self.core, self.readout = nn.GRUCell(2, 3), nn.Linear(3, 5)

    def forward(self, x, h):
        h = self.core(x, h)
        return self.readout(h), h


def run_cell(module, x, h):
    return module(x, h)


def pair(call: Any = "x,h", **arguments: Any) -> Any:
    return wrap(Core(), call, input_size=2, **{"state": {"v": 3, "w": 2}, **arguments})


def output(**arguments: Any) -> Any:
    return wrap(Output(), input_size=2, state=3, **arguments)


GRU = nn.GRUCell(2, 3)
ORDER = r"^call: expected the module's arguments in order: 'x', the state \('h'\), and .*, each once, got "


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: wrap(Layered(2, 3)),
            r"^module: expected a cell that computes one step .*, got Layered, which runs whole sequences$",
        ),
        (lambda: wrap(torch.tanh), r"^module: expected a torch.nn.Module, got builtin"),
        (lambda: wrap(nn.GRUCell), r"^module: expected a torch.nn.Module, got type$"),
        (
            lambda: wrap(wrap(GRU)),
            r"^module: expected a cell, got WrappedCell, which is a kpframe.Model already$",
        ),
        (
            lambda: wrap(nn.LazyLinear(3), input_size=2, state=3),
            r"^module: expected a module whose parameters have a shape, got LazyLinear with lazy ones; call",
        ),
        (
            lambda: wrap(Sized()),
            r"^input_size: expected a size, as Sized has no integer attribute 'input_size' or 'input_dim'",
        ),
        (
            lambda: wrap(Sized(input_size="2")),
            r"^input_size: expected a size, as Sized has no integer attribute",
        ),
        (
            lambda: wrap(Sized(input_size=2)),
            r"^state: expected a size, as Sized has no .* 'hidden_size' or 'state_size' or 'hidden_dim', got",
        ),
        (
            lambda: wrap(Sized(input_size=2, hidden_size=3, state_size=6)),
            r"^state: expected a size, as Sized has hidden_size=3 and state_size=6, got none$",
        ),
        (lambda: wrap(GRU, "x"), ORDER + r"'x'$"),
        (lambda: wrap(GRU, "x,h,"), ORDER + r"'x,h,'$"),
        (lambda: wrap(GRU, "x,h,h"), ORDER + r"'x,h,h'$"),
        (lambda: wrap(GRU, "x,h,ts"), ORDER + r"'x,h,ts'$"),
        (lambda: wrap(nn.LSTMCell(2, 3), "x,c"), r"the state \('h', or each of 'h', 'c'\), .*, got 'x,c'$"),
        (lambda: wrap(GRU, 3), r"^call: expected names separated by commas, or a function, got 3$"),
        (
            lambda: wrap(nn.GRUCell(3, 3), "h,x"),
            r"^call: expected 'x,h', the order of torch.nn.GRUCell, got 'h,x'$",
        ),
        (
            lambda: wrap(nn.LSTMCell(2, 3), "x,h,c"),
            r"^call='x,h,c', input_size=2, state=.*: expected what LSTMCell takes, .*, got TypeError: ",
        ),
        (
            lambda: wrap(GRU, returns="output"),
            r"^returns: expected 'state' or all of 'h' once, and any name for each value .*, got 'output'$",
        ),
        (
            lambda: wrap(nn.LSTMCell(2, 3), returns="c"),
            r"^returns: expected 'state' or all of 'h', 'c' once, .*, got 'c'$",
        ),
        (lambda: wrap(GRU, returns="state,state"), r"^returns: .*, got 'state,state'$"),
        (lambda: wrap(GRU, returns=None), r"^returns: expected names separated by commas, got None$"),
        (
            lambda: wrap(GRU, container="dict"),
            r"^container: expected a class, such as dict or tuple, got 'dict'$",
        ),
        (
            lambda: wrap(GRU, state=0),
            r"^state\['h'\]: expected a whole number >= 1, or a shape of such, got 0$",
        ),
        (lambda: wrap(GRU, state=True), r"^state\['h'\]: expected a whole number >= 1, .*, got True$"),
        (lambda: wrap(GRU, state={"h": (3, 0)}), r"^state\['h'\]: expected .*, got \(3, 0\)$"),
        (lambda: wrap(GRU, state={"h": 3.0}), r"^state\['h'\]: expected a whole number >= 1, .*, got 3.0$"),
        (
            lambda: wrap(GRU, state=(3, 3)),
            r"^state: expected a width, or a mapping of components to widths or shapes, got \(3, 3\)$",
        ),
        (lambda: wrap(GRU, state={}), r"^state: expected a width, or a mapping .*, got \{\}$"),
        (lambda: wrap(GRU, state={1: 3}), r"^state: expected a width, or a mapping .*, got \{1: 3\}$"),
        (lambda: wrap(GRU, input_size=0), r"^input_size: expected a whole number >= 1, got 0$"),
        (
            lambda: wrap(GRU, input_size=4),
            r"^call='x,h', input_size=4, state=3: expected what GRUCell takes, with x \[3, 4\], got \w+: .* "
            r"\(container and constants say the rest; check=False leaves this trial out\)$",
        ),
        (
            lambda: wrap(GRU, state=4),
            r"^call='x,h', input_size=2, state=4: expected what GRUCell takes, .*, got \w+Error: ",
        ),
        (
            lambda: wrap(GRU, constants={"ts": 1.0}),
            r"expected what GRUCell takes, .*, got TypeError: .*unexpected keyword argument 'ts'",
        ),
        (
            lambda: wrap(GRU, constants={"x": 1.0}),
            r"^constants: expected names of arguments other than 'x', got 'x'$",
        ),
        (
            lambda: wrap(GRU, constants={"a b": 1.0}),
            r"^constants: expected names of arguments .*, got 'a b'$",
        ),
        (
            lambda: wrap(GRU, constants={"ts": torch.ones(1, requires_grad=True)}),
            r"^constants\['ts'\]: expected a tensor that does not learn .*, got one that requires",
        ),
        (
            lambda: wrap(GRU, run_cell, constants={"ts": 1.0}),
            r"^constants: expected none beside a function, which can hold its own, got ts$",
        ),
        (
            lambda: wrap(Started(), trainable_initial_state=True),
            r"^trainable_initial_state: expected False, got True for Started, which has a parameter 'h0'",
        ),
    ],
)
def test_misuse(make, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            pair,
            r"^call='x,h', input_size=2, state=\{'v': 3, 'w': 2\}: expected what Core takes, with x .*, "
            r"got TypeError: .* a mapping, not tuple \(container and constants say the rest; check=False",
        ),
        (lambda: pair(state={"v": 3, "u": 2}, container=dict), r"got TypeError: .*'u' \(container"),
        (
            lambda: pair(container=dict),
            r"^state returned by Core \(returns='state'\): expected a mapping with the keys \['v', 'w'\], "
            r"got tuple \(tensor \[3, 3\], tensor \[3, 2\]\)$",
        ),
        (
            lambda: pair(lambda m, x, s: {**s, "y": None}, container=dict),
            r": expected a mapping with the keys \['v', 'w'\], got dict \(v: .*, w: .*, y: NoneType\)$",
        ),
        (
            lambda: pair(lambda m, x, s: m.new(x, s.v, s.w), container=Pair),
            r"^state returned by Core .*: expected a Pair, got tuple \(tensor \[3, 3\], tensor \[3, 2\]\)$",
        ),
        (lambda: pair(lambda m, x, s: s[:1]), r": expected a tuple \(v, w\), got tuple \(tensor \[3, 3\]\)$"),
        (lambda: pair(lambda m, x, s: s[0]), r": expected a tuple \(v, w\), got tensor \[3, 3\]$"),
        (
            lambda: pair(lambda m, x, s: s[::-1]),
            r"^state returned by Core .*: expected 'v' a tensor \[3, 3\], got tensor \[3, 2\]$",
        ),
        (
            lambda: pair(lambda m, x, s: None, state=3),
            r"^state returned by Core \(returns='state'\): expected 'h' a tensor \[3, 3\], got NoneType$",
        ),
        (
            output,
            r"^state returned by Output \(returns='state'\): expected 'h' a tensor \[3, 3\], "
            r"got tuple \(tensor \[3, 5\], tensor \[3, 3\]\)$",
        ),
        (
            lambda: output(returns="state,output"),
            r"\(returns='state,output'\): expected 'h' a tensor \[3, 3\], got tensor \[3, 5\]$",
        ),
        (
            lambda: output(returns="output,_,state"),
            r": expected 3 values, got tuple \(tensor \[3, 5\], tensor \[3, 3\]\)$",
        ),
    ],
)
def test_states_of_another_form(make, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        make()


def test_a_state_of_another_dtype() -> None:
    message = r"^state returned by Core .*: expected 'w' of dtype torch.float32, got torch.float64$"
    with pytest.raises(DtypeError, match=message):
        pair(lambda m, x, s: (s[0], s[1].double()))


def test_without_the_trial_the_roll_out_says_it() -> None:
    model = output(check=False)
    with pytest.raises(ShapeError, match=r"expected 'h' a tensor \[4, 3\], got tuple"):
        model.rollout(torch.zeros(4, 5, 2))
