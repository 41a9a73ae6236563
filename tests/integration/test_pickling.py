"""A flow, its operators and what is made of them give the same numbers after a pickle and a copy."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch

from kpframe import Flow, Operator, Readout, create_rule, linearize, lyapunov_exponents, trace, wrap
from kpframe.errors import UnsupportedError
from kpframe.models._autograd.linearization import Linearization

from .bundled import CELLS, MODELS, RULE_SETTINGS, RULES, Figures, model_of, normal

#: No operators: another rule's gradient put through a function, and moments that a training leaves behind.
WITHOUT = ("clipped", "adam_from_scratch", "frozen_adam")


class Scaled(torch.nn.Module):
    """An importable cell, so that it can be pickled."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.input_size, self.hidden_size = inputs, width
        self.cell = torch.nn.RNNCell(inputs, width)

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        return 0.5 * h + 0.5 * self.cell(x, h)


def call_scaled(module: torch.nn.Module, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    return module(x, h)


def flow_of(name: str) -> Flow:
    torch.manual_seed(0)
    own = name == "own_cell"
    model = wrap(Scaled(4, 5), call_scaled, trainable_initial_state=True) if own else model_of(name)
    return Figures(model.double()).flow()


def vector(operator: Operator) -> torch.Tensor:
    return normal(*operator.domain.shape, seed=1)


def operators(flow: Flow) -> dict[str, Operator]:
    found = {name: getattr(flow, name) for name in ("A", "J", "P", "K", "Phi")}
    found |= {f"{name}*": operator.T for name, operator in found.items()}
    found["mean"] = flow.Phi.mean("time")
    found["selected"] = (flow.P @ flow.J).select(time=-1).T
    found["sum"] = 2.0 * flow.K + flow.Phi - flow.A
    found["inverse"] = flow.P.inverse
    found["transition"] = flow.P.transition(-1)
    found["truncated"] = flow.P.truncated(2)
    found["restricted"] = flow.K.restrict([flow.K.parameters[0]])
    return found


def numbers(found: dict[str, Operator]) -> dict[str, torch.Tensor]:
    return {name: operator(vector(operator)) for name, operator in found.items()}


def check(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    live = [name for name, value in expected.items() if value.abs().max() > 0]
    assert {"P", "P*", "K", "K*", "Phi", "J", "J*"} <= set(live)
    assert not torch.equal(expected["Phi"], expected["P"])


COPIES: dict[str, Callable[[object], object]] = {
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "deepcopy": copy.deepcopy,
}


#: With every change; the others are with the slow tests (the conformance kit copies flows of all models).
FEW = ("rnn", "lstm", "hh", "s5", *CELLS, "own_cell")
OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in MODELS if name not in FEW]


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("name", [*FEW, *OTHERS])
@pytest.mark.rows(7)
def test_a_flow_keeps_its_numbers(name: str, way: str) -> None:
    again = COPIES[way]
    flow = flow_of(name)
    unused = again(flow)
    expected = numbers(operators(flow))
    used = again(flow)
    for other in (unused, used):
        assert isinstance(other, Flow)
        check(numbers(operators(other)), expected)
        assert torch.equal(other.trajectory.states, flow.trajectory.states)
        assert other.Phi.tags == flow.Phi.tags
        assert repr(other) == repr(flow)
    assert isinstance(used, Flow)
    check(numbers(operators(again(used))), expected)  # a copy of a copy
    with torch.no_grad():  # a copy stands alone
        for parameter in used.model.parameters():
            parameter.zero_()
    check(numbers(operators(flow)), expected)
    check(numbers(operators(unused)), expected)


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("name", ["rnn", "lru", "gru_cell", "wide_cell"])
@pytest.mark.rows(4)
def test_an_operator_alone_keeps_its_numbers(name: str, way: str) -> None:
    found = operators(flow_of(name))
    unused = {key: COPIES[way](operator) for key, operator in found.items()}
    expected = numbers(found)
    check(numbers(unused), expected)
    check(numbers({key: COPIES[way](operator) for key, operator in found.items()}), expected)
    assert found["Phi"].T is found["Phi"]
    for operator in unused.values():
        assert operator.T.T is operator


@pytest.mark.parametrize("method", ["autograd", "graph", "dense"])
def test_each_method_keeps_its_numbers(method: str) -> None:
    model, x = flow_of("gru").model, flow_of("gru").trajectory.inputs
    flow = linearize(model, x, method=method)
    unused = pickle.loads(pickle.dumps(flow))
    expected = numbers(operators(flow))
    check(numbers(operators(unused)), expected)
    check(numbers(operators(copy.deepcopy(flow))), expected)


@pytest.mark.parametrize("name", [name for name in RULES if name not in WITHOUT])
@pytest.mark.rows(4)
def test_operators_of_rules_keep_their_numbers(name: str) -> None:
    flow = flow_of("rnn")
    rule = create_rule(name, **RULE_SETTINGS.get(name, {}))
    readout = Readout(4, 2, generator=0, dtype=torch.float64)
    operator = rule.flow_operator(flow, readout)
    q = vector(operator)
    expected = operator(q)
    assert expected.abs().max() > 0
    for again in COPIES.values():
        assert torch.equal(again(operator)(q), expected)
        assert torch.equal(again(rule).flow_operator(flow, readout)(q), expected)


def test_estimators_take_copies() -> None:
    flow = flow_of("wide_cell")
    other = pickle.loads(pickle.dumps(flow))
    assert trace(other.Phi, budget=20) == trace(flow.Phi, budget=20)
    assert torch.equal(lyapunov_exponents(other.A, k=2).exponents, lyapunov_exponents(flow.A, k=2).exponents)
    assert trace(flow.Phi, budget=20).value != trace(flow.K, budget=20).value


def _product(operator: Operator) -> torch.Tensor:
    return operator(vector(operator))


@pytest.mark.slow
def test_other_processes_give_the_same_numbers() -> None:
    found = [flow_of(name).Phi for name in ("rnn", "lru", "wide_cell", "own_cell")]
    expected = [_product(operator) for operator in found]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        for value, other in zip(pool.map(_product, found), expected, strict=True):
            assert torch.equal(value, other)
            assert other.abs().max() > 0


def test_a_graph_without_a_recipe_is_refused() -> None:
    leaf = torch.ones(3, requires_grad=True)
    graph = Linearization(leaf * 2, [leaf])
    for again in COPIES.values():
        with pytest.raises(UnsupportedError, match="expected one made with again="):
            again(graph)
