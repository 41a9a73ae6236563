"""Functions run on several ranks of this machine, in processes of their own, with what they return."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing

ROOT = str(Path(__file__).parents[2])
TIMEOUT = timedelta(seconds=300)


def on_ranks(number: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Return what ``work(group, *arguments)`` returns on each rank; ``work`` is a function of a module.

    Raises:
        AssertionError: with the traceback of each rank on which it failed.
    """
    if ROOT not in sys.path:  # processes take it over, and import this module by its name
        sys.path.append(ROOT)
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        rendezvous = f"file://{folder}/rendezvous"
        results = context.SimpleQueue()
        ranks = [
            context.Process(target=_run, args=(rank, number, rendezvous, results, work, arguments))
            for rank in range(number)
        ]
        for process in ranks:
            process.start()
        found = dict(results.get() for _ in ranks)
        for process in ranks:
            process.join()
    failed = [f"rank {rank}:\n{text}" for rank, (text, _) in sorted(found.items()) if text]
    assert not failed, "\n".join(failed)
    return [value for _, (_, value) in sorted(found.items())]


def _run(rank, number, rendezvous, results, work, arguments) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    try:
        distributed.init_process_group(
            "gloo", init_method=rendezvous, rank=rank, world_size=number, timeout=TIMEOUT
        )
        value = work(distributed.group.WORLD, *arguments)
        if isinstance(value, torch.Tensor):
            value = value.numpy()  # by value, not by a file handle that ends with this process
        results.put((rank, ("", value)))
    except BaseException:
        results.put((rank, (traceback.format_exc(), None)))
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


def own_part(group: Any, tensor: torch.Tensor, counts: list[int]) -> torch.Tensor:
    """Return this rank's trials of a tensor whose first axis is the batch."""
    rank = distributed.get_rank(group)
    start = sum(counts[:rank])
    return tensor[start : start + counts[rank]]
