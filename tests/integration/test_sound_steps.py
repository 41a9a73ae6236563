"""What ``linearize`` asks of a step every installed model has, in both precisions; no hook is overlooked."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch

from kpframe import create_model, linearize
from kpframe.errors import UnsupportedError
from kpframe.plugin import get_manager

NAMES = [spec.name for spec in get_manager().specs("model")]
NEEDS = {"attention": {"tokens": 4}}


def make(name: str, dtype: torch.dtype = torch.float64, hidden_size: int = 16, time: int = 20):
    torch.manual_seed(0)
    model = create_model(name, input_size=4, hidden_size=hidden_size, **NEEDS.get(name, {})).to(dtype)
    return model, torch.randn(3, model.steps or time, model.input_size, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.rows(9)
def test_no_installed_model_is_refused_for_rounding(name, dtype) -> None:
    model, x = make(name, dtype)
    for method in ("auto", "graph"):
        flow = linearize(model, x, method=method)
        assert float(flow.K(torch.ones(flow.K.domain.shape, dtype=dtype)).norm()) > 0
    mask = torch.arange(x.shape[1]) < torch.tensor([[x.shape[1]], [2], [1]])
    linearize(model, x, mask=mask, method="autograd")


@pytest.mark.parametrize("name", NAMES)
def test_hooks_on_any_parameter_are_refused(name) -> None:
    model, x = make(name, time=3)
    for parameter in model.trainable().values():
        handle = parameter.register_hook(torch.zeros_like)
        with pytest.raises(UnsupportedError, match=r"^parameter '.*': expected one without hooks, which"):
            linearize(model, x)
        handle.remove()
    linearize(model, x)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.rows(6)
def test_nothing_is_kept_of_a_flow_that_is_gone(name) -> None:
    model, x = make(name, time=3)
    flow = linearize(model, x)
    flow.Phi(torch.ones(flow.Phi.domain.shape, dtype=x.dtype))
    held = [weakref.ref(tensor) for tensor in flow.model.parameters()]
    del flow
    gc.collect()
    assert held
    assert not any(ref() is not None for ref in held)


@pytest.mark.parametrize("name", NAMES)
def test_copies_of_models_are_equal_and_apart(name) -> None:
    model, x = make(name, time=3)
    other = copy.deepcopy(model)
    assert torch.equal(other.rollout(x).states, model.rollout(x).states)
    assert [n for n, _ in other.named_parameters()] == [n for n, _ in model.named_parameters()]
    assert not {id(p) for p in other.parameters()} & {id(p) for p in model.parameters()}
