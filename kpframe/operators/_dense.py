"""The dense form of an operator, and that with its matrix kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from kpframe.operators._base import Operator, cached, declare, to_dense, to_scipy
from kpframe.operators._classes import classes_of, meeting
from kpframe.operators._declared import declared
from kpframe.operators._memory import CHUNK_BYTES, check_dense_memory, chunk_size
from kpframe.operators._spaces import Space, unflatten

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator


def basis(space: Space, start: int, stop: int, like: Operator) -> torch.Tensor:  # [stop-start, *space]
    """Return the basis vectors ``start:stop`` of a space."""
    vectors = torch.zeros(stop - start, space.size, dtype=like.dtype, device=like.device)
    rows = torch.arange(stop - start, device=like.device)
    vectors[rows, rows + start] = 1
    return vectors.reshape(stop - start, *space.shape)


@to_dense.register
def _to_dense(operator: Operator, max_bytes: int, *, check: bool = True) -> torch.Tensor:
    """Return the matrix of an operator from its products with the basis of the smaller side."""
    rows, columns = operator.codomain.size, operator.domain.size
    check_dense_memory(f"to_dense of {operator!r}", rows, columns, operator.dtype, max_bytes)
    if operator.square and operator.domain.size and (found := _by_classes(operator, check)) is not None:
        return found
    by_rows = rows < columns
    source = operator.T if by_rows else operator
    out = torch.empty(source.domain.size, source.codomain.size, dtype=operator.dtype, device=operator.device)
    step = chunk_size(operator, max(1, source.domain.size))
    for start in range(0, source.domain.size, step):
        stop = min(start + step, source.domain.size)
        out[start:stop] = source(basis(source.domain, start, stop, operator), check=check).reshape(
            stop - start, -1
        )
    return out if by_rows else out.mT.contiguous()


def _by_classes(operator: Operator, check: bool) -> torch.Tensor | None:
    """Return the matrix from a product for each class of entries that do not meet; None where all may."""
    classes = classes_of(operator, operator.domain.names)
    if classes is None:
        return None
    size, shape = operator.domain.size, operator.domain.shape
    products = torch.empty(classes.count, size, dtype=operator.dtype, device=operator.device)
    step = chunk_size(operator, classes.count)
    for start in range(0, classes.count, step):
        mask = classes.members(start, min(start + step, classes.count))
        products[start : start + step] = operator(mask.to(operator.dtype), check=check).flatten(1)
    out = torch.empty(size, size, dtype=operator.dtype, device=operator.device)
    number, own = meeting(operator), classes.numbers(shape)
    step = max(1, CHUNK_BYTES // (size * operator.dtype.itemsize))
    for start in range(0, size, step):  # columns, as rows of the transpose
        some = slice(start, start + step)
        out[some] = torch.where(number[some, None] == number, products[own[some]], 0.0)
    return out.mT.contiguous()


class CachedOperator(Operator):
    """An operator whose matrix is kept; made by ``Operator.cached``."""

    def __init__(self, inner: Operator, max_bytes: int) -> None:
        super().__init__(inner.domain, inner.codomain, dtype=inner.dtype, device=inner.device)
        self.matrix = to_dense(inner, max_bytes)
        self._tags = inner.self_adjoint, inner.positive
        self._printed = inner._formula()

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        probes = q.shape[: q.ndim - len(self.domain.axes)]
        return unflatten(q.reshape(*probes, self.domain.size) @ self.matrix.mT, probes, self.codomain)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        probes = r.shape[: r.ndim - len(self.codomain.axes)]
        return unflatten(r.reshape(*probes, self.codomain.size) @ self.matrix, probes, self.domain)

    @property
    def self_adjoint(self) -> bool:
        """Whether the operator was self-adjoint."""
        return self._tags[0]

    @property
    def positive(self) -> bool:
        """Whether the operator was positive."""
        return self._tags[1]

    def _formula(self) -> tuple[str, int]:
        return self._printed


@cached.register
def _cached(operator: Operator, max_bytes: int) -> CachedOperator:
    return CachedOperator(operator, max_bytes)


@declare.register
def _declare(operator: CachedOperator, *, self_adjoint: bool, positive: bool, tol: float | None) -> Operator:
    return declared(operator, self_adjoint, positive, tol, matrix=operator.matrix)


@to_scipy.register(Operator)
def _to_scipy(operator: Operator) -> LinearOperator:
    from kpframe.operators._flat import Flat  # with SciPy's solvers, which few need

    return Flat(operator)
