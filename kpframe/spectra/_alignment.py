"""The alignment of two operators: the cosine of the angle between them."""

from __future__ import annotations

import math

import torch
from attrs import evolve

from kpframe.errors import SpaceMismatchError
from kpframe.operators import Operator
from kpframe.operators._base import check_together
from kpframe.operators._isolation import in_isolation
from kpframe.operators._memory import chunk_size
from kpframe.operators._scale import clamped, divided, unit_of
from kpframe.operators._spaces import Space
from kpframe.spectra._arguments import check_budget, check_operator, check_rtol
from kpframe.spectra._estimate import Estimate, within_budget
from kpframe.spectra._numerics.linalg import orthonormal_rows
from kpframe.spectra._numerics.matvecs import Matvecs, Sampler
from kpframe.spectra._numerics.nystrom import F64, Sketch, inner_samples, trace_samples
from kpframe.spectra._numerics.one_sided_pair import one_sided_pair_first
from kpframe.spectra._numerics.probes import agreed, new_generator, random_rows
from kpframe.spectra._numerics.ranks import any_entry, basis_rows, largest_entry
from kpframe.spectra._numerics.small_side import WHERE, SmallSide, small_side
from kpframe.spectra._numerics.statistics import TINY, LeaveOneOut, jackknife

UNDEFINED = "undefined for a zero operator"


@in_isolation
def alignment(
    a: Operator,
    b: Operator,
    *,
    budget: int = 60,
    rtol: float | None = None,
    generator: torch.Generator | None = None,
    max_budget: int | None = None,
) -> Estimate:
    """Estimate ``<A, B>_F / (|A|_F |B|_F)`` of two operators between the same spaces.

    Two positive operators meet the same probes and are compared by their leave-one-out Nystrom sketches, a
    product of each a probe. Others are compared as Hutch++ does: exactly on a few leading right directions
    of both (half of the budget), and by the mean of <A z, B z> and the norms for random z orthogonal to them.
    The bias of the ratio is removed by the jackknife. With an ``rtol``, operators known as X X* and Y Y* (K,
    Phi, P P*) are first tried by products with X* and Y* alone, half of a product each, which are taken where
    ``budget`` is enough and sketches of as many products do worse ("one-sided"). A budget of at least twice
    the smaller dimension gives the exact value, also one of three times that of the inner spaces through
    which both are known to go (of the larger and twice the smaller, where they differ); that of an operator
    with itself is 1 by definition.
    The alignment with a zero operator is not defined: NaN.

    Args:
        a: an operator.
        b: an operator with the spaces, dtype and device of ``a``.
        budget: number of products, of both operators together, at least 2 (one probe, infinite ``stderr``).
        rtol: when given, the budget is doubled as in ``trace``.
        generator: the source of the probes; None: a new one with seed 0.
        max_budget: bound for ``rtol``, in products.

    Raises:
        ArgumentError: for a budget, tolerance or generator that cannot be used.
        SpaceMismatchError, DtypeError, DeviceError: when the operators do not fit each other.
        NonFiniteError: when a product is not finite.

    Sources: Epperly, Tropp, Webber 2024; Meyer, Musco, Musco, Woodruff 2021; Hutchinson 1990; one-sided:
    arXiv 2511.10796.

    Examples:
        >>> import kpframe, torch
        >>> a = kpframe.DiagonalOperator(torch.tensor([1.0, 0.0]))
        >>> b = kpframe.DiagonalOperator(torch.tensor([1.0, 1.0]))
        >>> round(kpframe.alignment(a, b, budget=4).value, 4)
        0.7071
    """
    check_operator(a, "a")
    check_operator(b, "b")
    if (a.domain, a.codomain) != (b.domain, b.codomain):
        raise SpaceMismatchError(
            f"alignment of {a!r} and {b!r}: expected the same spaces, got ({a.domain}) to ({a.codomain}) "
            f"and ({b.domain}) to ({b.codomain})"
        )
    check_together(a, b, "and")
    budget, max_budget = check_budget(budget, max_budget, minimum=2)
    rtol = check_rtol(rtol)
    shared = {"budget": budget, "rtol": rtol, "max_budget": max_budget}
    source = agreed(new_generator(generator), a, b, **shared)
    pair = _SketchedPair(a, b, source) if a.positive and b.positive else _ProjectedPair(a, b, source)

    def estimate(num_products: int) -> Estimate:
        value, stderr = pair.estimate(num_products)
        if math.isnan(value):
            return Estimate(value, stderr, pair.count, UNDEFINED)
        rounding = 8 * torch.finfo(a.dtype).eps
        return Estimate(clamped(value), max(stderr, rounding), pair.count, pair.method)

    cost = 2 * min(a.domain.dimension, a.codomain.dimension)
    first, second = small_side(a), small_side(b)
    if first is not None and second is not None and first.dimension < second.dimension:
        first, second = second, first  # the cosine is the same
    through = None if first is None or second is None else first.dimension + 2 * second.dimension

    def exact() -> Estimate:
        if first is None or second is None or through is None or through >= cost:
            return exact_alignment(a, b)
        return _alignment_of(first, second, through)

    exact_cost = cost if through is None else min(cost, through)

    def rest() -> Estimate:
        return within_budget(
            estimate, exact, budget=budget, exact_cost=exact_cost, rtol=rtol, max_budget=max_budget
        )

    if a is b or budget >= exact_cost:
        found = rest()
    else:
        found = one_sided_pair_first(a, b, source, _cosine, rest, rtol=rtol, budget=budget)
        found = found if math.isnan(found.value) else evolve(found, value=clamped(found.value))
    if a is b and not math.isnan(found.value):  # NaN: a zero operator
        return evolve(found, value=1.0, stderr=0.0, method="exact")
    return found


class _SketchedPair:
    """Two positive operators, through the Nystrom sketches that share their probes."""

    method = "nystrom"

    def __init__(self, a: Operator, b: Operator, generator: torch.Generator) -> None:
        self._a = Sampler(a, generator)
        self._b = Matvecs(b)
        self._seen = torch.empty(0, b.codomain.size, dtype=b.dtype, device=b.device)

    @property
    def count(self) -> int:
        return self._a.count + self._b.count

    def estimate(self, budget: int) -> tuple[float, float]:
        # <A, B>, |A|^2 and |B|^2 each as a mean of leave-one-out samples on the same probes.
        vectors, first = self._a.products(budget // 2, "gaussian")
        self._seen = torch.cat([self._seen, self._b(vectors[len(self._seen) :])])
        space = self._b.op.domain
        if not (any_entry(first, space) and any_entry(self._seen, space)):
            return math.nan, math.nan
        a, b = (Sketch.of(vectors, products, space, with_basis=True) for products in (first, self._seen))
        cross = space.sum(a.basis.mT @ b.basis).to(F64)
        both = list(zip(a.approximations(), b.approximations(), strict=True))
        samples = [
            torch.stack([inner_samples(x, y, cross), inner_samples(x, x), inner_samples(y, y)], dim=-1)
            for x, y in both
        ]
        value, stderr = LeaveOneOut.of(*samples, correlation=a.correlation).estimate(_cosine)
        rounding = sum(
            sketch.rounding / max(float(trace_samples(each).mean()), sketch.rounding)
            for sketch, each in zip((a, b), both[0], strict=True)
        )
        return value, max(stderr, rounding * abs(value))


class _ProjectedPair:
    """Any two operators, exactly on some right directions and by random probes on the rest."""

    def __init__(self, a: Operator, b: Operator, generator: torch.Generator) -> None:
        self._a, self._b = Matvecs(a), Matvecs(b)
        self._generator = generator
        self.method = "hutchpp"

    @property
    def count(self) -> int:
        return self._a.count + self._b.count

    def estimate(self, budget: int) -> tuple[float, float]:
        # As Hutch++ does for the trace of A* B: with orthonormal q_1, q_2, ... that span what the
        # operators amplify most, and P the projection on what is orthogonal to it,
        #     <A, B> = tr(A* B) = sum over j of <A q_j, B q_j> + tr(P A* B P),
        # the second term as the mean of <A P z, B P z>; likewise |A|^2 and |B|^2. A direction costs one
        # adjoint product to find (half of them from each operator) and one of each operator to use; a random
        # probe costs two products.
        half = budget // 12
        num = (budget - 6 * half) // 2
        self.method = "hutchpp" if half else "hutchinson"
        op, space = self._a.op, self._a.op.domain
        known = torch.zeros(1, 3, dtype=F64, device=op.device)
        vectors = random_rows(op, num, self._generator)
        if half:
            sources = random_rows(op.T, 2 * half, self._generator)
            images = [self._a.adjoint(sources[:half]), self._b.adjoint(sources[half:])]
            range_ = orthonormal_rows(torch.cat([orthonormal_rows(rows, space) for rows in images]), space)
            known = _inner_products(self._a(range_), self._b(range_), op.codomain).sum(0, keepdim=True)
            for _ in range(2):
                vectors = vectors - space.inner(vectors, range_) @ range_
            # Directions on the complement are uniform; their length is set to its dimension.
            length = space.norms(vectors)[:, None].clamp(min=torch.finfo(op.dtype).tiny)
            vectors = vectors * ((space.dimension - len(range_)) ** 0.5 / length)
        samples = known + _inner_products(self._a(vectors), self._b(vectors), op.codomain)
        if not (samples[:, 1].any() and samples[:, 2].any()):
            return math.nan, math.nan
        return jackknife(samples, _cosine)


def _inner_products(
    first: torch.Tensor, second: torch.Tensor, space: Space
) -> torch.Tensor:  # [m, n] -> [m, 3]
    """Return <A z, B z>, |A z|^2 and |B z|^2, which estimate <A, B>, |A|^2 and |B|^2."""
    pairs = ((first, second), (first, first), (second, second))
    return space.sum(torch.stack([(x * y).sum(1, dtype=F64) for x, y in pairs], dim=-1))


def _cosine(means: torch.Tensor) -> torch.Tensor:  # [..., 3] -> [...]
    inner, first, second = means.unbind(-1)
    return inner / (first.clamp(min=TINY).sqrt() * second.clamp(min=TINY).sqrt())


def _alignment_of(first: SmallSide, second: SmallSide, count: int) -> Estimate:
    found = first.cosine(second)
    if math.isnan(found):
        return Estimate(math.nan, math.nan, count, UNDEFINED)
    return Estimate(clamped(found), 0.0, count, f"exact, {WHERE}")


@in_isolation
def exact_alignment(a: Operator, b: Operator) -> Estimate:
    """Return the alignment from products with the basis of the smaller side, never held as a whole."""
    first, second = Matvecs(a, plain=True), Matvecs(b, plain=True)
    by_rows = a.codomain.dimension < a.domain.dimension
    space, other = (a.codomain, a.domain) if by_rows else (a.domain, a.codomain)
    total, size = _Total(a.device, other), space.dimension
    step = chunk_size(a, max(1, size))
    for start in range(0, size, step):
        rows = basis_rows(space, start, min(start + step, size), a)
        if by_rows:
            total.add(first.adjoint(rows), second.adjoint(rows))
        else:
            total.add(first(rows), second(rows))
    count = first.count + second.count
    if not (total.means[1] > 0 and total.means[2] > 0):
        return Estimate(math.nan, math.nan, count, UNDEFINED)
    return Estimate(clamped(float(_cosine(total.means))), 0.0, count, "exact")


class _Total:
    """<A, B>, |A|^2 and |B|^2 from their columns, in units that grow with the largest entries so far."""

    def __init__(self, device: torch.device, space: Space) -> None:
        self._space = space
        self.means = torch.zeros(3, dtype=F64, device=device)
        self._units = [0.0, 0.0]

    def add(self, first: torch.Tensor, second: torch.Tensor) -> None:
        old = self._units
        self._units = [
            max(unit, unit_of(largest)) if (largest := largest_entry(part, self._space)) else unit
            for unit, part in zip(old, (first, second), strict=True)
        ]
        a, b = (before / (now or 1.0) for before, now in zip(old, self._units, strict=True))
        self.means *= self.means.new_tensor([a * b, a**2, b**2])
        first, second = (divided(x, u or 1.0) for x, u in zip((first, second), self._units, strict=True))
        self.means += _inner_products(first, second, self._space).sum(0)
