"""What a caller has switched on in torch changes no figure: linearize, products, traces, gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache

import pytest
import torch
from torch.nn.utils import parametrize

from kpframe import Model, linearize, trace, wrap
from kpframe.errors import UnsupportedError
from kpframe.testing._surroundings import SURROUNDINGS

from .bundled import CELLS, MODELS, Figures, Read, assert_same, everything, model_of

NAMES = (*MODELS, *CELLS, "parametrized_cell")


class Doubled(torch.nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return 2 * weight


def build(name: str) -> Model:
    if name != "parametrized_cell":
        return model_of(name)
    torch.manual_seed(0)
    cell = torch.nn.GRUCell(4, 4)
    parametrize.register_parametrization(cell, "weight_hh", Doubled())
    return wrap(cell)


@contextmanager
def deterministic() -> Iterator[None]:
    torch._C._set_deterministic_algorithms(True)  # torch.use_deterministic_algorithms imports a compiler
    try:
        yield
    finally:
        torch._C._set_deterministic_algorithms(False)


CONTEXTS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    **SURROUNDINGS,
    "torch.enable_grad": torch.enable_grad,
    "deterministic algorithms": deterministic,
    "everything": everything,
}


@pytest.fixture(scope="module")
def reference() -> Callable[[str], tuple[Figures, Read]]:
    @cache
    def get(name: str) -> tuple[Figures, Read]:
        figures = Figures(build(name))
        return figures, figures.of(figures.flow())

    return get


def check(found: Read, expected: Read) -> None:
    assert_same(found, expected, 1e-6)


#: All at once on every model; one by one on a few (the conformance kit and test_trust.py try them on all).
FEW = ("rnn", "mamba", *CELLS, "parametrized_cell")
CASES = [
    *((name, "everything") for name in NAMES),
    *((name, context) for name in FEW for context in CONTEXTS if context != "everything"),
]


@pytest.mark.parametrize(("name", "context"), CASES)
@pytest.mark.rows(20)
def test_no_figure_changes(name: str, context: str, reference) -> None:
    figures, expected = reference(name)
    outside = figures.flow()
    with CONTEXTS[context]():
        inside = figures.flow()
        check(figures.of(inside), expected)  # everything inside
        check(figures.of(outside), expected)  # products alone inside: what they record lazily too
    check(figures.of(outside), expected)  # and outside after that
    check(figures.of(inside), expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.rows(12)
def test_models_and_inputs_made_in_inference_mode(name: str, reference) -> None:
    figures, expected = reference(name)
    figures = copy.copy(figures)
    with torch.inference_mode():
        figures.model = copy.deepcopy(figures.model)
        for parameter in figures.model.parameters():
            parameter.data = parameter.data.clone()
        figures.x = figures.x.clone()
        assert figures.x.is_inference()
        flow = figures.flow()
    check(figures.of(flow), expected)
    with torch.inference_mode():
        figures.q = figures.q.clone()
        assert figures.q.is_inference()
    check(figures.of(flow), expected)
    check(figures.of(figures.flow()), expected)


@pytest.mark.parametrize("name", ["rnn", "gru_cell", "s4d"])
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_transforms_are_refused(name: str, reference) -> None:
    figures, expected = reference(name)
    flow, model, x, q = figures.flow(), figures.model, figures.x, figures.q
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
    check(figures.of(flow), expected)


def test_a_gradient_of_the_argument_is_cut(reference) -> None:
    figures, expected = reference("rnn")
    flow, q = figures.flow(), figures.q.clone().requires_grad_()
    assert torch.equal(flow.Phi(q), expected["P K P*"])
    assert not flow.Phi(q).requires_grad
