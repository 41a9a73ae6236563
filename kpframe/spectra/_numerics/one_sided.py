"""Traces and norms of ``X X*`` from products with X* alone, half the work of a product with the operator.

With ``w = X* z`` for a random z of independent entries of mean 0 and variance 1, and z' another one,

    E |w|^2 = tr X X*,    E <w, w'>^2 = E (z* X X* z')^2 = |X X*|_F^2

(one-sided estimators, arXiv 2511.10796). m vectors give m (m - 1) / 2 pairs. Where the trials of a state
space stay apart on the way to the parameters, more is had from the same products: with ``z_b`` the part of z
in trial b and ``w_b = X* z_b``, what reaches the parameters from trial b alone,

    tr X X* = Sum_b E |w_b|^2,    |X X*|_F^2 = Sum_{b b'} E <w_b, w'_b'>^2,

and for b other than b', w_b and w_b' of one z are independent too. So m products give m B vectors: the trace
is free of the noise of <w_b, w_b'>, which has no mean, and the norm has nearly (m B)^2 / 2 pairs in place of
m^2 / 2. No spectrum has to decay for this; where it does, sketches leave less to chance.

**Errors.** Estimates are means over the vectors of each trial, and over pairs of them, as U-statistics are
(Hoeffding 1948). Their standard error, and that of a smooth function of them, is the jackknife's (Arvesen
1969), one vector of one trial left out at a time: with B trials it has B (m - 1) degrees of freedom.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from attrs import evolve

from kpframe.errors import NonFiniteError
from kpframe.flow._parameter_jacobian import ParameterJacobian
from kpframe.operators import Operator
from kpframe.operators._algebra import is_adjoint_of
from kpframe.operators._base import compose
from kpframe.operators._finite import is_finite
from kpframe.operators._memory import chunk_size
from kpframe.operators._spaces import BATCH
from kpframe.spectra._estimate import Estimate
from kpframe.spectra._numerics.matvecs import ScaledOperator
from kpframe.spectra._numerics.probes import random_rows
from kpframe.spectra._numerics.small_side import factors_of
from kpframe.spectra._numerics.statistics import TINY, SmoothFunction, t_factor

F64 = torch.float64
#: Most bytes of the vectors that are kept, and how many there may be at most: their Gram matrix is held.
KEPT_BYTES, MOST_VECTORS = 2**29, 4096
#: Vectors that the first estimate is made of, at least, and their smallest number in each trial.
FIRST, LEAST = 64, 4
#: How many times the budget the first few probes may ask for, before they are believed.
FAR = 4
#: Largest relative error that is stated: beyond it, figures of a few vectors are too skewed for an interval.
WIDEST = 0.05
#: Entries of two vectors whose products are added up in their own dtype, before float64 takes over.
STRETCH = 2**14
#: How an estimate from here is said to be found.
NAME = "one-sided"


def outer_factor(op: Operator) -> tuple[float, list[Operator]] | None:
    """Return c and factors of X where an operator is known to be ``c X X*``, c > 0; None elsewhere."""
    numbers, factors = factors_of(op)
    half = len(factors) // 2
    pairs = zip(factors[:half], reversed(factors[half:]), strict=False)
    if len(factors) % 2 or not half or not all(is_adjoint_of(left, right) for left, right in pairs):
        return None
    number = math.prod(numbers)
    return (number, factors[:half]) if 0 < number < math.inf else None


class OneSided:
    """Vectors ``w = X* z`` of an operator ``X X*``, apart by trial where they can be, and their Gram matrix.

    Args:
        op: the operator.
        factors: of X, from ``outer_factor``.
        generator: the source of the probes.
    """

    def __init__(self, op: Operator, factors: list[Operator], generator: torch.Generator) -> None:
        self._op, self._generator = op, generator
        scan = 0
        while scan < len(factors) and BATCH in factors[scan].separate_axes:
            scan += 1
        self._scan, self._after = factors[:scan], factors[scan:]
        self._outer = compose(*factors)
        self._scaled = ScaledOperator(self._outer)
        J = self._after[0] if self._after else None
        #: Whether trials stay apart on the way, and whether they are apart for good.
        self._apart = BATCH in op.domain and (J is None or isinstance(J, ParameterJacobian))
        self._to_the_end = self._apart and J is None
        self._vectors: list[torch.Tensor] = []  # [k, B, n] each
        self._gram = torch.empty(0, 0, dtype=F64, device=op.device)  # [m B, m B]
        self._trials = 1

    @property
    def unit(self) -> float:
        """What the operator is divided by, squared from that of X; final once a product was not zero."""
        return self._scaled.unit**2

    @property
    def count(self) -> int:
        """How many products with the operator the vectors took: two with X* are one."""
        return -(-self._known // 2)

    @property
    def _known(self) -> int:
        return sum(map(len, self._vectors))

    @property
    def block_diagonal(self) -> bool:
        """Whether the operator has no entry between two trials: only pairs within trials tell of it."""
        return self._to_the_end

    @property
    def first(self) -> int:
        """How many probes make the first estimate."""
        trials = self._op.domain[BATCH].size if self._apart else 1
        return max(LEAST, -(-FIRST // max(1, trials)))

    @property
    def most(self) -> int:
        """How many probes there may be."""
        each = max(1, self._vectors[0][0].nbytes)
        return min(KEPT_BYTES // each, MOST_VECTORS // self._trials)

    def moments(self, num: int) -> PairMoments:
        """Return the moments from ``num`` probes, at least 3."""
        missing = num - self._known
        if missing > 0:
            self.take(random_rows(self._op, missing, self._generator, "rademacher"))
        return PairMoments(self.gram)

    @property
    def gram(self) -> torch.Tensor:  # [m, B, m, B]
        """The inner products of all vectors so far."""
        return self._gram.reshape(self._known, self._trials, self._known, self._trials)

    def take(self, probes: torch.Tensor) -> None:  # [m, size]
        """Add the vectors of further probes."""
        for part in torch.split(probes, chunk_size(self._outer, len(probes))):
            self._add(self._products(part))

    def join_trials(self) -> None:
        """Forget all vectors, and tell those of different trials apart no more."""
        self._apart, self._trials = False, 1
        self._to_the_end = False
        self._vectors, self._gram = [], self._gram.new_empty(0, 0)

    def _products(self, rows: torch.Tensor) -> torch.Tensor:  # [m, size] -> [m, B, n]
        op = self._op
        z = rows.reshape(len(rows), *op.domain.shape)
        w = self._of_trials(z) if self._apart else None
        if w is None:  # trials are known together only
            self._apart = False
            w = self._outer.T(z, check=False).unsqueeze(1)
        w = w.flatten(2)
        if not is_finite(w):
            raise NonFiniteError(f"{op!r}: expected finite products, got NaN or infinity")
        return self._scaled.in_units(w, self._outer.domain)

    def _of_trials(self, z: torch.Tensor) -> torch.Tensor | None:  # [m, B, ...] -> [m, B, ...]
        """Return what trials send to the inner side, each alone; None where that is not known."""
        w = compose(*self._scan).T(z, check=False) if self._scan else z
        if self._to_the_end:
            return w
        J = self._after[0]
        assert isinstance(J, ParameterJacobian)  # as _apart says
        with torch.no_grad():
            sent = J.trial_gradients(w)
        if sent is not None:
            for factor in self._after[1:]:
                sent = factor.T(sent, check=False)
        return sent

    def _add(self, new: torch.Tensor) -> None:
        """Take vectors ``[m, B, n]`` into the Gram matrix."""
        self._vectors.append(new)
        self._trials = new.shape[1]
        columns = torch.cat([self._inner(part, new) for part in self._vectors])
        known = len(self._gram)
        gram = columns.new_empty(len(columns), len(columns))
        gram[:known, :known] = self._gram
        gram[:, known:] = columns
        gram[known:, :known] = columns[:known].mT
        self._gram = gram

    def _inner(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:  # [m, B, n], [k, B, n]
        """Return the inner products ``[m B, k B]``, added up in float64."""
        pairs = list(zip(*(torch.split(w, STRETCH, dim=2) for w in (first, second)), strict=True))
        shape = (len(first) * first.shape[1], len(second) * second.shape[1])
        if not self._to_the_end:
            whole = first.new_zeros(shape, dtype=F64)
            for part, other in pairs:
                whole += part.flatten(0, 1) @ other.flatten(0, 1).mT
            return whole
        # zero outside of their own trials
        out = first.new_zeros(*first.shape[:2], *second.shape[:2], dtype=F64)
        own = out.diagonal(dim1=1, dim2=3)  # [m, k, B]
        for part, other in pairs:
            own += (part.transpose(0, 1) @ other.permute(1, 2, 0)).permute(1, 2, 0)
        return out.reshape(shape)


def mean_over_pairs(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sum over pairs of trials of the mean over pairs of vectors, and without each vector.

    Args:
        values: of each pair ``[m, B, m, B]``, symmetric, m at least 3; a vector with itself is no pair.

    Returns:
        ``[]``, and ``[m, B]`` without vector i of trial b.
    """
    m, trials = values.shape[:2]
    rows = values.sum(2)  # [m, B, B]: sums over the vectors of another trial
    rows.diagonal(dim1=1, dim2=2).sub_(values.reshape(m * trials, -1).diagonal().reshape(m, trials))
    pairs = values.new_full((trials, trials), m * m).fill_diagonal_(m * (m - 1))
    fewer = values.new_full((trials, trials), m * (m - 1)).fill_diagonal_((m - 1) * (m - 2))
    sums = rows.sum(0)  # [B, B]
    means = sums / pairs
    # Without vector i of trial b only the means of row and column b change; its pairs within the trial
    # stand in the sum twice.
    within = sums.diagonal() - 2 * rows.diagonal(dim1=1, dim2=2)  # [m, B]
    across = (sums - rows) / fewer  # [m, B, B]
    across.diagonal(dim1=1, dim2=2).zero_()
    apart = means - torch.diag(means.diagonal())
    whole = means.sum()
    return whole, whole + 2 * (across.sum(2) - apart.sum(1)) + within / fewer.diagonal() - means.diagonal()


class VectorMoments:
    """Means over vectors of each trial, or pairs of them, and the same without one vector of one trial.

    Attributes:
        whole: the moments ``[q]``.
        without: the same ``[m, B, q]`` without vector i of trial b.
    """

    whole: torch.Tensor
    without: torch.Tensor

    def estimate(self, function: SmoothFunction) -> tuple[float, float]:
        """Return a function of both without its bias of order 1/m, and the standard error."""
        m = len(self.without)
        value, left = function(self.whole), function(self.without)  # [], [m, B]
        change = left - left.mean(0)
        variance = (m - 1) / m * change.square().sum(0)  # [B]
        corrected = float(value - (m - 1) * (left.mean(0) - value).sum())
        total = float(variance.sum())
        if not total > 0:
            return corrected, 0.0
        freedom = total**2 / float((variance.square() / (m - 1)).sum())  # Satterthwaite 1946
        return corrected, math.sqrt(total) * t_factor(1 + freedom)


class PairMoments(VectorMoments):
    """``tr X X*`` and ``|X X*|_F^2``.

    Args:
        gram: the inner products ``[m, B, m, B]`` of all vectors, m at least 3.
    """

    def __init__(self, gram: torch.Tensor) -> None:
        m, trials = gram.shape[:2]
        own = gram.reshape(m * trials, -1).diagonal().reshape(m, trials)  # |w_ib|^2
        total = own.sum(0) / m
        square, less = mean_over_pairs(gram.square())
        self.whole = torch.stack([total.sum(), square])  # [2]
        trace = total.sum() + (total * m - own) / (m - 1) - total
        self.without = torch.stack([trace, less], dim=-1)  # [m, B, 2]


class Source(Protocol):
    """Where moments come from: ``OneSided``, or a pair of them."""

    @property
    def count(self) -> int:
        """Products spent."""

    @property
    def first(self) -> int:
        """How many probes make the first estimate."""

    @property
    def most(self) -> int:
        """How many probes there may be."""

    def moments(self, num: int) -> VectorMoments:
        """Return the moments from ``num`` probes."""


def one_sided_first(
    op: Operator,
    generator: torch.Generator,
    function: SmoothFunction,
    rest: Callable[[], Estimate],
    *,
    rtol: float | None,
    budget: int,
    label: str = "",
) -> Estimate:
    """Return an estimate of a function of the moments within ``rtol``, else ``rest()``, all products counted.

    ``rest`` is called without ``rtol``, for an operator not known as ``c X X*``, and where the first probes
    say that more than ``budget`` products would be needed: sketches are then left to find it.

    Args:
        op: the operator.
        generator: the source of the probes.
        function: of trace and squared norm, with a value in units of the operator, or without any unit.
        rest: how the figure is found otherwise.
        rtol: the largest standard error, relative to the value.
        budget: the most products.
        label: of the figure, for ``Estimate.method``.
    """
    known = None if rtol is None or op.domain.shards is not None else outer_factor(op)
    if known is None or rtol is None:
        return rest()
    number, factors = known
    source = OneSided(op, factors, generator)
    found = within(rtol, source, function, 2 * budget, torch.finfo(op.dtype).eps)
    if found is None:
        other = rest()
        return evolve(other, num_matvecs=other.num_matvecs + source.count)
    scale = number * source.unit if function in SCALED else 1.0
    return Estimate(scale * found[0], scale * found[1], source.count, f"{label}{NAME}")


def within(
    rtol: float, source: Source, function: SmoothFunction, most: int, eps: float
) -> tuple[float, float] | None:
    """Return a function of the moments to ``rtol`` and its standard error, or None where it needs too much.

    Args:
        rtol: the largest standard error, relative to the value.
        source: of the moments.
        function: of the moments.
        most: the most probes. Where the first say that far more would be needed, no more are taken.
        eps: of the dtype, below a multiple of which no error is stated.
    """
    num = source.first
    while num <= most:
        value, stderr = source.moments(num).estimate(function)
        stderr = max(stderr, 64 * eps * abs(value))
        goal = min(rtol, WIDEST) * abs(value)
        if stderr <= goal:
            return value, stderr
        needed = math.ceil(1.1 * num * (stderr / goal) ** 2) if goal > 0 else math.inf
        if needed > FAR * most:  # fewer may do, as pairs grow faster than probes
            break
        num = min(max(num + 1, int(needed)), 2 * num)
        if num > source.most:
            break
    return None


def trace_of_moments(means: torch.Tensor) -> torch.Tensor:  # [..., 2] -> [...]
    """Return the trace."""
    return means[..., 0]


def norm_of_moments(means: torch.Tensor) -> torch.Tensor:  # [..., 2] -> [...]
    """Return the Frobenius norm."""
    return means[..., 1].clamp(min=TINY).sqrt()


#: Functions of the moments whose values are in units of the operator.
SCALED = (trace_of_moments, norm_of_moments)
