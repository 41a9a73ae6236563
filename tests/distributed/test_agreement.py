"""What ranks must agree on before their trials make one flow: the same error on all, that says which rank."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import distributed

import kpframe
from kpframe.errors import ArgumentError, NonFiniteError, RankError, ShapeError
from kpframe.operators._shards import counted_traffic, digest_of

from .agreement import raised
from .ranks import on_ranks, own_part
from .test_algebra import network


def disagreements(group: Any, counts: list[int]) -> dict[str, str]:
    model, x = network()
    odd = distributed.get_rank(group) == 1
    own = own_part(group, x, counts)
    other = copy.deepcopy(model)
    with torch.no_grad():
        next(iter(other.trainable().values()))[0] += 1e-7
    frozen = copy.deepcopy(model)
    frozen.requires_grad_(False)
    wider = kpframe.wrap(torch.nn.GRUCell(3, 5).double())
    bad = own.clone()
    bad[0, 2, 1] = torch.nan

    def error(kind: type[Exception], *theirs: Any, **named: Any) -> str:
        """Return what all ranks raise where rank 1 alone gives these arguments."""
        arguments = theirs if odd else (model, own)
        return raised(kind, lambda: kpframe.linearize(*arguments, **(named if odd else {}), group=group))

    h0 = torch.zeros(len(own), 4, dtype=torch.float64)
    found = {
        "weights": error(RankError, other, own),
        "frozen": error(RankError, frozen, own),
        "model": error(RankError, wider, own),
        "dtype": error(RankError, copy.deepcopy(model).float(), own.float()),
        "steps": error(RankError, model, own[:, :5]),
        "inputs": error(RankError, model, own[..., :2]),
        "h0": error(RankError, model, own, h0),
        "method": error(RankError, model, own, method="dense"),
        "empty": error(RankError, model, own[:0]),
        "no tensor": error(ShapeError, model, own.numpy()),
        "nan": error(NonFiniteError, model, bad),
        "memory": error(RankError, model, own, propagator="stepwise"),
    }
    assert kpframe.linearize(model, own, group=group).P.domain.shards.counts == tuple(counts)
    with counted_traffic() as traffic:
        kpframe.linearize(model, own, group=group)
    assert traffic.collectives <= 6
    assert traffic.bytes < 100
    return found


def groups(group: Any) -> dict[str, str]:
    """Make groups on all ranks of the pool, as ``new_group`` asks for."""
    model, x = network()
    first = distributed.new_group([0])
    gone = distributed.new_group([0, 1, 2])
    distributed.barrier(group=group)  # all are connected
    distributed.destroy_process_group(gone)
    found = {
        "gone": raised(RankError, lambda: kpframe.linearize(model, x, group=gone)),
        "no group": raised(ArgumentError, lambda: kpframe.linearize(model, x, group="gloo")),
    }
    if distributed.get_rank(group) == 1:
        found["not in"] = raised(RankError, lambda: kpframe.linearize(model, x, group=first))
    else:
        found["not in"] = ""
    return found


def test_ranks_that_disagree_all_say_which_one_and_in_what() -> None:
    first, second, third = on_ranks(3, disagreements, [2, 2, 1])
    assert first == second == third
    assert first["weights"].startswith("rank 1 has other weights: parameter ")
    assert "weight_ih" in first["weights"]
    assert first["weights"].endswith("All ranks must call linearize alike")
    assert first["frozen"].startswith("rank 1 has other weights: parameter ")
    assert "rank 1 has other weights: parameter" in first["model"]
    assert "float32" in first["dtype"]
    assert first["steps"].startswith("rank 1 has another value of steps of x: 5, not 6.")
    assert first["inputs"].startswith("rank 1 has another value of inputs of x: 2, not 3.")
    assert first["h0"].startswith("rank 1 has another value of h0 given: True, not False.")
    assert first["method"].startswith("rank 1 has another value of method: 'dense', not 'auto'.")
    assert first["empty"].startswith("rank 1: x: expected a trial at least on each rank, got shape [0, 6, 3]")
    assert first["no tensor"] == "rank 1: x: expected shape [batch, time, input], got ndarray"
    assert first["nan"].startswith("rank 1: x: expected finite numbers, got nan")
    assert "another value of propagator: 'stepwise', not 'auto'" in first["memory"]


def test_groups_that_are_of_no_use_are_named() -> None:
    first, second, third = on_ranks(3, groups, last=True)
    for found in (first, second, third):
        assert "it was destroyed" in found["gone"]
        assert found["no group"].startswith(
            "group: expected a process group of torch.distributed, got 'gloo'"
        )
    assert "one that rank 1 is not in" in second["not in"]


def test_weights_are_told_apart_by_their_bits_however_they_lie_in_memory() -> None:
    both = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    one = both[:, 0]  # of one entry, in steps of two
    assert digest_of(one) == digest_of(one.clone()) != digest_of(both[:, 1])
    assert digest_of(both.expand(3, 2)) == digest_of(both.repeat(3, 1)) != digest_of(both)
    turned = torch.complex(both, both).conj()
    assert digest_of(turned) == digest_of(turned.resolve_conj()) != digest_of(turned.conj())


def test_without_a_launcher_the_message_says_how_to_start() -> None:
    model, x = network()
    with pytest.raises(RankError, match=r"torchrun --nproc-per-node N and call .*init_process_group first"):
        kpframe.linearize(model, x, group=object())
