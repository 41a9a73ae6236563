"""Reductions of sharded operators: over the batch with all ranks' trials, over other axes as they are."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kpframe.errors import ArgumentError, RankError, ShapeError, UnsupportedError
from kpframe.operators import create_reducer

from .agreement import COUNTS, assert_same, own, raised
from .ranks import on_ranks, own_part
from .test_algebra import flows

F64 = torch.float64

#: Reductions by what they are called, of a flow's operators; ``trials`` is this rank's part of a tensor.
REDUCED = {
    "mean over batch": lambda op, part: op.mean("batch"),
    "mean over time": lambda op, part: op.mean("time"),
    "mean over all": lambda op, part: op.mean("batch", "hidden"),
    "mean of means": lambda op, part: op.mean("time").mean("batch"),
    "sum": lambda op, part: op.sum("batch", "time"),
    "bin of time": lambda op, part: op.bin(time=4),
    "bin of batch": lambda op, part: op.bin(batch=2),
    "project": lambda op, part: op.project(torch.eye(4, dtype=F64)[:2] + 0.1),
    "project batch": lambda op, part: op.project(
        torch.tensor([[1.0, 2, 0, -1, 3], [0.5, 0, 1, 1, -2]], dtype=F64), "batch", "contrast"
    ),
    "one trial": lambda op, part: op.select(batch=3),
    "the last trial": lambda op, part: op.select(batch=-1),
    "a list": lambda op, part: op.select(batch=[0, 2, 4]),
    "a slice": lambda op, part: op.select(batch=slice(1, None, 2)),
    "a mask": lambda op, part: op.select(batch=torch.tensor([True, False, False, False, True])),
    "a list of one": lambda op, part: op.select(batch=[-1]),
    "selected twice": lambda op, part: op.select(batch=[1, 4], time=slice(2, 5)).select(batch=1, time=0),
    "selected, averaged": lambda op, part: op.select(batch=[4]).mean("batch"),
    "weighted selection": lambda op, part: 2.0 * op.select(batch=[0, 4]).select(hidden=[1, 2]),
    "last valid": lambda op, part: op.last_valid(part(torch.arange(6) <= torch.arange(1, 6).unsqueeze(1))),
    "of a reducer": lambda op, part: create_reducer("mean", axes=["batch", "time"])(op),
}
#: Those that need an axis on both sides.
CONTRACTED = {
    "trace over batch": lambda op: op.partial_trace("batch"),
    "trace over time": lambda op: op.partial_trace("time"),
    "trace over batch and hidden": lambda op: op.partial_trace("hidden", "batch"),
    "trace over all": lambda op: op.partial_trace("batch", "time", "hidden"),
    "blocks of batch": lambda op: op.block_diagonal("batch"),
    "blocks of time": lambda op: op.block_diagonal("time"),
    "blocks of batch and time": lambda op: op.block_diagonal("time", "batch"),
    "trace of a selection": lambda op: op.select(batch=[1, 4]).partial_trace("batch"),
    "trace of a mean": lambda op: op.mean("time").partial_trace("batch"),
}


def reduced(group: Any, counts: list[int], every: bool) -> None:
    """Compare each reduction of an operator, in turn, or of every one."""
    plain, ours = flows(group, counts)

    def part(values: torch.Tensor) -> torch.Tensor:
        return own_part(group, values, counts)

    for place, (name, make) in enumerate(REDUCED.items()):
        for op in ("Phi", "P", "J") if every else (("Phi", "P", "J")[place % 3],):
            if op == "J" and name == "selected twice":
                continue
            small, whole = make(getattr(ours, op), part), make(getattr(plain, op), lambda t: t)
            assert_same(small, whole)
            assert small.tags == whole.tags, name
            if "batch" not in small.codomain:
                assert small.codomain.shards is None
    for place, make in enumerate(CONTRACTED.values()):
        for op in ("Phi", "P") if every else (("Phi", "P")[place % 2],):
            assert_same(make(getattr(ours, op)), make(getattr(plain, op)), tol=1e-11)
    cross = ours.P @ ours.J @ ours.J.T
    assert_same(cross.mean("batch"), (plain.P @ plain.J @ plain.J.T).mean("batch"))
    chosen = ours.Phi.select(batch=[4])  # all but the last rank have none of it
    assert chosen.domain["batch"].size == (1 if ours.P.domain.shards.own[-1] == 4 else 0)


def chosen(group: Any, counts: list[int]) -> dict[str, str]:
    _, ours = flows(group, counts)
    rank = ours.P.domain.shards.rank
    empty = torch.zeros(len(ours.P.domain.shards.own), 6, dtype=torch.bool)
    empty[:, 0] = rank == 0
    return {
        "order": raised(ArgumentError, lambda: ours.Phi.select(batch=[4, 0])),
        "reversed": raised(ArgumentError, lambda: ours.Phi.select(batch=slice(None, None, -1))),
        "beyond": raised(ArgumentError, lambda: ours.Phi.select(batch=5)),
        "mask": raised(ShapeError, lambda: ours.Phi.select(batch=torch.ones(4, dtype=torch.bool))),
        "none": raised(ArgumentError, lambda: ours.Phi.select(batch=[])),
        "disagree": raised(RankError, lambda: ours.Phi.select(batch=rank)),
        "directions": raised(
            RankError, lambda: ours.Phi.project(torch.ones(1, 5, dtype=F64) * rank, "batch", "k")
        ),
        "last": raised(ArgumentError, lambda: ours.Phi.last_valid(empty)),
        "kept order": str(ours.Phi.select(batch=[1, 0, 4]).domain["batch"]),
        "trace": raised(UnsupportedError, lambda: ours.Phi.select(batch=[0, 4]).to_dense()),
    }


@pytest.mark.parametrize(
    ("ranks", "every"), [(2, False), *(pytest.param(n, True, marks=pytest.mark.slow) for n in (1, 2, 3))]
)
def test_reductions_are_those_of_one_process(ranks: int, every: bool) -> None:
    on_ranks(ranks, reduced, COUNTS[ranks], every)


def test_selections_that_cannot_be_kept_are_refused() -> None:
    first, second = on_ranks(2, chosen, COUNTS[2])
    assert first.keys() == second.keys()
    assert "an order in which trials stay on their ranks" in first["order"]
    assert "got [4, 0] of shares [4, 1]" in first["order"]
    assert "an order in which" in first["reversed"]
    assert "an index in [-5, 4]" in first["beyond"]
    assert "a mask of shape [5]" in first["mask"]
    assert (
        "select(batch=...): expected the same on all ranks, got [0] on rank 0; [1] on rank 1"
        in (first["disagree"])
    )
    assert first["directions"].startswith("directions: expected the same on all ranks")
    assert (
        first["last"]
        == second["last"]
        == ("rank 1: mask: expected at least one valid step in each trial, got none in trial 4")
    )
    assert (first["kept order"], second["kept order"]) == (
        "batch=2 of 3 on 2 ranks",
        "batch=1 of 3 on 2 ranks",
    )


def permuted(group: Any, counts: list[int]) -> None:
    """A selection in another order within one rank's trials keeps that order."""
    plain, ours = flows(group, counts)
    assert_same(ours.Phi.select(batch=[1, 0, 4]), plain.Phi.select(batch=[1, 0, 4]))
    kept = own(ours.P.domain, torch.arange(5.0).reshape(5, 1, 1).expand(5, 6, 4).to(F64))
    picked = ours.P.select(batch=[2, 1, 4]).left(kept)[:, 0, 0].tolist()
    assert picked == ([2.0, 1.0] if ours.P.domain.shards.rank == 0 else [4.0])


def test_a_list_keeps_its_order() -> None:
    on_ranks(2, permuted, COUNTS[2])
