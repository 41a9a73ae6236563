"""The alignment of ``X X*`` and ``Y Y*`` from products with X* and Y* alone, half the work of both operators.

For independent z, z' of independent entries of mean 0 and variance 1, and any operators A and B,

    ``E (z* A z') (z* B z') = Sum_ij A_ij B_ij = <A, B>_F,``

and ``z* X X* z' = <X* z, X* z'>``. So with two Gram matrices, of the vectors X* z and of Y* z with the same
probes z, products of entries have the mean <A, B>_F over pairs of probes, and squares have |A|_F^2 and
|B|_F^2: the alignment is the cosine of the angle between the Gram matrices off their diagonals (for norms:
arXiv 2511.10796). X and Y need no space in common but that of z. Trials apart, means over pairs and errors
are as in ``one_sided``. As the pairs are the same above and below the bar, much of their noise cancels.

**Where it is worth it.** Sketches of N products, N/2 probes of each operator, find the leading directions;
once they have most of them, nothing is better. Measured over pairs of K and Phi, at two steps and with each
other, with ranks of 4 to 26 and 2 to 24 trials, one-sided errors at the same products are smaller as long as
``N <= 3 sqrt(r_A r_B)``, with the participation ranks r, by a factor of 1 to 4. With an operator without
entries between trials, as P P* has none, they may be larger, as only pairs within trials tell of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from attrs import evolve

from kpframe.operators import Operator
from kpframe.spectra._estimate import Estimate
from kpframe.spectra._numerics.one_sided import (
    NAME,
    OneSided,
    PairMoments,
    VectorMoments,
    mean_over_pairs,
    outer_factor,
    within,
)
from kpframe.spectra._numerics.probes import random_rows
from kpframe.spectra._numerics.statistics import SmoothFunction

#: Most products for the root of the product of the ranks; see the module's description.
WORTH = 3.0


class OneSidedPair:
    """Vectors ``X* z`` and ``Y* z`` of two operators, from the same probes.

    Args:
        a: the operator X X*.
        b: the operator Y Y*, on the same space.
        factors: of X, and of Y, from ``outer_factor``.
        generator: the source of the probes.
    """

    def __init__(
        self,
        a: Operator,
        b: Operator,
        factors: tuple[list[Operator], list[Operator]],
        generator: torch.Generator,
    ) -> None:
        self._op, self._generator = a, generator
        self._sides = [OneSided(op, own, generator) for op, own in zip((a, b), factors, strict=True)]
        self._lost = self._known = 0
        self._rank = math.inf

    @property
    def count(self) -> int:
        """How many products with the operators the vectors took: two with X* or Y* are one."""
        return self._lost + sum(side.count for side in self._sides)

    @property
    def first(self) -> int:
        """How many probes make the first estimate."""
        return max(side.first for side in self._sides)

    @property
    def most(self) -> int:
        """How many probes there may be."""
        worth = self._sides[0].most if self._rank == math.inf else int(WORTH * self._rank)
        return min(worth, *(side.most for side in self._sides))

    @property
    def worth(self) -> bool:
        """Whether it takes no more products than pay; see the module's description."""
        return self._known <= WORTH * self._rank and not any(side.block_diagonal for side in self._sides)

    def moments(self, num: int) -> CosineMoments:
        """Return the moments from ``num`` probes, at least 3."""
        if num > self._known:
            probes = random_rows(self._op, num - self._known, self._generator, "rademacher")
            for side in self._sides:
                side.take(probes)
            if len({side.gram.shape for side in self._sides}) > 1:  # only one knows its trials apart
                self._lost = self.count
                for side in self._sides:
                    side.join_trials()
                    side.take(probes)
            self._known = num
            self._rank = math.prod(_rank(side.gram) for side in self._sides) ** 0.5
        return CosineMoments(*(side.gram for side in self._sides))


class CosineMoments(VectorMoments):
    """``<A, B>_F``, ``|A|_F^2`` and ``|B|_F^2``.

    Args:
        first, second: the inner products ``[m, B, m, B]`` of the vectors of A, and of B, m at least 3.
    """

    def __init__(self, first: torch.Tensor, second: torch.Tensor) -> None:
        found = [mean_over_pairs(x * y) for x, y in ((first, second), (first, first), (second, second))]
        self.whole = torch.stack([whole for whole, _ in found])  # [3]
        self.without = torch.stack([less for _, less in found], dim=-1)  # [m, B, 3]


def _rank(gram: torch.Tensor) -> float:
    """Return about the participation rank, 0 of a zero operator."""
    trace, square = PairMoments(gram).whole.tolist()
    return float(trace**2 / square) if square > 0 else 0.0


def one_sided_pair_first(
    a: Operator,
    b: Operator,
    generator: torch.Generator,
    cosine: SmoothFunction,
    rest: Callable[[], Estimate],
    *,
    rtol: float | None,
    budget: int,
) -> Estimate:
    """Return the alignment within ``rtol``, else ``rest()``, all products counted.

    ``rest`` is called without ``rtol``, for operators not known as ``c X X*``, for those that are zero, where
    sketches do better with as many products, and where the first probes say that more than ``budget`` would
    be needed.

    Args:
        a: an operator.
        b: another one on the same space.
        generator: the source of the probes.
        cosine: of ``<A, B>``, ``|A|^2`` and ``|B|^2``.
        rest: how the figure is found otherwise.
        rtol: the largest standard error, relative to the value.
        budget: the most products of both together.
    """
    known = [] if rtol is None or a.domain.shards is not None else [outer_factor(op) for op in (a, b)]
    first, second = known or (None, None)
    if first is None or second is None or rtol is None:
        return rest()
    source = OneSidedPair(a, b, (first[1], second[1]), generator)

    def defined(means: torch.Tensor) -> torch.Tensor:
        return torch.where((means[..., 1:] > 0).all(-1), cosine(means), torch.nan)

    if not source.worth:  # nothing was spent yet
        return rest()
    found = within(rtol, source, defined, budget, torch.finfo(a.dtype).eps)
    if found is None or not source.worth:
        other = rest()
        return evolve(other, num_matvecs=other.num_matvecs + source.count)
    return Estimate(*found, source.count, NAME)
