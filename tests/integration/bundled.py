"""The bundled models and rules at small sizes, what is read off their flows, and what may surround a call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch.nn.utils import parametrize

from kpframe import Flow, Model, create_model, create_rule, effective_rank, linearize, trace, wrap
from kpframe.plugin import get_manager

MODELS = tuple(spec.name for spec in get_manager().specs("model"))
#: Wrapped cells by the number of their units: the wide one is recorded step by step.
CELLS = {"gru_cell": 4, "wide_cell": 20}

RULES = tuple(spec.name for spec in get_manager().specs("rule"))
RULE_SETTINGS = {
    "frozen": {"parameters": ["weight_hh_l0"]},
    "truncated_bptt": {"window": 2},
    "duhamel": {"order": 2},
    "snap_n": {"n": 2},
    "h_detach": {"probability": 0.5},
    "low_rank_projection": {"rank": 2},
    "artbp": {"length": 2.0},
    "recurrent_backpropagation": {"settled": 10.0},
    "clipped": {"max_norm": 0.1},
}


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def model_of(name: str, size: int = 4, **settings: object) -> Model:
    """Return a bundled model of ``size`` inputs and units, or a wrapped cell, the same one each time."""
    torch.manual_seed(0)
    if name in CELLS:
        return wrap(torch.nn.GRUCell(size, CELLS[name]))
    sizes = dict.fromkeys(("input_size", "hidden_size", *["tokens"] * (name == "attention")), size)
    return create_model(name, **{**sizes, **settings})


Read = dict[str, torch.Tensor | float]


class Figures:
    """What people read off a flow of a model: products, a gradient, an exact trace and a rank.

    Inputs and vectors are drawn once, outside of whatever surrounds the reading.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        parameters = list(model.parameters())
        dtype = parameters[0].dtype if parameters else torch.float64
        self.x = normal(2, model.steps or 3, model.input_size, seed=2, dtype=dtype)
        self.q = normal(*linearize(model, self.x).P.domain.shape, seed=1, dtype=dtype)
        self.bptt = create_rule("bptt")

    def flow(self) -> Flow:
        return linearize(self.model, self.x)

    def of(self, flow: Flow) -> Read:
        q = self.q
        found: Read = {f"gradient of {name}": g for name, g in self.bptt.gradient(flow, q).items()}
        for operator in (flow.P, flow.P.T, flow.K, flow.Phi, flow.A, flow.A.T):
            found[repr(operator)] = operator(q)
        found["states"] = flow.trajectory.states
        found["J J* q"] = flow.J(flow.J.T(q))
        found["two probes"] = flow.Phi(torch.stack([q, q.roll(1, -1)]))
        found["dense"] = flow.K.select(time=0).to_dense()
        found["trace"] = trace(flow.Phi, budget=10**4).value
        found["rank"] = effective_rank(flow.Phi, budget=10**4).value
        return found


def assert_same(found: Read, wanted: Read, rtol: float) -> None:
    """Assert that figures are the same, of use anywhere, and none lost: a lost graph gives zero."""
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        if isinstance(value, float):
            assert found[name] == pytest.approx(value, rel=rtol) != 0, name
            continue
        assert bool(value.any()) or name.startswith("gradient"), name
        assert (found[name].dtype, found[name].device) == (value.dtype, value.device), name
        assert not found[name].is_inference(), name
        assert not found[name].requires_grad, name
        assert float((found[name] - value).norm()) <= rtol * float(value.norm()), name


@contextmanager
def everything() -> Iterator[None]:
    """What a figure must not see, all at once; models are in float32, which autocast would halve."""
    with torch.inference_mode(), torch.autocast("cpu"), torch.device("meta"), parametrize.cached():
        yield
