"""Random numbers by trial: the same for a trial whichever rank holds it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from attrs import frozen

from kpframe.operators._spaces import BATCH, Space

_MASK = 2**64 - 1


@frozen
class TrialSeeds:
    """A seed for each trial, ``seeds[index]`` by its global index, of one draw from a generator.

    Seeds of neighbouring trials are mixed (SplitMix64: Steele, Lea, Flood 2014, "Fast splittable pseudorandom
    number generators"), since generators seeded by neighbouring numbers begin alike.
    """

    base: int

    @classmethod
    def of(cls, generator: torch.Generator) -> TrialSeeds:
        """Return the seeds of a fresh draw: one number of the generator, whatever the number of trials."""
        drawn = torch.empty((), dtype=torch.int64, device=generator.device).random_(generator=generator)
        return cls(int(drawn))

    def __getitem__(self, index: int) -> int:
        mixed = (self.base + (index + 1) * 0x9E3779B97F4A7C15) & _MASK
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        return (mixed ^ (mixed >> 31)) >> 1  # torch takes seeds below 2**63 everywhere


def trial_generators(space: Space, generator: torch.Generator) -> Iterator[torch.Generator]:
    """Yield a generator for each trial of this rank, of a fresh draw from a generator.

    It depends on the trial's place among those of all ranks alone: what is drawn from it is the same however
    trials are sharded, and on one machine. One object is seeded anew for each trial, so draw before the next.

    Args:
        space: with an axis ``batch``.
        generator: advances by one number, whatever the number of trials; the same on all ranks.
    """
    seeds, axis = TrialSeeds.of(generator), space[BATCH]
    own = torch.Generator(generator.device)
    for index in range(axis.size) if axis.shards is None else axis.shards.own:
        yield own.manual_seed(seeds[index])
