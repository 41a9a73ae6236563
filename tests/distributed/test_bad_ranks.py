"""Ranks on other devices, with other vectors or settings, without their group or gone: an error, and soon."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import distributed

import kpframe
from kpframe.errors import DeviceError, RankError
from kpframe.spectra import partial_trace, randomized_svd

from .agreement import raised
from .ranks import on_ranks, own_part
from .test_algebra import flows, network

F64 = torch.float64


def devices(group: Any, counts: list[int]) -> dict[str, str]:
    """Let rank 1 alone have what lies on another device; ``meta`` is one that every machine has."""
    model, x = network()
    odd = distributed.get_rank(group) == 1
    own = own_part(group, x, counts)
    elsewhere, h0 = copy.deepcopy(model).to("meta"), torch.zeros(len(own), 4, dtype=F64)
    mask = torch.ones(own.shape[:2], dtype=torch.bool)

    def there(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to("meta") if odd else tensor

    def linearized(theirs: kpframe.Model = model, *tensors: torch.Tensor) -> Any:
        return kpframe.linearize(theirs if odd else model, *tensors, group=group)

    found = {
        "x": raised(RankError, lambda: linearized(model, there(own))),
        "model": raised(RankError, lambda: linearized(elsewhere, own)),
        "all": raised(RankError, lambda: linearized(elsewhere, there(own))),
        "h0": raised(DeviceError, lambda: linearized(model, own, there(h0))),
        "mask": raised(DeviceError, lambda: linearized(model, own, h0, there(mask))),
    }
    with patch.object(distributed, "get_backend", lambda group: "cpu:gloo,cuda:nccl"):  # that takes both
        found["both backends"] = raised(RankError, lambda: linearized(elsewhere, there(own)))
    assert linearized(model, own).P.domain.shards.counts == tuple(counts)  # in step again
    return found


def test_a_rank_on_another_device_is_named_on_all() -> None:
    first, second = on_ranks(2, devices, [2, 3])
    assert first == second
    for name in ("x", "all"):
        assert first[name] == (
            "rank 1: x: expected tensors on cpu, as the group's backend is gloo, got some on meta"
        )
    assert first["model"].startswith("rank 1 has another value of device of the model: meta, not cpu; ")
    assert first["h0"].startswith("rank 1: h0: expected ")
    assert first["mask"].startswith("rank 1: mask: expected ")
    assert "meta" in first["h0"]
    assert "meta" in first["mask"]
    assert first["both backends"].startswith(
        "rank 1 has another value of device of x: meta, not cpu; has another value of device of the model: "
    )


def settings(group: Any, counts: list[int]) -> dict[str, str]:
    """Let rank 1 ask for more products than the others, in each estimate."""
    _, ours = flows(group, counts)
    odd = distributed.get_rank(group) == 1
    Phi, P, more = ours.Phi, ours.P, 4 if odd else 2
    asked: dict[str, Callable[[], object]] = {
        "trace": lambda: kpframe.trace(Phi, budget=2 * more),
        "trace, method": lambda: kpframe.trace(Phi, budget=8, method="hutchinson" if odd else "auto"),
        "norm": lambda: kpframe.frobenius_norm(P, budget=2 * more),
        "rank": lambda: kpframe.effective_rank(Phi, budget=2 * more),
        "alignment": lambda: kpframe.alignment(Phi, ours.K, budget=2 * more),
        "partial trace": lambda: partial_trace(Phi, "batch", budget=2 * more),
        "pairs": lambda: kpframe.eigsh(Phi, k=more, budget=60),
        "triplets": lambda: kpframe.svd(P, k=more),
        "randomised": lambda: randomized_svd(P, k=more),
        "density": lambda: kpframe.spectral_density(ours.K, budget=10 * more),
        "exponents": lambda: kpframe.lyapunov_exponents(ours.A, k=more),
    }
    return {name: raised(RankError, call) for name, call in asked.items()}


def test_ranks_that_ask_for_other_numbers_of_products_are_told_before_the_first() -> None:
    first, second = on_ranks(2, settings, [2, 3])
    assert first == second
    assert first.pop("trace, method") == (
        "method: expected the same on all ranks, got 'auto' on rank 0; 'hutchinson' on rank 1"
    )
    told = {"budget": (4, 8), "density": (20, 40), "k": (2, 4)}
    for name, text in first.items():
        what, _, rest = text.partition(": ")
        few, many = told["density" if name == "density" else what]
        assert rest == f"expected the same on all ranks, got {few} on rank 0; {many} on rank 1", name


def destroyed(group: Any, counts: list[int]) -> dict[str, str]:
    own = distributed.new_group([0, 1, 2])
    _, ours = flows(own, counts)
    mean = ours.Phi.mean("batch")
    q = torch.ones(ours.P.domain.shape, dtype=F64)
    ours.Phi(q)
    distributed.barrier(group=group)
    distributed.destroy_process_group(own)
    generator = torch.Generator().manual_seed(1)
    return {
        "Phi": raised(RankError, lambda: ours.Phi(q)),
        "P": raised(RankError, lambda: ours.P(q)),
        "J*": raised(RankError, lambda: ours.J.T(q)),
        "mean": raised(RankError, lambda: mean(torch.ones(mean.domain.shape, dtype=F64))),
        "trace": raised(RankError, lambda: kpframe.trace(ours.Phi, budget=4, generator=generator)),
        "selection": raised(RankError, lambda: ours.Phi.select(batch=[0])),
    }


def test_a_flow_whose_group_was_destroyed_says_so() -> None:
    for found in on_ranks(3, destroyed, [2, 2, 1], last=True):
        for name, text in found.items():
            assert "the group was destroyed" in text, (name, text)


def gone(group: Any, counts: list[int], how: str) -> None:
    """Let rank 1 go, or ask for more vectors; what a product gives would be wrong."""
    _, ours = flows(group, counts)
    odd = distributed.get_rank(group) == 1
    ours.Phi(torch.ones(ours.P.domain.shape, dtype=F64))  # connected
    if odd and how == "gone":
        os._exit(3)
    q = torch.ones(3 if odd else 2, *ours.P.domain.shape, dtype=F64)
    ours.Phi(q)
    raise AssertionError("a product came out")


@pytest.mark.parametrize("how", [pytest.param("gone", marks=pytest.mark.slow), "vectors"])
def test_other_ranks_end_soon_and_no_wrong_product_comes_out(how: str) -> None:
    with pytest.raises(AssertionError) as caught:
        on_ranks(2, gone, [2, 3], how, timeout=60)
    text = str(caught.value)
    assert "a product came out" not in text
    assert "still at work" not in text
    ended = re.findall(r"ended with exit code -?\d+", text)
    errors = re.findall(r"RankError: all-reduce over .*: a rank is gone", text)
    if how == "gone":
        assert ended == ["ended with exit code 3"]
        assert len(errors) == 1
    else:
        assert len(ended) + len(errors) == 2
        assert ended or errors
