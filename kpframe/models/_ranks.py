"""What the ranks of a group must agree on before their trials make one flow."""

from __future__ import annotations

from typing import Any

import torch

from kpframe.errors import RankError
from kpframe.models._model import Model
from kpframe.operators._shards import Shards


def shards_of(group: Any, model: Model, x: torch.Tensor) -> Shards:
    """Return who holds which trials of a batch whose own part is ``x`` ``[B, T, I]`` on this rank."""
    from torch import distributed

    if not distributed.is_initialized():
        raise RankError(
            "group: expected a group of torch.distributed under way, got none; start the program with "
            "torchrun --nproc-per-node N and call torch.distributed.init_process_group first"
        )
    counts = torch.zeros(distributed.get_world_size(group), dtype=torch.int64, device=x.device)
    rank = distributed.get_rank(group)
    counts[rank] = len(x)
    distributed.all_reduce(counts, group=group)
    return Shards(group, rank, tuple(counts.tolist()))
