"""Functions run on several ranks of this machine, with what they return.

Importing torch costs seconds, so ranks are processes that live on: a pool of them serves a whole session, a
call with fewer ranks than there are uses a group of the first ones. After a failure the pool is made anew, as
what a rank that stopped halfway has left in its groups is not known.
"""

from __future__ import annotations

import atexit
import faulthandler
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from torch import distributed

ROOT = str(Path(__file__).parents[2])
GLOO_TIMEOUT = timedelta(seconds=600)

#: Ranks of a pool at least: what the core tests need.
SIZE = 3

#: Seconds that the others get when one rank has failed, as it may have left them in a collective.
GRACE = 10


def on_ranks(
    number: int, work: Callable[..., Any], *arguments: Any, timeout: int = 120, last: bool = False
) -> list[Any]:
    """Return what ``work(group, *arguments)`` returns on each rank.

    Args:
        number: of ranks.
        work: a function of a module; it uses the group that it is given, never the default one.
        arguments: pickled.
        timeout: seconds in all, not counting those in which this process is stopped.
        last: whether the pool ends with it, as after work that makes groups of its own, for which it needs
            all ranks of the pool (``SIZE``).

    Raises:
        AssertionError: with the traceback of each rank on which it failed, and where the others were.
    """
    global _pool
    if _pool is None or len(_pool.ranks) < number:
        _close()
        _pool = _Pool(max(number, SIZE))
    found, failed = _pool.run(number, pickle.dumps((number, work, arguments)), timeout)
    if failed or last:
        _close()
    if failed:
        raise AssertionError("\n".join(f"rank {rank}:\n{text}" for rank, text in sorted(failed.items())))
    return [found[rank] for rank in range(number)]


def own_part(group: Any, tensor: torch.Tensor, counts: list[int]) -> torch.Tensor:
    """Return this rank's trials of a tensor whose first axis is the batch."""
    rank = distributed.get_rank(group)
    start = sum(counts[:rank])
    return tensor[start : start + counts[rank]]


class _Pool:
    """Processes of one gloo group, each of which waits for work."""

    def __init__(self, size: int) -> None:
        if ROOT not in sys.path:  # processes take it over, and import test modules by their names
            sys.path.append(ROOT)
        context = multiprocessing.get_context("forkserver")  # it imports torch once, whatever number of ranks
        context.set_forkserver_preload(["torch.distributed", "kpframe.models"])
        self.folder = tempfile.TemporaryDirectory()
        self.ranks, self.ends = [], []
        for rank in range(size):
            own, other = context.Pipe()
            process = context.Process(target=_serve, args=(rank, size, self.folder.name, other), daemon=True)
            process.start()
            other.close()
            self.ranks.append(process)
            self.ends.append(own)

    def run(self, number: int, task: bytes, timeout: int) -> tuple[dict[int, Any], dict[int, str]]:
        """Return what ranks have returned, and the texts of those that did not."""
        found: dict[int, Any] = {}
        failed: dict[int, str] = {}
        waiting = {self.ends[rank]: rank for rank in range(number)}
        for end in list(waiting):
            try:
                end.send_bytes(task)
            except OSError:
                failed[waiting.pop(end)] = "ended before it was given work"
        left = timeout
        while waiting and left > 0:
            ready = wait(list(waiting), timeout=1)  # counted in waits: a stopped process does not wait
            left = left if ready else left - 1
            for end in ready:
                rank = waiting.pop(end)
                try:
                    text, value = pickle.loads(end.recv_bytes())
                except EOFError:
                    self.ranks[rank].join(5)
                    text, value = f"ended with exit code {self.ranks[rank].exitcode}", None
                if text:
                    failed[rank], left = text, min(left, GRACE)
                found[rank] = value
        for rank in waiting.values():
            failed[rank] = f"still at work:\n{self._stack(rank)}"
        return found, failed

    def _stack(self, rank: int) -> str:
        process, file = self.ranks[rank], Path(self.folder.name) / f"stack{rank}"
        if process.pid is None or not file.exists():
            return "(it has not started)"
        os.kill(process.pid, signal.SIGUSR1)
        time.sleep(0.5)
        return file.read_text()

    def close(self) -> None:
        for end in self.ends:
            end.close()
        for process in self.ranks:
            process.kill()
            process.join()
        self.folder.cleanup()


_pool: _Pool | None = None


@atexit.register
def _close() -> None:
    global _pool
    if _pool is not None:
        _pool.close()
        _pool = None


def _serve(rank: int, size: int, folder: str, end: Connection) -> None:
    """Do the work of one rank until the pool is closed."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    with open(f"{folder}/stack{rank}", "w") as stack:
        faulthandler.register(signal.SIGUSR1, stack, all_threads=False)
        distributed.init_process_group(
            "gloo",
            init_method=f"file://{folder}/rendezvous",
            rank=rank,
            world_size=size,
            timeout=GLOO_TIMEOUT,
        )
        groups = {number: distributed.new_group(list(range(number))) for number in range(1, size + 1)}
        while True:
            try:
                task = end.recv_bytes()
            except EOFError:
                return
            try:
                number, work, arguments = pickle.loads(task)
                answer = "", work(groups[number], *arguments)
            except BaseException:
                answer = traceback.format_exc(), None
            end.send_bytes(pickle.dumps(answer))  # tensors by value
