"""What a caller has switched on in torch changes no figure: linearize, products, traces, gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch
from torch.nn.utils import parametrize

from kpframe import Flow, Model, create_model, create_rule, linearize, trace, wrap
from kpframe.errors import UnsupportedError
from kpframe.plugin import get_manager

NEEDS = {"attention": {"tokens": 4}}
BUNDLED = [spec.name for spec in get_manager().specs("model")]
CELLS = ["gru_cell", "wide_cell", "parametrized_cell"]


class Doubled(torch.nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return 2 * weight


def build(name: str) -> Model:
    torch.manual_seed(0)
    if name in BUNDLED:
        return create_model(name, input_size=4, hidden_size=4, **NEEDS.get(name, {}))
    cell = torch.nn.GRUCell(4, 20 if name == "wide_cell" else 4)
    if name == "parametrized_cell":
        parametrize.register_parametrization(cell, "weight_hh", Doubled())
    return wrap(cell)


@contextmanager
def default_dtype() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def deterministic() -> Iterator[None]:
    torch._C._set_deterministic_algorithms(True)  # torch.use_deterministic_algorithms imports a compiler
    try:
        yield
    finally:
        torch._C._set_deterministic_algorithms(False)


@contextmanager
def everything() -> Iterator[None]:
    with torch.inference_mode(), torch.autocast("cpu"), torch.device("meta"), parametrize.cached():
        yield


CONTEXTS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "enable_grad": torch.enable_grad,
    "autocast": lambda: torch.autocast("cpu"),
    "cached": parametrize.cached,
    "default_device": lambda: torch.device("meta"),
    "default_dtype": default_dtype,
    "detect_anomaly": lambda: torch.autograd.set_detect_anomaly(True),
    "deterministic": deterministic,
    "everything": everything,
}


class Figures:
    """What the tests compare, of one flow."""

    def __init__(self, name: str, flow: Flow) -> None:
        generator = torch.Generator().manual_seed(1)
        self.q = torch.randn(flow.P.domain.shape, generator=generator)
        self.flow = flow
        self.rule = create_rule("bptt")

    def measure(self) -> dict[str, torch.Tensor]:
        flow, q = self.flow, self.q
        gradient = self.rule.gradient(flow, q)
        found = {f"gradient of {name}": value for name, value in gradient.items()}
        for operator in (flow.P, flow.P.T, flow.K, flow.Phi, flow.A, flow.A.T):
            found[repr(operator)] = operator(q)
        found["states"] = flow.trajectory.states
        found["J J* q"] = flow.J(flow.J.T(q))
        found["A_t v"] = flow.A.step(1, q[:, 1])
        found["A_t* v"] = flow.A.step_adjoint(1, q[:, 1])
        found["two probes"] = flow.Phi(torch.stack([q, q.roll(1, -1)]))
        found["dense"] = flow.K.select(time=0).to_dense()
        return found

    @property
    def trace(self) -> float:
        return trace(self.flow.Phi.mean("time"), budget=4).value


def inputs(model: Model) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(2, model.steps or 3, model.input_size, generator=generator)


def check(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    for name, value in expected.items():
        assert value.abs().max() > 0 or name.startswith("gradient"), name
        assert (found[name].dtype, found[name].device) == (value.dtype, value.device), name
        assert not found[name].is_inference(), name
        assert not found[name].requires_grad, name
        assert torch.equal(found[name], value) or (found[name] - value).norm() <= 1e-6 * value.norm(), name


@pytest.fixture(scope="module")
def reference() -> Callable[[str], tuple[Model, torch.Tensor, dict[str, torch.Tensor]]]:
    known: dict[str, tuple[Model, torch.Tensor, dict[str, torch.Tensor]]] = {}

    def get(name: str) -> tuple[Model, torch.Tensor, dict[str, torch.Tensor]]:
        if name not in known:
            model = build(name)
            x = inputs(model)
            known[name] = model, x, Figures(name, linearize(model, x)).measure()
        return known[name]

    return get


#: All at once on every model; one by one on a few (the conformance kit and test_trust.py try them on all).
FEW = ("rnn", "mamba", "gru_cell", *CELLS[1:])
CASES = [
    *((name, "everything") for name in (*BUNDLED, *CELLS)),
    *((name, context) for name in FEW for context in CONTEXTS if context != "everything"),
]


@pytest.mark.parametrize(("name", "context"), CASES)
@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
def test_no_figure_changes(name: str, context: str, reference) -> None:
    model, x, expected = reference(name)
    enter = CONTEXTS[context]
    outside = Figures(name, linearize(model, x))
    with enter():
        inside = Figures.__new__(Figures)
        inside.q, inside.rule = outside.q, outside.rule
        inside.flow = linearize(model, x)
        check(inside.measure(), expected)  # everything inside
        check(outside.measure(), expected)  # products alone inside: what they record lazily too
        traced = inside.trace
    check(outside.measure(), expected)  # and outside after that
    check(inside.measure(), expected)
    assert traced == pytest.approx(outside.trace, rel=1e-6) != 0


@pytest.mark.parametrize("name", [*BUNDLED, *CELLS])
def test_models_and_inputs_made_in_inference_mode(name: str, reference) -> None:
    model, x, expected = reference(name)
    with torch.inference_mode():
        made = copy.deepcopy(model)
        for parameter in made.parameters():
            parameter.data = parameter.data.clone()
        given = x.clone()
        assert given.is_inference()
        flow = linearize(made, given)
    figures = Figures(name, flow)
    check(figures.measure(), expected)
    with torch.inference_mode():
        figures.q = figures.q.clone()
        assert figures.q.is_inference()
    check(figures.measure(), expected)
    check(Figures(name, linearize(made, given)).measure(), expected)


@pytest.mark.parametrize("name", ["rnn", "gru_cell", "s4d"])
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_transforms_are_refused(name: str, reference) -> None:
    model, x, expected = reference(name)
    flow = linearize(model, x)
    q = Figures(name, flow).q
    calls = {
        "vmap": lambda: torch.func.vmap(flow.Phi)(q.expand(3, *q.shape)),
        "jacrev": lambda: torch.func.jacrev(flow.Phi)(q),
        "jvp": lambda: torch.func.jvp(flow.Phi, (q,), (q,)),
        "grad": lambda: torch.func.grad(lambda v: flow.Phi(v).sum())(q),
        "linearize": lambda: torch.func.grad(lambda v: linearize(model, v).P(q).sum())(x),
        "trace": lambda: torch.func.grad(lambda v: v.sum() * trace(flow.Phi).value)(q),
    }
    for call in calls.values():
        with pytest.raises(UnsupportedError, match=r"expected a call outside the transforms of torch\.func"):
            call()
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(q, q)
        with pytest.raises(UnsupportedError, match="without a forward-mode tangent"):
            flow.Phi(dual)
        assert torch.equal(flow.Phi(q), expected["P K P*"])
    check(Figures(name, flow).measure(), expected)


def test_a_gradient_of_the_argument_is_cut(reference) -> None:
    model, x, expected = reference("rnn")
    flow = linearize(model, x)
    q = Figures("rnn", flow).q.requires_grad_()
    assert torch.equal(flow.Phi(q), expected["P K P*"])
    assert not flow.Phi(q).requires_grad
