"""Products in chunks: ranks add up what one chunk has sent to the parameters while the next one goes back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import distributed

import kpframe
from kpframe import DiagonalOperator, Operator
from kpframe.errors import NonFiniteProductError
from kpframe.flow import ProductParameterOperator
from kpframe.operators._shards import counted_traffic

from .agreement import COUNTS, own, raised
from .ranks import on_ranks, own_part

F64 = torch.float64
PROBES, CHUNK = 7, 2


class InOnePart(ProductParameterOperator):
    """A form that says how it multiplies, and nothing of parts."""

    def _sandwich(self, metric: Operator, q: torch.Tensor) -> torch.Tensor:
        return self.jacobian._apply(metric._apply(self.jacobian._apply_adjoint(q)))


@contextmanager
def recorded() -> Iterator[list[str]]:
    """Yield in which order all-reduces of more than one number are started and waited for."""
    events: list[str] = []
    known, count = distributed.all_reduce, 0

    class Watched:
        def __init__(self, work: Any, number: int) -> None:
            self.work, self.number = work, number

        def wait(self) -> None:
            events.append(f"end {self.number}")
            self.work.wait()

    def watched(tensor: torch.Tensor, **how: Any) -> Any:
        nonlocal count
        work = known(tensor, **how)
        if tensor.numel() == 1:
            return work
        events.append(f"start {count}")
        count += 1
        return Watched(work, count - 1)

    distributed.all_reduce = watched
    try:
        yield events
    finally:
        distributed.all_reduce = known


def forms(flow: kpframe.Flow) -> dict[str, Operator]:
    J, K, P = flow.J, flow.K, flow.P.domain
    scales = torch.linspace(0.5, 2.0, J.domain.size, dtype=F64)
    product = flow.with_parameter_operator("product")
    return {
        "Phi": flow.Phi,
        "K": K,
        "restricted": K.restrict(["weight_hh*"]),
        "metric": K.with_metric(DiagonalOperator(scales, J.domain)),
        "Phi, three products": product.Phi,
        "scaled": 3.0 * flow.Phi,
        "scaled within": DiagonalOperator(torch.full(P.shape, 2.0, dtype=F64), P) @ (0.1 * K),
        "in one part": flow.P @ InOnePart(J) @ flow.P.T,
    }


def in_chunks(group: Any, counts: list[int]) -> dict[str, list[str]]:
    torch.manual_seed(0)
    model, x = kpframe.wrap(torch.nn.GRUCell(3, 4).double()), torch.randn(5, 6, 3, dtype=F64)
    plain = forms(kpframe.linearize(model, x))
    ours = forms(kpframe.linearize(model, own_part(group, x, counts), group=group))
    q = torch.randn(PROBES, 5, 6, 4, dtype=F64)
    found = {}
    for name, op in ours.items():
        mine = own(op.domain, q).contiguous()
        apart = torch.cat([op(mine[place : place + CHUNK]) for place in range(0, PROBES, CHUNK)])
        with recorded() as events, counted_traffic() as traffic:
            out = op(mine, chunk=CHUNK)
        assert torch.equal(out, apart), name
        whole = plain[name](q)
        assert float((out - own(op.domain, whole)).abs().max()) <= 1e-12 * float(whole.abs().max()), name
        assert float((out - own(op.domain, whole.flip(0))).abs().max()) > 1e-3 * float(whole.abs().max())
        assert traffic.collectives == 5  # four chunks, and whether all of it is finite
        found[name] = list(events)
    return found


@pytest.mark.parametrize("ranks", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_chunk_is_added_up_while_the_next_one_goes_back(ranks: int) -> None:
    overlapped = ["start 0"]
    for place in range(1, 4):
        overlapped += [f"start {place}", f"end {place - 1}"]
    overlapped.append("end 3")
    in_turn = [f"{what} {place}" for place in range(4) for what in ("start", "end")]
    for found in on_ranks(ranks, in_chunks, COUNTS[ranks]):
        assert found.pop("in one part") == in_turn
        assert found
        for name, events in found.items():
            assert events == overlapped, name


def overflowing(group: Any, counts: list[int]) -> dict[str, str]:
    """Products that overflow on one rank after the sum over ranks, none of whose numbers does."""
    rank, last = distributed.get_rank(group), len(counts) - 1
    torch.manual_seed(0)
    model = kpframe.wrap(torch.nn.RNNCell(3, 4).double())
    x = torch.randn(5, 6, 3, dtype=F64)
    flow = kpframe.linearize(model, own_part(group, x, counts), group=group)
    far = torch.full(flow.P.domain.shape, 1e200 if rank == last else 1.0, dtype=F64)
    op = DiagonalOperator(far, flow.P.domain) @ flow.Phi
    q = 1e150 * torch.ones(PROBES, *flow.P.domain.shape, dtype=F64)
    assert flow.J.T(q[0]).isfinite().all()
    told: dict[str, Callable[[], Any]] = {"one": lambda: op(q[0]), "chunks": lambda: op(q, chunk=CHUNK)}
    found = {name: raised(NonFiniteProductError, call) for name, call in told.items()}
    assert flow.Phi(q, chunk=CHUNK).isfinite().all()  # in step again
    return found


def test_what_overflows_on_one_rank_after_the_sum_is_refused_on_all() -> None:
    found = on_ranks(2, overflowing, COUNTS[2])
    assert found[0] == found[1]
    for text in found[0].values():
        assert text.startswith("rank 1: product of ")
        assert "trial 4" in text
