"""Operators ``X M X*`` whose inner space is smaller than their own: exact figures from the small side.

``X M X*`` on n dimensions, with X from m < n, has at most m eigenvalues that are not zero, and they are those
of ``M X* X`` (Horn & Johnson 2013, Matrix Analysis, 1.3.22). So Phi = G M G* has no more of them than there
are parameters, and m products tell them all where the operator's own matrix takes n. With
``X* X = V L V*`` they are the eigenvalues of the symmetric ``L^(1/2) V* M V L^(1/2)``. Nothing is squared
that is not squared in ``X M X*`` itself: what is lost are roundings of the largest eigenvalue, as in its own
dense matrix.
"""

from __future__ import annotations

import math
from functools import cached_property, singledispatch
from itertools import chain

import torch
from attrs import frozen

from kpframe.errors import NonFiniteError
from kpframe.flow._parameter_operator import GroupProjector, ParameterOperator
from kpframe.operators import Operator
from kpframe.operators._algebra import AdjointOperator, Composition, ScaledOperator, is_adjoint_of
from kpframe.operators._base import compose
from kpframe.operators._congruences import Congruence, SelectMap
from kpframe.operators._declared import DeclaredOperator
from kpframe.operators._elementary import DiagonalOperator, IdentityOperator
from kpframe.operators._memory import chunk_size
from kpframe.operators._spaces import Space
from kpframe.spectra._numerics.linalg import completed, symmetric_eigen, tall_qr
from kpframe.spectra._numerics.matvecs import Matvecs
from kpframe.spectra._numerics.ranks import basis_rows, whole_rows

F64 = torch.float64
#: Most bytes of the columns of X that are held at once, for eigenvectors.
COLUMNS_BYTES = 2**28
#: How an exact figure from here is said to be found.
WHERE = "on the small side"


@frozen(eq=False, slots=False)
class SmallSide:
    """``X M X*`` times numbers, with a self-adjoint M on a space smaller than the operator's.

    The product of the numbers need not be one that can be held, as c^2 of ``(c X) (c X)*``.
    """

    outer: Operator  # X
    metric: Operator  # M
    numbers: tuple[float, ...] = ()

    @property
    def dimension(self) -> int:
        """The dimension m of the small side, and the products that it takes: one with X and X* counts one."""
        return self.outer.domain.dimension

    @cached_property
    def relative(self) -> torch.Tensor:  # [m], ascending, float64
        """The m eigenvalues beside which all are zero, but for a positive factor: none is out of range."""
        found = self._sign * self._in_units[0]
        return found if self._sign >= 0 else found.flip(0)

    @property
    def eigenvalues(self) -> torch.Tensor:  # [m], ascending, float64
        """These eigenvalues."""
        return self.factor(1) * self.relative

    def factor(self, power: float) -> float:
        """Return a power of the factor between the eigenvalues and ``relative``.

        Raises:
            NonFiniteError: where it leaves the range of numbers.
        """
        return self._factor(self._in_units[1], power)

    def _factor(self, unit: float, power: float = 1) -> float:
        mantissa, exponent = 1.0, 0
        for number in (*map(abs, self.numbers), unit, unit):
            mantissa, more = math.frexp(mantissa * math.frexp(number)[0])
            exponent += more + math.frexp(number)[1]
        whole = math.floor(exponent * power)
        try:
            return math.ldexp(mantissa**power * 2.0 ** (exponent * power - whole), whole)
        except OverflowError:
            raise NonFiniteError(
                f"{self.outer!r}: expected figures within the range of numbers, got 2^{whole}"
            ) from None

    @property
    def _sign(self) -> float:
        return 0.0 if 0 in self.numbers else math.prod(math.copysign(1.0, number) for number in self.numbers)

    @property
    def fits(self) -> bool:
        """Whether the columns of X may be held at once, for eigenvectors."""
        return self.dimension * self.outer.codomain.largest * self.outer.dtype.itemsize <= COLUMNS_BYTES

    @cached_property
    def _in_units(self) -> tuple[torch.Tensor, float]:
        """The eigenvalues of ``X M X*``, X in a unit, and that unit."""
        matvec, space = Matvecs(self.outer), self.outer.domain
        size = space.dimension
        gram = torch.empty(size, size, dtype=F64, device=self.outer.device)
        step = chunk_size(self.outer, max(1, size))
        for start in range(0, size, step):
            stop = min(start + step, size)
            rows = basis_rows(space, start, stop, self.outer)
            gram[start:stop] = whole_rows(matvec.adjoint(matvec(rows)), space).to(F64)
        gram = (gram + gram.mT) / 2
        metric = self._metric()
        if metric is not None:
            values, vectors = symmetric_eigen(gram)
            root = vectors * values.clamp(min=0).sqrt()
            gram = root.mT @ metric @ root
        return torch.linalg.eigvalsh(gram), matvec.unit

    def eigenpairs(self) -> tuple[torch.Tensor, torch.Tensor]:  # [m], [m, n]
        """Return eigenvalues, float64, and orthonormal eigenvectors, outside of which the operator is zero.

        From the columns of X, orthonormal in Q: ``X M X* = Q (R M R*) Q*``.
        """
        matvec, space = Matvecs(self.outer), self.outer.domain
        columns = matvec(basis_rows(space, 0, space.dimension, self.outer))  # [m, n]
        orthonormal, triangle = tall_qr(columns, self.outer.codomain)
        triangle, metric = triangle.to(F64), self._metric()
        inner = triangle @ triangle.mT if metric is None else triangle @ metric @ triangle.mT
        values, vectors = symmetric_eigen((inner + inner.mT) / 2)
        rows = vectors.mT.to(orthonormal.dtype) @ orthonormal.mT
        return self._sign * self._factor(matvec.unit) * values, rows

    def cosine(self, other: SmallSide) -> float:
        """Return ``<A, B> / (|A| |B|)`` of two operators, NaN where one is zero.

        With A = X M X*, B = Y N Y* and ``C = X* Y``, ``<A, B> = <M C, C N>``: a product a column of Y. Scales
        cancel before anything is squared.
        """
        lengths = float(self.relative.norm() * other.relative.norm())
        if not lengths > 0:
            return math.nan
        mine, theirs, space = Matvecs(self.outer), Matvecs(other.outer), other.outer.domain
        size = space.dimension
        cross = torch.empty(size, self.dimension, dtype=F64, device=self.outer.device)  # C*
        step = chunk_size(other.outer, max(1, size))
        for start in range(0, size, step):
            stop = min(start + step, size)
            rows = basis_rows(space, start, stop, other.outer)
            cross[start:stop] = whole_rows(mine.adjoint(theirs(rows)), self.outer.domain).to(F64)
        left, right = self._metric(), other._metric()
        first = cross if left is None else cross @ left
        second = cross if right is None else right @ cross
        sign = self._sign * other._sign
        units = (mine.unit / self._in_units[1]) * (theirs.unit / other._in_units[1])
        return sign * units**2 * float((first * second).sum()) / lengths

    def _metric(self) -> torch.Tensor | None:  # [m, m]
        """Return M as a matrix, None for the identity."""
        if isinstance(self.metric, IdentityOperator):
            return None
        dense = Matvecs(self.metric, plain=True).dense().to(F64)
        return (dense + dense.mT) / 2


@singledispatch
def small_side(op: Operator) -> SmallSide | None:
    """Return an operator as ``X M X*`` with the smallest inner space that is known; None: none is smaller."""
    numbers, factors = factors_of(op)
    left, right = 0, len(factors) - 1
    best, least = 0, op.domain.dimension
    while left < right:
        if not is_adjoint_of(factors[left], factors[right]):
            return None
        left, right = left + 1, right - 1
        inside = factors[left - 1].domain.dimension
        if inside < least or (best and inside == least):
            best, least = left, inside
    if not best or (left == right and not factors[left].self_adjoint):
        return None
    inner = factors[best : len(factors) - best]
    outer = compose(*factors[:best])
    return SmallSide(outer, compose(*inner) if inner else _identity(outer), numbers)


def null_rows(
    rows: torch.Tensor, num: int, generator: torch.Generator, space: Space
) -> torch.Tensor:  # [m, n] -> [num, n]
    """Return orthonormal rows that are orthogonal to given orthonormal ones."""
    return completed(rows, len(rows) + num, generator, space)[len(rows) :]


@singledispatch
def factors_of(op: Operator) -> tuple[tuple[float, ...], list[Operator]]:
    """Return an operator as numbers and factors; what is known to be a product is opened."""
    if isinstance(op, DeclaredOperator):
        return factors_of(op.inner)
    if isinstance(op, ScaledOperator):
        numbers, factors = factors_of(op.inner)
        return (op.scalar, *numbers), factors
    if isinstance(op, AdjointOperator):
        numbers, factors = factors_of(op.inner)
        return numbers, [factor.T for factor in reversed(factors)]
    if isinstance(op, IdentityOperator):
        return (), []
    parts: list[Operator] = []
    own: tuple[float, ...] = ()
    if isinstance(op, Composition):
        parts, own = [*op.factors], tuple(number for number in op.numbers if number != 1)
    elif isinstance(op, Congruence):
        right = [] if op.right is None else [op.right.T]
        parts = [*([] if op.left is None else [op.left]), op.inner, *right]
    elif isinstance(op, ParameterOperator):
        parts = [op.jacobian, *_root(op.metric), op.jacobian.T]
    if not parts:
        return (), [op]
    found = [factors_of(part) for part in parts]
    return (*own, *chain.from_iterable(numbers for numbers, _ in found)), [
        factor for _, factors in found for factor in factors
    ]


def _root(metric: Operator) -> list[Operator]:
    """Return a metric as factors: where it is diagonal ``S S*``, with S from the parameters that it keeps."""
    if isinstance(metric, GroupProjector):
        values = metric(torch.ones(metric.domain.shape, dtype=metric.dtype, device=metric.device))
    elif isinstance(metric, DiagonalOperator) and metric.positive:
        values = metric.values
    else:
        return [metric]
    kept = values.nonzero().flatten().tolist()
    if not kept:
        return [metric]
    (axis,) = metric.domain.axes
    select = SelectMap(metric.domain, axis.name, kept, like=metric)
    root = select.T @ DiagonalOperator(values[kept].sqrt(), select.codomain)
    return [root, root.T]


def _identity(outer: Operator) -> IdentityOperator:
    return IdentityOperator(outer.domain, dtype=outer.dtype, device=outer.device)
