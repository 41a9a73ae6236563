"""Which parameters act on which units of the state, found by products with J* where no structure tells.

Every unit has a number, written in bits. For each bit two vectors are sent back: random entries on the units
that have the bit and zeros elsewhere, and the other way round. A parameter that both reach acts on units of
either kind, and the bit tells no blocks apart. If no parameter is reached by both, units that differ in the
bit share no parameter, and ``K = J J*`` has no entry between them: ``K[i, j] = Sum_m J[i, m] J[j, m]``.

What is reached is told from exact zeros. A derivative that is there is missed only where its products with
independent normal numbers add up to exactly zero, or are all too small to be held.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from attrs import frozen

from kpframe.operators._base import Operator
from kpframe.operators._draws import trial_generators
from kpframe.operators._spaces import HIDDEN, PARAMETER, Part


@frozen(eq=False)
class UnitProbes:
    """Which parameters are reached from both halves of the units, for each bit of their numbers.

    Attributes:
        bits: bool ``[n, H]``, those of the number of each entry's unit.
        shared: bool ``[n, parts]``, whether a part has an entry that acts on units with the bit and without.
        parts: the parameters.
        single: whether there is one unit.
    """

    bits: torch.Tensor
    shared: torch.Tensor
    parts: tuple[Part, ...]
    single: bool

    @classmethod
    def of(cls, J: Operator) -> UnitProbes:
        """Return the probes of a parameter Jacobian, from two products with J* for each bit."""
        shape, device = J.codomain.shape, J.device
        widths = [part.size for part in J.codomain[HIDDEN].parts] or [shape[-1]]
        bits = _bits(widths).to(device)
        z = torch.empty(shape, dtype=torch.float64, device="cpu")
        for trial, own in zip(z, trial_generators(J.codomain, torch.Generator().manual_seed(0)), strict=True):
            trial.normal_(generator=own)
        z = z.to(device, J.dtype)
        parts = J.domain[PARAMETER].parts
        shared = torch.zeros(len(bits), len(parts), dtype=torch.bool, device="cpu")
        for own, bit in zip(shared, bits, strict=True):
            both = (J.T(torch.stack([z * ~bit, z * bit]), check=False) != 0).all(dim=0)
            for place, part in enumerate(parts):
                own[place] = both[part.slice].any()
        return cls(bits, shared.to(device), parts, set(widths) == {1})

    def labels(self, names: Iterable[str]) -> torch.Tensor | None:  # [H], int64
        """Return the block of each entry, for named parameters alone.

        None where there is but one block of several units, and where no parameter is named.
        """
        chosen = set(names)
        asked = [place for place, part in enumerate(self.parts) if chosen.intersection(part.names)]
        if not asked:
            return None
        if self.single:
            return self.bits.new_zeros(self.bits.shape[1], dtype=torch.int64)
        apart = ~self.shared[:, asked].any(dim=1)
        if not bool(apart.any()):
            return None
        places = 2 ** torch.arange(int(apart.sum()), device=apart.device)
        labels: torch.Tensor = torch.unique(places @ self.bits[apart].long(), return_inverse=True)[1]
        return labels if int(labels.max()) > 0 else None


def _bits(widths: list[int]) -> torch.Tensor:  # [n, H], bool
    """Return the bits of each entry's place in its component, and where widths are equal, of the component.

    Where they differ, all entries are counted through.
    """
    width, count = (widths[0], len(widths)) if len(set(widths)) == 1 else (sum(widths), 1)
    numbers = (
        torch.arange(width, device="cpu").repeat(count),
        torch.arange(count, device="cpu").repeat_interleave(width),
    )
    rows = [
        (number >> bit) & 1
        for number, size in zip(numbers, (width, count), strict=True)
        for bit in range((size - 1).bit_length())
    ]
    return torch.stack(rows).bool() if rows else torch.zeros(0, width * count, dtype=torch.bool, device="cpu")
