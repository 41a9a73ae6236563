"""Products of sharded operators against those of one process."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import kpframe
from kpframe.operators._shards import counted_traffic

from .ranks import on_ranks, own_part

COUNTS = {1: [5], 2: [4, 1], 3: [1, 2, 2]}


def network() -> tuple[kpframe.Model, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    cell = torch.nn.GRUCell(3, 7).double()
    x = torch.randn(5, 6, 3, dtype=torch.float64)
    q = torch.randn(2, 5, 6, 7, dtype=torch.float64)
    return kpframe.wrap(cell), x, q


def phi_products(group: Any, counts: list[int], keep: str = "all") -> tuple[Any, int, int, int]:
    model, x, q = network()
    flow = kpframe.linearize(model, own_part(group, x, counts), group=group, keep=keep)
    own = own_part(group, q.transpose(0, 1), counts).transpose(0, 1)
    with counted_traffic() as traffic:
        product = flow.Phi(own)
    mean = flow.Phi.mean("batch")(q.mean(1))
    return product.numpy(), mean.numpy(), traffic.collectives, traffic.bytes, flow.J.domain.size


@pytest.mark.parametrize(("ranks", "keep"), [*((ranks, "all") for ranks in COUNTS), (2, "sqrt")])
def test_phi_of_shards_is_that_of_one_process(ranks: int, keep: str) -> None:
    model, x, q = network()
    whole = kpframe.linearize(model, x).Phi
    parts = on_ranks(ranks, phi_products, COUNTS[ranks], keep)
    together = torch.cat([torch.from_numpy(part[0]) for part in parts], dim=1)
    torch.testing.assert_close(together, whole(q), rtol=1e-12, atol=1e-13)
    for _, mean, collectives, sent, parameters in parts:
        torch.testing.assert_close(
            torch.from_numpy(mean), whole.mean("batch")(q.mean(1)), rtol=1e-12, atol=1e-13
        )
        assert collectives == 2
        assert sent == 2 * 8 * parameters + 4  # two probes in float64, and whether they are finite
    alone = kpframe.linearize(model, x[: COUNTS[ranks][0]]).Phi(q[:, : COUNTS[ranks][0]])
    assert (ranks == 1) == torch.allclose(alone, torch.from_numpy(parts[0][0]), rtol=1e-6)
