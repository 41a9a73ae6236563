"""How long a piece of work takes on so many ranks, and how many of them still help."""

from __future__ import annotations

from attrs import evolve, frozen

from kpframe.study._scaling.machine import Machine


@frozen
class Line:
    """Something that grows with trials: ``fixed + each * trials``."""

    fixed: float
    each: float

    def at(self, trials: float) -> float:
        """Return its value for so many trials."""
        return self.fixed + self.each * trials

    @classmethod
    def through(cls, few: tuple[int, float], many: tuple[int, float]) -> Line:
        """Return the line through two points, ``(trials, value)``, of which neither part is below zero."""
        if many[0] == few[0]:
            return cls(0.0, many[1] / many[0])
        each = max(0.0, (many[1] - few[1]) / (many[0] - few[0]))
        each = min(each, many[1] / many[0])
        return cls(many[1] - each * many[0], each)


@frozen
class OnRanks:
    """What a piece of work takes on each of so many ranks.

    Attributes:
        ranks: how many.
        trials: of the rank that has most.
        computing, communicating: time [s].
        memory_bytes: resident memory at most; None where it is not known.
        efficiency: time on one rank over that on all of them together.
    """

    ranks: int
    trials: int
    computing: float
    communicating: float
    memory_bytes: float | None
    efficiency: float

    @property
    def seconds(self) -> float:
        """Time in all [s]."""
        return self.computing + self.communicating


@frozen
class Work:
    """A piece of work whose trials are shared among ranks: a record, or a product.

    Attributes:
        trials: of all ranks.
        alone: time of one process that has all trials, and no ranks [s].
        alone_bytes: its resident memory; None where it is not known.
        computing: time by the trials of a rank [s].
        memory: resident memory by the trials of a rank [bytes]; None where it is not known.
        collectives, sent_bytes: all-reduces, and the bytes of their tensors, the same on each rank.
        broadcast_bytes: what rank 0 sends to all others.
    """

    trials: int
    alone: float
    alone_bytes: float | None
    computing: Line
    memory: Line | None
    collectives: int
    sent_bytes: int
    broadcast_bytes: int = 0

    def on(self, ranks: int, machine: Machine) -> OnRanks:
        """Return what it takes on so many ranks; one is a process by itself, which does not communicate."""
        share = -(-self.trials // ranks)
        if ranks == 1:
            return OnRanks(1, share, self.alone, 0.0, self.alone_bytes, 1.0)
        computing = self.computing.at(share)
        communicating = self.communicating(ranks, machine)
        memory = None if self.memory is None else self.memory.at(share)
        efficiency = self.alone / (ranks * (computing + communicating))
        return OnRanks(ranks, share, computing, communicating, memory, efficiency)

    def communicating(self, ranks: int, machine: Machine) -> float:
        """Return how long so many ranks communicate [s]."""
        sent = machine.all_reduce_seconds(self.collectives, self.sent_bytes, ranks)
        return sent + machine.broadcast_seconds(self.broadcast_bytes, ranks)

    def faster(self, speed: float) -> Work:
        """Return it where computing goes so many times as fast."""
        line = Line(self.computing.fixed / speed, self.computing.each / speed)
        return evolve(self, alone=self.alone / speed, computing=line)

    def stops_at(self, machine: Machine) -> int | None:
        """Return from how many ranks on communicating takes as long as computing; None up to one a trial."""

        def stopped(ranks: int) -> bool:
            return self.communicating(ranks, machine) >= self.computing.at(-(-self.trials // ranks))

        if self.trials < 2 or not stopped(self.trials):
            return None
        low, high = 1, self.trials  # never at low, always at high: one falls, the other grows
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if stopped(middle) else (middle, high)
        return high


def table_of(ranks: int) -> tuple[int, ...]:
    """Return 1, 2, 4 ... up to a number of ranks, and the number itself."""
    return tuple(sorted({ranks, *(2**power for power in range(ranks.bit_length()))}))
