"""Functions run on several ranks of this machine, with what they return.

Importing torch costs seconds, so ranks are processes that live on: a pool of them serves a whole session, and
a call with fewer ranks than there are uses a group of the first ones. After a failure the pool is made anew,
as what a rank that stopped halfway has left in its groups is not known. Every wait has a bound.
"""

from __future__ import annotations

import atexit
import contextlib
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
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from kpframe.errors import ArgumentError, UnsupportedError, mismatch, say
from kpframe.testing._residual import CheckFailure

#: Seconds that a rank waits for the others, where nobody ends it before.
GLOO_TIMEOUT = timedelta(seconds=600)

#: Seconds that ranks may take for one call, and the others once one has failed: it may have left them in a
#: collective.
TIMEOUT, GRACE = 120, 10

#: Seconds in which ranks have to be there.
START = 120

#: What the process imports from which ranks are forked.
_PRELOADED = [
    *("torch.distributed", "kpframe.testing.identities.ranks"),
    "torch.fx.experimental.symbolic_shapes",  # with sympy, which a first gradient with cotangents imports
]

#: Module -> file, for modules that another process cannot import by their names.
Files = dict[str, str]


class RanksFailure(CheckFailure):
    """A rank raised an error that others did not, ended, or gave no answer in time.

    Attributes:
        texts: rank -> its traceback, or where it was.
    """

    def __init__(self, texts: dict[int, str]) -> None:
        self.texts = texts
        super().__init__("\n".join(f"rank {rank}:\n{text}" for rank, text in sorted(texts.items())))


def on_ranks(
    number: int,
    work: Callable[..., Any],
    *arguments: Any,
    timeout: int = TIMEOUT,
    grace: int | None = None,
    least: int = 1,
    last: bool = False,
    files: Files | None = None,
) -> list[Any]:
    """Return what ``work(group, *arguments)`` returns on each rank.

    Args:
        number: of ranks.
        work: a function of a module; it uses the group that it is given, never the default one.
        arguments: pickled.
        timeout: seconds in all, not counting those in which this process is stopped.
        grace: seconds that the others get when one rank has failed; ``GRACE`` when left out.
        least: ranks that the pool has to have at least.
        last: whether the pool ends with it, as after work that makes groups of its own, for which it needs
            all ranks of the pool.
        files: of modules that are not found by their names.

    Raises:
        ArgumentError: for what cannot be sent to other processes.
        RanksFailure: with the traceback of each rank on which it failed, and where the others were.
        UnsupportedError: where torch is built without gloo.
    """
    global _pool
    try:
        task = pickle.dumps((number, files or {}, pickle.dumps((work, arguments))))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        expected = "what other processes can import: a name, or a class or a function of a module"
        raise ArgumentError(mismatch("spec", expected, f"another thing ({say(error)})")) from error
    around = _surroundings()
    size = max(number, least)
    there = 0 if _pool is None or _pool.around != around else len(_pool.ranks)
    if there < size or (last and there > size):
        close()
        _pool = _Pool(size, around)
    try:
        assert _pool is not None
        found, failed = _pool.run(number, task, timeout, GRACE if grace is None else grace)
    except BaseException:  # interrupted: ranks are somewhere
        close()
        raise
    if failed or last:
        close()
    if failed:
        raise RanksFailure(failed)
    return [found[rank] for rank in range(number)]


def _surroundings() -> tuple[str, list[str], dict[str, str]]:
    """Return by what ranks find modules, plugins and files: folder, paths and variables."""
    plugins = {name: value for name, value in os.environ.items() if _of_plugins(name)}
    return os.getcwd(), list(sys.path), plugins


def _of_plugins(name: str) -> bool:
    return name.startswith("KPFRAME_") and name.endswith("PLUGINS")


class _Pool:
    """Processes of one gloo group, each of which waits for work."""

    def __init__(self, size: int, around: tuple[str, list[str], dict[str, str]]) -> None:
        from torch import distributed

        if not (distributed.is_available() and distributed.is_gloo_available()):
            raise UnsupportedError(
                "this torch is built without torch.distributed over gloo; install one with it"
            )
        self.around = around
        forks = "forkserver" in multiprocessing.get_all_start_methods()  # it imports torch once for all ranks
        context = multiprocessing.get_context("forkserver" if forks else "spawn")
        if forks:
            context.set_forkserver_preload(_PRELOADED)
        self.folder = tempfile.TemporaryDirectory()
        self.ranks: list[Any] = []
        self.ends: list[Connection] = []
        for rank in range(size):
            own, other = context.Pipe()
            given = (rank, size, self.folder.name, around, other)
            process = context.Process(target=_serve, args=given, daemon=True)  # type: ignore[attr-defined]
            process.start()
            other.close()
            self.ranks.append(process)
            self.ends.append(own)
        self.started = False

    def run(
        self, number: int, task: bytes, timeout: int, grace: int
    ) -> tuple[dict[int, Any], dict[int, str]]:
        """Return what ranks have returned, and the texts of those that did not."""
        found: dict[int, Any] = {}
        failed: dict[int, str] = {}
        waiting: dict[Any, int] = {self.ends[rank]: rank for rank in range(number)}
        for end in list(waiting):
            try:
                end.send_bytes(task)
            except OSError:
                failed[waiting.pop(end)] = "ended before it was given work"
        left = timeout if self.started else timeout + START
        if failed:
            left = min(left, grace)
        while waiting and left > 0:
            ready = wait(list(waiting), timeout=1)  # counted in waits: a stopped process does not wait
            left = left if ready else left - 1
            for end in ready:
                rank = waiting.pop(end)
                try:
                    text, value = pickle.loads(end.recv_bytes())  # type: ignore[union-attr]
                except (EOFError, OSError):
                    self.ranks[rank].join(5)
                    text, value = f"ended with exit code {self.ranks[rank].exitcode}", None
                if text:
                    failed[rank], left = text, min(left, grace)
                found[rank] = value
        self.started = True
        for rank in waiting.values():
            failed[rank] = f"still at work:\n{self._stack(rank)}"
        return found, failed

    def _stack(self, rank: int) -> str:
        process, file = self.ranks[rank], Path(self.folder.name) / f"stack{rank}"
        if process.pid is None or not file.exists() or not hasattr(signal, "SIGUSR1"):
            return "(where is not known)"
        os.kill(process.pid, signal.SIGUSR1)
        time.sleep(0.5)
        return file.read_text()

    def close(self) -> None:
        for end in self.ends:
            end.close()
        for process in self.ranks:
            process.kill()
            process.join()
        with contextlib.suppress(OSError):  # a file that a rank still holds, on some systems
            self.folder.cleanup()


_pool: _Pool | None = None


@atexit.register
def close() -> None:
    """End the ranks that there are."""
    global _pool
    if _pool is not None:
        pool, _pool = _pool, None
        pool.close()


def _serve(
    rank: int, size: int, folder: str, around: tuple[str, list[str], dict[str, str]], end: Connection
) -> None:
    """Do the work of one rank until the pool is closed."""
    from torch import distributed

    where, paths, variables = around
    os.chdir(where)
    sys.path[:] = paths
    for name in filter(_of_plugins, list(os.environ)):
        del os.environ[name]
    os.environ |= variables | {"OMP_NUM_THREADS": "1"}
    torch.set_num_threads(1)
    with open(f"{folder}/stack{rank}", "w") as stack:
        if hasattr(faulthandler, "register"):
            faulthandler.register(signal.SIGUSR1, stack, all_threads=False)
        distributed.init_process_group(
            "gloo",
            init_method=Path(folder, "rendezvous").as_uri(),
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
                answer = pickle.dumps(("", _done(task, groups)))  # tensors by value
            except BaseException:
                answer = pickle.dumps((traceback.format_exc(), None))
            end.send_bytes(answer)


def _done(task: bytes, groups: dict[int, Any]) -> Any:
    """Return what the work of a task returns."""
    number, files, rest = pickle.loads(task)
    for name, file in files.items():
        _find(name, file)
    work, arguments = pickle.loads(rest)
    return work(groups[number], *arguments)


def _find(name: str, file: str) -> None:
    """Import a module by its name, or else from its file, as pytest may have done."""
    try:
        import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # what it needs itself
        spec = spec_from_file_location(name, file)
        if spec is None or spec.loader is None:
            raise
        sys.modules[name] = module = module_from_spec(spec)
        spec.loader.exec_module(module)
