"""The ranks of a job: rank 0 calls a function, all of them run it, and rank 0 has what each returned.

Ranks wait for a call in the store that they share, which has no time limit as long as rank 0 lives, and meet
in collectives inside a call alone. When it has ended on all of them, well or not, each knows how, before
anything else is begun: a rank never takes another's product for the one that it waits for.
"""

from __future__ import annotations

import json
import os
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, ClassVar

from torch import distributed
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from kpframe.errors import RankError, mismatch, say, told
from kpframe.study._ranks.agreement import disagreements, facts
from kpframe.study._ranks.launcher import Launch, RanksLost
from kpframe.study._ranks.watch import Watch

#: Seconds in which all ranks must have come together.
START = 120
#: Seconds that a rank waits for the others in a collective; the variable gives other ones.
TIMEOUT, TIMEOUT_VARIABLE = 300, "KPFRAME_RANK_TIMEOUT"
#: Seconds that the others have to end a call when one has failed in it.
GRACE = 20.0
#: What other ranks read where rank 0 was interrupted.
INTERRUPTED = "rank 0 was interrupted"
#: Seconds of the longest pause between two looks for what others have written.
PAUSE = 0.05


class NotTogetherError(Exception):
    """A call failed on some rank, and all are ready for the next; says where and why."""


class Team:
    """The ranks of a job, of which this process is one.

    Args:
        launch: this process's place.
        store: what the ranks share.
        watch: looks after the others.
        world: the group of all ranks.

    Attributes:
        held: what ``held`` of other modules keeps between calls on this rank, by name.
        tell: called with a line for the reader, on rank 0.
    """

    #: That of this process where it is rank 0 of several.
    leading: ClassVar[Team | None] = None

    def __init__(self, launch: Launch, store: Any, watch: Watch, world: Any) -> None:
        self.launch, self.world, self.held = launch, world, dict[str, Any]()
        self.tell: Callable[[str], None] = lambda text: None
        self._store, self._watch, self._number = store, watch, 0
        self._told: set[str] = set()
        self._inside = False

    @property
    def problem(self) -> str:
        """Why the job cannot go on, as the watch has heard; empty where it can."""
        return self._watch.problem

    def note(self, text: str) -> None:
        """Tell the reader something, once."""
        if text not in self._told:
            self._told.add(text)
            self.tell(text)

    # -- calls -----------------------------------------------------------------------------------------------

    def call(self, work: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Return what ``work(team, *arguments)`` returns on each rank; for rank 0.

        Args:
            work: a function of a module.
            arguments: pickled.

        Raises:
            NotTogetherError: where it failed on a rank, or cannot be sent; all are ready for another call.
            RanksLost: where ranks are gone or cannot end it.
        """
        try:
            message = pickle.dumps((work, arguments))
        except Exception as error:
            raise NotTogetherError(f"it cannot be sent to other ranks ({told(error)})") from error
        self._number += 1
        self._store.set(f"call/{self._number}", "work")
        with self._collective():
            distributed.broadcast_object_list([message], 0, group=self.world)
        return self._done(lambda: (work, arguments))

    def serve(self) -> None:
        """Take part in the calls of rank 0 until it ends; for all others."""
        while True:
            self._number += 1
            key = f"call/{self._number}"
            self._wait([key])
            if self._store.get(key) == b"end":
                return
            box: list[Any] = [None]
            with self._collective():
                distributed.broadcast_object_list(box, 0, group=self.world)
            with suppress(NotTogetherError):
                self._done(lambda box=box: pickle.loads(box[0]))  # type: ignore[misc]

    def part(self) -> None:
        """Let the others end, and wait a little until they have: what they share may end with rank 0."""
        if self.launch.rank:
            self._store.set(f"bye/{self.launch.rank}", "")
            return
        if self._inside:  # it was broken off: the others are in a collective, and learn it from the store
            self._watch.lost(INTERRUPTED)
            return
        self._store.set(f"call/{self._number + 1}", "end")
        with suppress(Exception):
            self._wait([f"bye/{rank}" for rank in range(1, self.launch.ranks)], 10)

    def _done(self, unpacked: Callable[[], Any]) -> list[Any]:
        """Do a call, and return what all ranks return, on rank 0."""
        self._inside = True
        try:
            found = self._did(unpacked)
        except NotTogetherError:
            self._inside = False
            raise
        self._inside = False
        return found

    def _did(self, unpacked: Callable[[], Any]) -> list[Any]:
        with self._together("ready"):
            work, arguments = unpacked()
        with self._together("done"):
            value = work(self, *arguments)
        found: list[Any] | None = [None] * self.launch.ranks if self.launch.rank == 0 else None
        with self._collective():
            distributed.gather_object(value, found, 0, group=self.world)
        return found or []

    @contextmanager
    def _together(self, what: str) -> Iterator[None]:
        """Wait, at the end of what is done inside, until all ranks have ended it too."""
        said = "good"
        try:
            yield
        except Exception as error:
            gone = any(isinstance(one, RankError) for one in _chain(error))
            said = f"{'lost' if gone else 'failed'} {told(error)}"
        keys = [f"{what}/{self._number}/{rank}" for rank in range(self.launch.ranks)]
        self._store.set(keys[self.launch.rank], said)
        own = f"rank {self.launch.rank}: {said.partition(' ')[2]}"
        if said.startswith("lost"):
            self._watch.wait()
        if said.startswith("lost") or not self._wait(keys, float("inf") if said == "good" else GRACE):
            raise RanksLost(own)
        every = [self._store.get(key).decode() for key in keys]
        if self._number > 1:  # all ranks have left the call before
            self._store.delete_key(f"{what}/{self._number - 1}/{self.launch.rank}")
        texts = [f"rank {r}: {one.partition(' ')[2]}" for r, one in enumerate(every) if one != "good"]
        if any(one.startswith("lost") for one in every):
            raise RanksLost("; ".join(texts))
        if texts:
            raise NotTogetherError("; ".join(texts))

    @contextmanager
    def _collective(self) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, ValueError) as error:
            self._watch.wait()
            raise RanksLost(f"a rank is gone or too late ({say(error)})") from error

    def _wait(self, keys: list[str], seconds: float = float("inf")) -> bool:
        """Wait for keys of the store; return whether they came in so many seconds of looking for them."""
        pause, passed = 0.0005, 0.0
        while not self._store.check(keys):
            self._watch.check()
            if passed > seconds:
                return False
            time.sleep(pause)
            passed, pause = passed + pause, min(2 * pause, PAUSE)
        return True


def note(text: str) -> None:
    """Tell the reader something, once, where this process is rank 0 of several."""
    if Team.leading is not None:
        Team.leading.note(text)


@contextmanager
def joined(launch: Launch, arguments: Sequence[str]) -> Iterator[Team]:
    """Yield the team of a job, of ranks that agree on what they are to do.

    Args:
        launch: this process's place.
        arguments: of its command line.

    Raises:
        RankError: where ranks do not come together in time, or disagree; says which and in what.
    """
    store = _met(launch)
    _agree(launch, store, facts(arguments))
    try:
        distributed.init_process_group(
            "gloo",
            store=PrefixStore("group", store),
            rank=launch.rank,
            world_size=launch.ranks,
            timeout=timedelta(seconds=timeout()),
        )
    except (RuntimeError, ValueError) as error:
        raise RankError(f"the ranks could not be connected ({say(error)})") from error
    watch = Watch(launch, store)
    watch.start()
    Launch.under_way = launch
    team = Team(launch, store, watch, distributed.group.WORLD)
    try:
        if launch.rank == 0:
            Team.leading = team
        yield team
        team.part()
    except BaseException as error:
        text = str(error) if isinstance(error, RanksLost) else f"rank {launch.rank}: {told(error)}"
        watch.lost(text)
        raise
    finally:
        Team.leading = Launch.under_way = None
        watch.end()
        with suppress(Exception):
            distributed.destroy_process_group()


def timeout() -> float:
    """Return how many seconds a rank waits for the others in a collective."""
    text = os.environ.get(TIMEOUT_VARIABLE, str(TIMEOUT))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds < 1e8:
        raise RankError(mismatch(TIMEOUT_VARIABLE, "seconds, at least 1", repr(text)))
    return seconds


def _met(launch: Launch) -> Any:
    """Return what the ranks share, when they have come together."""
    where = f"{launch.address}:{launch.port}"
    try:
        store, _, _ = next(rendezvous("env://", launch.rank, launch.ranks, timeout=timedelta(seconds=START)))
        return PrefixStore("kpframe", store)
    except (RuntimeError, ValueError, OSError) as error:
        taken = "EADDRINUSE" in str(error) or "address already in use" in str(error).lower()
        why = (
            f"the port is in use by another program; give another one, as torchrun --master-port or "
            f"MASTER_PORT ({say(error)})"
            if taken
            else say(error)
        )
        raise RankError(f"rank {launch.rank} could not meet the others at {where}: {why}") from error


def _agree(launch: Launch, store: Any, own: dict[str, str]) -> None:
    """Raise ``RankError`` where the ranks disagree, on each of them."""
    keys = [f"facts/{rank}" for rank in range(launch.ranks)]
    store.set(keys[launch.rank], json.dumps(own))
    latest = time.monotonic() + START
    while not store.check(keys):
        if time.monotonic() > latest:
            missing = ", ".join(str(r) for r, key in enumerate(keys) if not store.check([key]))
            raise RankError(f"rank {missing} did not come within {START} s; {launch.ranks} were to start")
        time.sleep(PAUSE)
    if found := disagreements([json.loads(store.get(key)) for key in keys]):
        raise RankError("; ".join(found))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
