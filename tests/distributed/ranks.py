"""Functions run on several ranks of this machine, by the pool of the conformance kit."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from kpframe.testing._ranks import pool

ROOT = str(Path(__file__).parents[2])

#: Ranks of a pool at least: what the core tests need.
SIZE = 3


def on_ranks(
    number: int, work: Callable[..., Any], *arguments: Any, timeout: int = 120, last: bool = False
) -> list[Any]:
    """Return what ``work(group, *arguments)`` returns on each rank; see ``kpframe.testing._ranks.pool``."""
    if ROOT not in sys.path:  # ranks take it over, and import test modules by their names
        sys.path.append(ROOT)
    return pool.on_ranks(number, work, *arguments, timeout=timeout, least=SIZE, last=last)


def own_part(group: Any, tensor: torch.Tensor, counts: list[int]) -> torch.Tensor:
    """Return this rank's trials of a tensor whose first axis is the batch."""
    rank = distributed.get_rank(group)
    start = sum(counts[:rank])
    return tensor[start : start + counts[rank]]
