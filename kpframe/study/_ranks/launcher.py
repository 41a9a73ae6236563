"""Whether a launcher started this process as one of several ranks, from its environment; imports no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import ClassVar

from attrs import frozen

from kpframe.errors import RankError, mismatch

#: What ``torchrun``, and whatever else starts ranks, tells each of them.
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


#: What files say of the ranks that they were made on.
PROVENANCE = ("ranks", "group_backend")


class RanksLost(BaseException):
    """The ranks cannot go on together; it ends the job, and no figure is recorded for it."""


@frozen
class Launch:
    """This process's place among the ranks of a job.

    Attributes:
        rank, ranks: which one it is, and how many there are.
        here: how many there are on this machine.
        address, port: where they meet.
    """

    rank: int
    ranks: int
    here: int
    address: str
    port: int

    #: That under which this process's ranks work together now; None for a process by itself.
    under_way: ClassVar[Launch | None] = None

    @property
    def command(self) -> str:
        """How ``kpframe`` is started on as many ranks."""
        nodes = f"--nnodes {self.ranks // self.here} " if self.here < self.ranks else ""
        more = " ..." if nodes else ""
        return f"torchrun {nodes}--nproc-per-node {self.here}{more} -m kpframe"


def launched(environment: Mapping[str, str] | None = None) -> Launch | None:
    """Return what a launcher has said; None where there was none, or one that started a single process.

    Raises:
        RankError: for an environment that says half of it, or what makes no sense.
    """
    known = os.environ if environment is None else environment
    if "RANK" not in known:
        return None
    if missing := [name for name in VARIABLES if not known.get(name)]:
        raise RankError(
            f"environment: expected {', '.join(VARIABLES)}, as a launcher sets them, got RANK without "
            f"{', '.join(missing)}; start the program with torchrun --nproc-per-node N -m kpframe ..., or "
            "unset RANK for one process"
        )
    rank, ranks, port = (_number(known, name) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
    if not 0 <= rank < ranks:
        raise RankError(mismatch("RANK", f"one of 0 to {ranks - 1}, as WORLD_SIZE is {ranks}", rank))
    if ranks == 1:
        return None
    here = _number(known, "LOCAL_WORLD_SIZE") if known.get("LOCAL_WORLD_SIZE") else ranks
    return Launch(rank, ranks, here, known["MASTER_ADDR"], port)


def kpframe_command() -> str:
    """Return how ``kpframe`` is started as it was here."""
    return "kpframe" if Launch.under_way is None else Launch.under_way.command


def provenance() -> dict[str, str]:
    """Return what files say of the ranks that they were made on; nothing for one process."""
    if Launch.under_way is None:
        return {}
    return dict(zip(PROVENANCE, (str(Launch.under_way.ranks), "gloo"), strict=True))


def _number(known: Mapping[str, str], name: str) -> int:
    try:
        return int(known[name])
    except ValueError as error:
        raise RankError(mismatch(name, "a whole number", repr(known[name]))) from error
