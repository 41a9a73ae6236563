"""The retained graph of a whole roll-out, against the scan over the graphs of single steps."""

from __future__ import annotations

import pytest
import torch

from kpframe import Model, linearize, wrap
from kpframe.errors import ArgumentError, MemoryBudgetError
from kpframe.models._autograd.forms import graph_bytes
from kpframe.operators._memory import available

F64 = torch.float64


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def close(actual: torch.Tensor, expected: torch.Tensor, rtol: float = 1e-12) -> None:
    assert actual.shape == expected.shape
    assert float(expected.norm()) > 0
    assert float((actual - expected).norm()) <= rtol * float(expected.norm())


@pytest.fixture(params=[False, True], ids=["zero start", "trainable start"])
def model(request) -> Model:
    torch.manual_seed(3)
    made = wrap(torch.nn.GRUCell(3, 18), trainable_initial_state=request.param).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0, 0.4)
    return made


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.rows(2)
def test_graph_is_scan(model, masked) -> None:
    x = draw(3, 4, 3, seed=1)
    mask = torch.arange(4) < torch.tensor([[4], [2], [1]]) if masked else None
    flow, twin = linearize(model, x, None, mask), linearize(model, x, None, mask, method="autograd")
    assert (flow.P.method, twin.P.method) == ("graph", "autograd")
    assert flow.P.why == "a state of 18 > 16 entries, no structure known"
    q = draw(2, 3, 4, 18, seed=2)
    for name in ("P", "K", "Phi"):
        ours, theirs = getattr(flow, name), getattr(twin, name)
        close(ours(q), theirs(q))
        close(ours.T(q), theirs.T(q))
        close(ours(q[0]), theirs(q)[0])
        assert repr(ours) == repr(theirs)
    assert flow.Phi.positive
    close(flow.P.inverse(flow.P(q)), q)
    close(flow.P.truncated(2)(q), twin.P.truncated(2)(q))
    assert float((flow.P.truncated(2)(q) - flow.P(q)).norm()) > 1e-3 * float(q.norm())
    frozen = flow.P @ flow.K.freeze(["*bias*"]) @ flow.P.T
    assert float((frozen(q) - flow.Phi(q)).norm()) > 1e-3 * float(q.norm())
    given = linearize(model, x, draw(3, 18, seed=5), mask)
    assert float((given.Phi(q) - flow.Phi(q)).norm()) > 1e-3 * float(q.norm())


@pytest.mark.parametrize("method", ["dense", "graph", "autograd"])
def test_every_form_can_be_asked_for(model, method) -> None:
    x, q = draw(2, 3, 3, seed=1), draw(2, 3, 18, seed=2)
    flow = linearize(model, x, method=method)
    assert (flow.P.method, flow.P.why) == (method, f"method='{method}'")
    close(flow.Phi(q), linearize(model, x).Phi(q))


def test_a_model_in_which_nothing_learns(model) -> None:
    model.requires_grad_(False)
    q = draw(2, 3, 18, seed=2)
    flow = linearize(model, draw(2, 3, 3, seed=1))
    assert torch.equal(flow.Phi(q), torch.zeros_like(q))
    assert not torch.equal(flow.P(q), q)


def test_an_unknown_form_is_refused(model) -> None:
    with pytest.raises(ArgumentError, match="method: expected one of 'auto', 'autograd', 'graph', 'dense'"):
        linearize(model, draw(1, 2, 3, seed=1), method="sites")


def test_what_would_not_fit_is_refused_before_it_is_recorded(model) -> None:
    x = draw(2, 3, 3, seed=1)
    with pytest.raises(
        MemoryBudgetError,
        match=r"linearize of WrappedCell on \[batch=2, time=3, hidden=18\]: expected a need within .* "
        r"\(max_bytes\), got about .*; keep fewer states \(keep='sqrt': .*\), take fewer trials",
    ):
        linearize(model, x, max_bytes=10_000)
    linearize(model, x, max_bytes=10_000_000)
    huge = torch.zeros(1, 1, 3, dtype=F64).expand(1_000_000, 100_000, 3)
    with pytest.raises(MemoryBudgetError, match="free on cpu"):
        linearize(model, huge)


def test_the_need_is_of_the_right_size() -> None:
    """The estimate of the dense form is led by its blocks, that of the graph form by what a step keeps."""

    def need(cell: torch.nn.Module, method: str) -> int:
        model = wrap(cell)
        return graph_bytes(model, model.rollout(torch.zeros(2, 3, 2)), method)

    torch.manual_seed(0)
    narrow, wide = torch.nn.RNNCell(2, 20), torch.nn.RNNCell(2, 200)
    assert 2 * 4 * 200**2 < need(wide, "dense") < 3 * 4 * 200**2
    assert need(wide, "graph") < 0.2 * need(wide, "dense")
    assert 5 < need(wide, "graph") / need(narrow, "graph") < 15
    assert need(torch.nn.GRUCell(2, 20), "graph") > 1.3 * need(narrow, "graph")


def test_free_memory_is_known() -> None:
    free = available(torch.device("cpu"))
    assert free is None or 2**24 < free < 2**50
