"""Ranks of this machine, in processes of their own, for measurements; studies are started by torchrun."""

from __future__ import annotations

import os
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from queue import Empty
from typing import Any

import torch
from torch import distributed, multiprocessing

from kpframe.errors import RankError, UnsupportedError, say

#: How long a rank waits for the others in a collective.
TIMEOUT = timedelta(seconds=300)
#: Seconds between two looks at whether all ranks live.
EVERY = 1.0


@contextmanager
def one_rank() -> Iterator[Any]:
    """Yield a group of this process alone: what ranks communicate is counted as if there were others.

    Raises:
        UnsupportedError: where torch is built without gloo.
        RankError: in a process that is a rank of a job already.
    """
    if not (distributed.is_available() and distributed.is_gloo_available()):
        raise UnsupportedError("this torch is built without torch.distributed over gloo; install one with it")
    if distributed.is_initialized():
        raise RankError("expected a process of its own, got a rank of a job; start it without torchrun")
    store = distributed.HashStore()  # type: ignore[attr-defined]
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        yield distributed.group.WORLD
    finally:
        distributed.destroy_process_group()


def on_local_ranks(number: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Return what ``work(group, *arguments)`` returns on each of so many new ranks, of one thread each.

    Args:
        number: of ranks, over gloo.
        work: a function of a module; it and what it takes and gives are sent between processes.
        arguments: after the group.

    Raises:
        RankError: for a rank that fails or dies; the others are ended.
    """
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        results = context.Queue()
        rendezvous = f"file://{folder}/rendezvous"
        ranks = [
            context.Process(
                target=_run, args=(rank, number, rendezvous, results, work, arguments), daemon=True
            )
            for rank in range(number)
        ]
        try:
            for process in ranks:
                process.start()
            return _gathered(ranks, results)
        finally:
            for process in ranks:
                if process.is_alive():
                    process.terminate()
                process.join()


def _gathered(ranks: list[Any], results: Any) -> list[Any]:
    """Return what all ranks give; raise as soon as one fails or is gone."""
    found: dict[int, Any] = {}
    while len(found) < len(ranks):
        try:
            rank, failure, value = results.get(timeout=EVERY)
        except Empty:
            gone = [rank for rank, process in enumerate(ranks) if process.exitcode and rank not in found]
            if gone:
                raise RankError(f"rank {gone[0]} ended with exit code {ranks[gone[0]].exitcode}") from None
            continue
        if failure:
            raise RankError(f"rank {rank}: {failure}")
        found[rank] = value
    return [found[rank] for rank in range(len(ranks))]


def _run(rank: int, number: int, rendezvous: str, results: Any, work: Any, arguments: Any) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    try:
        distributed.init_process_group(
            "gloo", init_method=rendezvous, rank=rank, world_size=number, timeout=TIMEOUT
        )
        results.put((rank, "", work(distributed.group.WORLD, *arguments)))
    except BaseException as error:
        traceback.print_exc()
        results.put((rank, say(error), None))
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
