"""Every form of P and K, and what is made of them, on trials that ranks share: that of one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import kpframe
from kpframe import DiagonalOperator, Flow, Model, Operator
from kpframe.errors import SpaceMismatchError, UnsupportedError
from kpframe.operators._shards import counted_traffic

from ..toy_flows import Rnn  # noqa: TID252
from .agreement import COUNTS, assert_same, raised
from .ranks import on_ranks, own_part

F64 = torch.float64
#: Shares of five trials, by number of ranks, other ones than those of ``COUNTS``.
OTHERS = {2: [2, 3], 3: [2, 1, 2]}


def site_model() -> Model:
    torch.manual_seed(2)
    model = Rnn(3, 4, form="rate", trainable_initial_state=True).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn_like(parameter))
    return model


def cell() -> Model:
    torch.manual_seed(3)
    return kpframe.wrap(torch.nn.GRUCell(3, 4).double(), trainable_initial_state=True)


def inputs(seed: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs and a mask of five trials of different lengths."""
    x = torch.randn(5, 7, 3, dtype=F64, generator=torch.Generator().manual_seed(seed))
    return x, torch.arange(7) < torch.tensor([7, 5, 7, 3, 6]).roll(seed)[:, None]


MODELS: dict[str, Callable[[], Model]] = {"sites": site_model, "wrapped": cell}


def propagators(flow: Flow) -> Iterator[tuple[str, Operator]]:
    P = flow.P
    for form in ("scan", "stepwise", "dense", "graph"):
        try:
            yield form, flow.with_propagator(form).P
        except UnsupportedError:  # the graph is that of a model without structure
            assert form == "graph"
    yield "a transition", P.transition(5, 2)
    yield "from the start", P.transition(3)
    yield "truncated", P.truncated(2)
    yield "truncated late", P.truncated(6)
    yield "chunked", P.chunked(3, 1)
    yield "inverse", P.inverse
    yield "another A", P.with_step(0.5 * flow.A)
    yield "without steps", P.with_step(flow.A.masked(torch.arange(7) % 3 > 0))


def parameter_operators(flow: Flow) -> Iterator[tuple[str, Operator]]:
    weights = torch.linspace(0.1, 2.0, flow.J.domain.size, dtype=F64)
    metric = DiagonalOperator(weights, flow.J.domain)
    for form in ("product", "gram"):
        try:
            K = flow.with_parameter_operator(form).K
        except UnsupportedError:  # of weight sites
            assert form == "gram"
            continue
        yield form, K
        yield f"{form} with a metric", K.with_metric(metric)
        yield from ((f"{form} of {name}", group) for name, group in K.groups().items())
    yield "J", flow.J
    yield "G", flow.G
    yield "Phi of one parameter", flow.P @ flow.K.restrict(flow.K.parameters[-1:]) @ flow.P.T


def compared(group: Any, counts: list[int], name: str, settings: dict[str, Any]) -> list[str]:
    """Compare every form of a model's flow with that of one process, and return their names."""
    model, (x, mask) = MODELS[name](), inputs()
    plain = kpframe.linearize(model, x, mask=mask, **settings)
    parts = (own_part(group, one, counts) for one in (x, mask))
    ours = kpframe.linearize(model, next(parts), mask=next(parts), group=group, **settings)
    assert "h0" in [part.name for part in ours.J.domain.axes[0].parts]  # it learns
    found = []
    for forms in (propagators, parameter_operators):
        for (what, one), (_, other) in zip(forms(ours), forms(plain), strict=True):
            assert_same(one, other, len(found))
            found.append(what)
    return found


def same_for_others(group: Any, counts: list[int], others: list[int]) -> dict[str, str]:
    """Compare products of a flow on test trials with one on training trials, of other shares."""
    model = site_model()
    (test, mask), (train, _) = inputs(), inputs(5)
    train, lengths = torch.cat([train, -train[:3]]), [*others[:-1], others[-1] + 3]
    plain, ours = [], []
    for x, held, shares in ((test, mask, counts), (train, None, lengths)):
        plain.append(kpframe.linearize(model, x, mask=held))
        own = None if held is None else own_part(group, held, shares)
        ours.append(kpframe.linearize(model, own_part(group, x, shares), mask=own, group=group))

    def crossed(first: Flow, second: Flow) -> Operator:
        return first.P @ first.J @ second.J.T @ second.P.T

    assert_same(crossed(*ours), crossed(*plain))
    assert_same(ours[0].G @ ours[1].G.T, plain[0].G @ plain[1].G.T, 1)
    assert_same(
        crossed(*ours) @ ours[1].Phi @ crossed(*ours).T,
        crossed(*plain) @ plain[1].Phi @ crossed(*plain).T,
        2,
        1e-11,
    )
    assert_same(crossed(*ours).mean("batch"), crossed(*plain).mean("batch"), 3)
    assert_same(ours[0].G @ ours[1].J.T, plain[0].G @ plain[1].J.T, 4)
    q = torch.ones(ours[1].P.domain.shape, dtype=F64)
    with counted_traffic() as traffic:
        crossed(*ours)(q)
    assert traffic.bytes <= 8 * ours[0].J.domain.size + 4
    return {
        "states": raised(SpaceMismatchError, lambda: ours[0].P @ ours[1].P),
        "sum": raised(SpaceMismatchError, lambda: ours[0].K + ours[1].K),
    }


CASES = [
    ("sites", {}),
    ("wrapped", {}),
    ("wrapped", {"keep": "sqrt"}),
    ("sites", {"keep": "sqrt"}),
    ("sites", {"method": "autograd"}),
    ("wrapped", {"method": "graph"}),
    ("wrapped", {"method": "dense"}),
]


@pytest.mark.parametrize(
    ("ranks", "name", "settings"),
    [
        *(
            pytest.param(2, *case, marks=pytest.mark.slow if place > 1 else ())
            for place, case in enumerate(CASES)
        ),
        *(pytest.param(3, *case, marks=pytest.mark.slow) for case in CASES),
    ],
)
def test_every_form_is_that_of_one_process(ranks: int, name: str, settings: dict[str, Any]) -> None:
    found = on_ranks(ranks, compared, COUNTS[ranks], name, settings)
    assert all(one == found[0] for one in found)
    assert {"scan", "stepwise", "chunked", "truncated late", "a transition", "product"} <= set(found[0])
    assert ("gram" in found[0]) == (name == "sites" and settings == {})
    assert ("graph" in found[0]) == (settings.get("method") in ("graph", "autograd"))


@pytest.mark.parametrize("ranks", [2, 3])
def test_products_of_two_flows_of_other_trials_and_other_shares(ranks: int) -> None:
    found = on_ranks(ranks, same_for_others, COUNTS[ranks], OTHERS[ranks])
    for one in found:
        assert "batch" in one["states"]
        assert "batch" in one["sum"]


def on_many(group: Any, counts: list[int]) -> tuple[float, float]:
    model, x = many()
    plain = kpframe.linearize(model, x)
    ours = kpframe.linearize(model, own_part(group, x, counts), group=group)
    assert_same(ours.Phi, plain.Phi)
    estimates = [
        kpframe.trace(flow.Phi, budget=16, generator=torch.Generator().manual_seed(6))
        for flow in (ours, plain)
    ]
    return estimates[0].value, estimates[1].value


def many() -> tuple[Model, torch.Tensor]:
    return site_model(), torch.randn(13, 6, 3, dtype=F64, generator=torch.Generator().manual_seed(7))


@pytest.mark.slow
def test_eight_ranks() -> None:
    model, x = many()
    alone = kpframe.trace(
        kpframe.linearize(model, x[:3]).Phi, budget=16, generator=torch.Generator().manual_seed(6)
    )
    found = on_ranks(8, on_many, [3, 1, 1, 2, 1, 1, 3, 1], timeout=400)
    assert len({one for one, _ in found}) == 1
    for one, whole in found:
        assert one == pytest.approx(whole, rel=1e-9)
        assert alone.value != pytest.approx(whole, rel=1e-3)
