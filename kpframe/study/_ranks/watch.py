"""A thread on each rank that looks after the others and the launcher, whatever the rank itself is doing.

A rank that computes hears nothing. So the thread tells the others that it lives, learns what has ended the
job, and ends this process where it cannot: no rank outlives its job.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from typing import Any

from kpframe.study._ranks.launcher import Launch, RanksLost

#: Seconds between two looks.
EVERY = 1.0
#: Looks between two signs of life, and signs that a rank may miss. Looks are counted, not seconds: where all
#: processes of a machine are stopped for a while, none is taken for dead.
BEAT, MISSED = 5, 9
#: Seconds that a rank has to end by itself.
GRACE = 25.0

LOST = "lost"


class Watch(threading.Thread):
    """Watches over the ranks of a job.

    Args:
        launch: this process's place.
        store: what the ranks share.

    Attributes:
        problem: why the job cannot go on; empty where it can.
    """

    def __init__(self, launch: Launch, store: Any) -> None:
        super().__init__(name="kpframe ranks", daemon=True)
        self.launch, self.store, self.problem = launch, store, ""
        self._parent, self._ended, self._known = os.getppid(), threading.Event(), threading.Event()
        self._heard: dict[int, tuple[bytes, int]] = {}

    def run(self) -> None:
        """Look around until ``end``."""
        looks = 0
        while not self._ended.wait(EVERY):
            if os.getppid() != self._parent:
                self._lose("the launcher has ended")
                return
            try:
                if self.store.check([LOST]):
                    self._lose(self.store.get(LOST).decode())
                    return
                if looks % BEAT == 0:
                    self.store.set(f"beat/{self.launch.rank}", str(looks))
                    self._listen()
            except Exception as error:
                self._lose(
                    f"what the ranks share is gone ({type(error).__name__}): the launcher or rank 0 ended"
                )
                return
            looks += 1

    def check(self) -> None:
        """Raise ``RanksLost`` where the job cannot go on."""
        if self.problem:
            raise RanksLost(self.problem)

    def wait(self) -> None:
        """Give whoever has ended the job the time to say why, and raise ``RanksLost`` with that."""
        self._known.wait(2 * EVERY)
        self.check()

    def lost(self, text: str) -> None:
        """Tell all ranks that the job cannot go on, the first to say so being heard."""
        with suppress(Exception):
            if not self.store.check([LOST]):
                self.store.set(LOST, text)

    def end(self) -> None:
        """Look no more."""
        self._ended.set()

    def _listen(self) -> None:
        """Find whom nothing was heard of; rank 0 listens to all, the others to it."""
        others = range(1, self.launch.ranks) if self.launch.rank == 0 else (0,)
        for rank in others:
            key = f"beat/{rank}"
            beat = self.store.get(key) if self.store.check([key]) else b""
            before, missed = self._heard.get(rank, (b"", 0))
            missed = 0 if beat != before else missed + 1
            self._heard[rank] = beat, missed
            if missed >= MISSED:
                self.lost(f"rank {rank}: nothing was heard of it for {MISSED * BEAT * EVERY:.0f} s")

    def _lose(self, text: str) -> None:
        """Let this process end: at its own next look, and where it comes to none by force."""
        self.problem = text
        self._known.set()
        if self.launch.rank == 0:  # it writes what the run goes on from
            os.kill(os.getpid(), signal.SIGTERM)
        if not self._ended.wait(GRACE if self.launch.rank == 0 else GRACE / 5):
            print(f"rank {self.launch.rank}: ended, as {text}", file=sys.stderr, flush=True)
            os._exit(2)
