"""The algebra on sharded spaces: a global meaning, or an error that says what to do."""

from __future__ import annotations

import copy
import pickle
import re
from typing import Any

import pytest
import torch
from torch import distributed

import kpframe
from kpframe import DiagonalOperator, IdentityOperator, MatrixOperator
from kpframe.errors import (
    ArgumentError,
    NonFiniteError,
    NonFiniteProductError,
    SpaceMismatchError,
    UnsupportedError,
)
from kpframe.operators import BlockOperator, FunctionOperator, KroneckerOperator, OuterProductOperator
from kpframe.operators._shards import counted_traffic

from .agreement import COUNTS, assert_same, no_gathering, own, raised
from .ranks import on_ranks, own_part

F64 = torch.float64


def network(dtype: torch.dtype = F64) -> tuple[kpframe.Model, torch.Tensor]:
    torch.manual_seed(0)
    cell = torch.nn.GRUCell(3, 4).to(dtype)
    return kpframe.wrap(cell), torch.randn(5, 6, 3, dtype=torch.float64).to(dtype)


def flows(group: Any, counts: list[int]) -> tuple[kpframe.Flow, kpframe.Flow]:
    """Return the flow of all trials on this rank alone, and that of its own with the others'."""
    model, x = network()
    return kpframe.linearize(model, x), kpframe.linearize(model, own_part(group, x, counts), group=group)


def compositions(group: Any, counts: list[int]) -> None:
    plain, ours = flows(group, counts)
    torch.manual_seed(1)
    weights = torch.rand(5, 6, 4, dtype=F64)
    u, v = torch.randn(2, 5, 6, 4, dtype=F64)
    theta = torch.randn(plain.J.domain.size, dtype=F64)
    for seed, make in enumerate(
        (
            lambda flow, part: flow.Phi,
            lambda flow, part: flow.K @ flow.K + 2.0 * flow.Phi - flow.P.T @ flow.P,
            lambda flow, part: part(weights) * flow.Phi * part(weights),
            lambda flow, part: flow.Phi**2 / 3.0,
            lambda flow, part: (flow.Phi + 0.5 * IdentityOperator.like(flow.Phi)).symmetric_part,
            lambda flow, part: flow.G.T @ flow.G,
            lambda flow, part: OuterProductOperator(part(u), part(v), codomain=flow.P.domain) @ flow.Phi,
            lambda flow, part: OuterProductOperator(
                part(u), theta, codomain=flow.P.domain, domain=flow.J.domain
            ),
            lambda flow, part: flow.K.declare(positive=True),
            lambda flow, part: KroneckerOperator(
                flow.Phi, MatrixOperator(torch.tensor([[2.0, 1.0], [0.0, 3.0]], dtype=F64))
            ),
            lambda flow, part: DiagonalOperator(part(weights), flow.P.domain).inverse @ flow.P.inverse,
        )
    ):
        assert_same(make(ours, lambda t: own(ours.P.domain, t)), make(plain, lambda t: t), seed)
    uneven = torch.arange(5, dtype=F64).reshape(5, 1, 1)  # trial 0 alone has a zero, and none is negative
    diagonal = DiagonalOperator(own(ours.P.domain, uneven.expand(5, 6, 4)), ours.P.domain)
    assert diagonal.positive
    assert not (diagonal - 0.5 * IdentityOperator.like(diagonal)).positive
    negative = (uneven - 3.5).expand(5, 6, 4)
    assert not DiagonalOperator(own(ours.P.domain, negative), ours.P.domain).positive
    assert "no zero on the diagonal" in raised(ArgumentError, lambda: diagonal.inverse)


def refusals(group: Any, other: Any, counts: list[int]) -> dict[str, str]:
    plain, ours = flows(group, counts)
    model, x = network()
    shares = list(reversed(counts))
    reversed_ = kpframe.linearize(model, own_part(group, x, shares), group=group)
    elsewhere = kpframe.linearize(model, own_part(group, x, counts), group=other)
    crooked = ours.P @ ours.K
    return {
        "to_dense": raised(UnsupportedError, ours.Phi.to_dense),
        "J": raised(UnsupportedError, ours.J.to_dense),
        "to_scipy": raised(UnsupportedError, ours.Phi.to_scipy),
        "cached": raised(UnsupportedError, ours.Phi.cached),
        "matrix": raised(UnsupportedError, lambda: MatrixOperator(torch.eye(24), ours.P.domain)),
        "block": raised(UnsupportedError, lambda: BlockOperator([[ours.P, ours.K]])),
        "plain": raised(SpaceMismatchError, lambda: ours.P @ plain.P),
        "plain, by parameters": raised(SpaceMismatchError, lambda: ours.J @ plain.J.T),
        "shares": raised(SpaceMismatchError, lambda: ours.P + reversed_.P),
        "groups": raised(SpaceMismatchError, lambda: ours.P @ elsewhere.P),
        "groups, by parameters": raised(SpaceMismatchError, lambda: ours.J @ elsewhere.J.T),
        "pickle": raised(UnsupportedError, lambda: pickle.dumps(ours.Phi)),
        "declared": raised(ArgumentError, lambda: crooked.declare(self_adjoint=True)),
        "negative": raised(ArgumentError, lambda: (-ours.K).declare(positive=True)),
    }


def copies(group: Any, counts: list[int]) -> None:
    plain, ours = flows(group, counts)
    assert_same(copy.deepcopy(ours.Phi), plain.Phi)
    time = ours.Phi.mean("batch", "time")
    torch.testing.assert_close(
        time.to_dense(), plain.Phi.mean("batch", "time").to_dense(), rtol=1e-12, atol=0
    )
    assert_same(time.cached(), plain.Phi.mean("batch", "time"))
    assert pickle.loads(pickle.dumps(time.cached().matrix)).shape == (4, 4)


def chunks(group: Any, counts: list[int]) -> None:
    plain, ours = flows(group, counts)
    q = torch.randn(7, 5, 6, 4, dtype=F64, generator=torch.Generator().manual_seed(3))
    out = ours.Phi(own(ours.P.domain, q), chunk=2)
    torch.testing.assert_close(out, own(ours.P.domain, plain.Phi(q)), rtol=1e-11, atol=1e-12)
    assert ours.Phi(own(ours.P.domain, q)[:0]).shape == (0, *ours.P.domain.shape)


def not_finite(group: Any, counts: list[int]) -> dict[str, str]:
    _, ours = flows(group, counts)
    rank, last = distributed.get_rank(group), len(counts) - 1
    space = ours.P.domain
    q = torch.ones(space.shape, dtype=F64)
    if rank == last:
        q[0, 2, 1] = torch.nan

    def bad(t: torch.Tensor) -> torch.Tensor:
        return t / (0.0 if rank == last else 1.0)

    local = FunctionOperator(space, space, bad, bad, dtype=F64)
    found = {
        "P": raised(NonFiniteError, lambda: ours.P(q)),
        "Phi": raised(NonFiniteError, lambda: ours.Phi(q)),
        "J.T": raised(NonFiniteError, lambda: ours.J.T(q)),
        "local": raised(NonFiniteProductError, lambda: local(torch.ones(space.shape, dtype=F64))),
    }
    assert ours.Phi(torch.ones(space.shape, dtype=F64)).isfinite().all()  # in step again
    return found


@pytest.mark.parametrize("ranks", [*(pytest.param(r, marks=pytest.mark.slow) for r in (1, 2)), 3])
def test_compositions_are_those_of_one_process(ranks: int) -> None:
    on_ranks(ranks, compositions, COUNTS[ranks])


def test_copies_and_reduced_forms() -> None:
    on_ranks(2, copies, COUNTS[2])


def test_probes_go_in_chunks_in_step_on_uneven_ranks() -> None:
    on_ranks(3, chunks, COUNTS[3])


def with_groups(group: Any, counts: list[int]) -> dict[str, str]:
    other = distributed.new_group(list(range(3)))
    try:
        return refusals(group, other, counts)
    finally:
        distributed.destroy_process_group(other)


def test_what_has_no_meaning_is_refused_with_the_remedy() -> None:
    found = on_ranks(3, with_groups, [1, 2, 2], last=True)
    assert all(one.keys() == found[0].keys() for one in found)
    message = found[1]
    for name in ("to_dense", "J", "to_scipy", "cached"):
        assert re.search(
            r"its trials are on several ranks \(5 trials on 3 ranks, 2 of them here\).*reduce over batch",
            message[name],
        ), message[name]
    assert "no rank's; DiagonalOperator" in message["matrix"]
    assert "a block operator of P" in message["block"]
    for name in ("plain", "plain, by parameters"):
        assert "batch is sharded over 3 ranks in one and not in the other" in message[name]
    assert "shares of 1 + 2 + 2 and 2 + 2 + 1" in message["shares"]
    for name in ("groups", "groups, by parameters"):
        assert "two groups of ranks: linearize both with one group" in message[name]
    assert "cannot be pickled: it holds a process group" in message["pickle"]
    assert len({one["declared"] for one in found}) == 1
    assert "a difference of" in message["declared"]
    assert "values down to -1 times" in message["negative"]


def test_a_product_that_is_not_finite_on_one_rank_is_refused_on_all() -> None:
    found = on_ranks(2, not_finite, COUNTS[2])
    assert found[0] == found[1]
    for name in ("P", "Phi", "J.T"):
        assert found[0][name].startswith("rank 1: argument of ")
        assert "at step 2, trial 4, hidden 1" in found[0][name] or "trial 4" in found[0][name]
    assert found[0]["local"].startswith("rank 1: product of F: expected finite numbers, got inf")


def products(group: Any, counts: list[int]) -> tuple[int, int, int, int, int]:
    model, x = network(torch.float32)
    flow = kpframe.linearize(model, own_part(group, x, counts), group=group)
    q = torch.ones(flow.P.domain.shape)
    with no_gathering():
        with counted_traffic() as one:
            flow.Phi(q)
        with counted_traffic() as many:
            flow.Phi(q.expand(16, *q.shape))
        with counted_traffic() as local:
            flow.P(q)
    return one.collectives, one.bytes, many.bytes, local.bytes, flow.J.domain.size


def test_a_product_sends_the_parameters_once_and_gathers_nothing() -> None:
    for collectives, one, many, local, parameters in on_ranks(2, products, COUNTS[2]):
        assert collectives == 2  # of M numbers, and of one: whether the product is finite on every rank
        assert one == 4 * parameters + 4
        assert many == 4 * 16 * parameters + 4
        assert local == 4
