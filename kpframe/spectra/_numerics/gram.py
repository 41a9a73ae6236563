"""The positive operator G behind ranks and norms, ``op`` itself or its Gram operator, and its two moments.

With the eigenvalues g_i of G, tr G = sum g_i and |G|_F^2 = sum g_i^2. So the participation rank is
tr(G)^2 / |G|_F^2, and the Frobenius norm of ``op`` is |G|_F for G = op and sqrt(tr G) for G = op op*.
"""

from __future__ import annotations

from functools import cached_property

import torch
from attrs import field, frozen

from kpframe.operators import Operator
from kpframe.spectra._numerics.matvecs import Matvecs, Sampler, ScaledOperator
from kpframe.spectra._numerics.nystrom import Sketch, inner_samples, trace_samples
from kpframe.spectra._numerics.ranks import any_entry
from kpframe.spectra._numerics.small_side import WHERE, SmallSide, small_side
from kpframe.spectra._numerics.statistics import LeaveOneOut, SmoothFunction


@frozen(slots=False)
class Gram:
    """``G``, the operator if it is positive, else its Gram operator on the smaller of its two sides.

    ``op op*`` and ``op* op`` have the same eigenvalues but for zeros, so the smaller one serves for both.
    ``squared``: the Gram operator of a positive operator too.
    """

    op: Operator
    squared: bool = False
    gram: Operator = field(init=False)  # in units of ``unit``, squared where G is a product
    weight: int = field(init=False)  # products of op in one product of G
    _scaled: ScaledOperator = field(init=False)

    def __attrs_post_init__(self) -> None:
        scaled = ScaledOperator(
            self.op
        )  # between two factors too: their product may leave the range of the dtype
        object.__setattr__(self, "_scaled", scaled)
        op: Operator = scaled
        if op.positive and not self.squared:
            gram, weight = op, 1
        else:
            weight = 2
            gram = op.T @ op if op.domain.dimension < op.codomain.dimension else op @ op.T
        object.__setattr__(self, "gram", gram)
        object.__setattr__(self, "weight", weight)

    @property
    def unit(self) -> float:
        """What ``op`` is divided by; final once a product was not zero."""
        return self._scaled.unit

    @property
    def dimension(self) -> int:
        """The dimension of G, which is also the number of products of ``op`` that make G dense."""
        return self.gram.domain.dimension

    @cached_property
    def _side(self) -> tuple[SmallSide, int, int] | None:
        """The small side, which power of its eigenvalues are those of G, and the products that it takes."""
        if (side := small_side(self.op)) is not None:
            found = side, self.weight, side.dimension
        elif self.weight == 2 and (side := small_side(self.op @ self.op.T)) is not None:
            found = side, 1, 2 * side.dimension
        else:
            return None
        return found if found[2] < self.dimension else None

    @property
    def small(self) -> bool:
        """Whether the exact eigenvalues come from a small side."""
        return self._side is not None

    @property
    def exact_cost(self) -> int:
        """The number of products of ``op`` that the exact eigenvalues take."""
        return self.dimension if self._side is None else self._side[2]

    @property
    def exact(self) -> str:
        """How these are found, for ``Estimate.method``."""
        return "exact" if self._side is None else f"exact, {WHERE}"

    @property
    def name(self) -> str:
        """Which operator G is, for ``Estimate.method``."""
        if self.weight == 1:
            return "op"
        return "op* op" if self.op.domain.dimension < self.op.codomain.dimension else "op op*"

    def sampler(self, generator: torch.Generator | None) -> Sampler:
        """Return a sampler of G that counts products of ``op``."""
        return Sampler(self.gram, generator, self.weight, plain=True)

    def matvec(self) -> Matvecs:
        """Return products with G that count those of ``op``."""
        return Matvecs(self.gram, self.weight, plain=True)

    def exact_norm(self) -> tuple[float, int]:
        """Return the Frobenius norm of ``op`` from its small side, and the products spent."""
        assert self._side is not None
        side, power, _ = self._side
        values, cost = self.eigenvalues()
        length = values.norm() if self.weight == 1 else values.sum().sqrt()
        return side.factor(power / self.weight) * float(length), cost

    def eigenvalues(self) -> tuple[torch.Tensor, int]:  # [dimension], ascending, float64
        """Return the exact eigenvalues of G, none negative, and the products spent.

        But for a factor; of an operator whose small side is smaller without zeros that it has besides.
        """
        if self._side is not None:
            side, power, cost = self._side
            return (side.relative**power).clamp(min=0).sort().values, cost
        matvec = Matvecs(self.op)
        dense = matvec.dense().double()
        if self.weight == 1:
            return torch.linalg.eigvalsh((dense + dense.mT) / 2).clamp(min=0), matvec.count
        return torch.linalg.svdvals(dense).square().flip(0), matvec.count


def moments(source: Sampler, num: int) -> Moments:
    """Return leave-one-out samples of ``tr G`` and ``|G|_F^2``, one product of G a probe for both."""
    probes, products = source.products(num, "gaussian")
    space = source.op.domain
    if not any_entry(products, space):  # random probes: the operator is zero
        return Moments(None, 0.0)
    sketch = Sketch.of(probes, products, space)
    statistics = [
        torch.stack([trace_samples(v), inner_samples(v, v)], dim=-1) for v in sketch.approximations()
    ]
    total = float(statistics[0][..., 0].mean())
    return Moments(
        LeaveOneOut.of(*statistics, correlation=sketch.correlation),
        sketch.rounding / max(total, sketch.rounding),
    )


@frozen(eq=False)
class Moments:
    """Samples of two moments (None: the operator is zero), and their relative rounding error."""

    statistics: LeaveOneOut | None
    rounding: float

    def estimate(self, function: SmoothFunction) -> tuple[float, float]:
        """Return a function of ``(tr G, |G|_F^2)`` and its standard error, rounding included."""
        if self.statistics is None:
            return 0.0, 0.0
        value, stderr = self.statistics.estimate(function)
        return value, max(stderr, self.rounding * abs(value))
