"""Dense and SciPy forms of an operator."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator

from kpframe.operators._base import Operator, cached, declare, to_dense, to_scipy
from kpframe.operators._classes import classes_of, meeting
from kpframe.operators._declared import declared
from kpframe.operators._memory import CHUNK_BYTES, check_dense_memory, chunk_size
from kpframe.operators._spaces import Space, unflatten


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


class _Flat(LinearOperator):
    """An operator on flattened numpy vectors, taken to its device and back; columns of a matrix are probes.

    The operator is real: of complex vectors, the real and the imaginary parts are multiplied apart.
    """

    def __init__(self, operator: Operator) -> None:
        self._operator = operator
        dtype = np.dtype("float32" if operator.dtype == torch.float32 else "float64")
        super().__init__(dtype, (operator.codomain.size, operator.domain.size))  # type: ignore[call-arg]

    def _product(self, operator: Operator, columns: np.ndarray) -> np.ndarray:
        if np.iscomplexobj(columns):
            parts = self._product(operator, np.concatenate([columns.real, columns.imag], axis=1))
            real, imaginary = np.split(parts, 2, axis=1)
            whole = np.empty(real.shape, dtype=np.result_type(parts.dtype, np.complex64))
            whole.real, whole.imag = real, imaginary
            return whole
        rows = np.array(columns.T, dtype=self.dtype, order="C")  # a copy: SciPy's vectors may be read-only
        tensor = torch.as_tensor(rows, device=operator.device)
        out = operator(tensor.reshape(-1, *operator.domain.shape))
        flat: np.ndarray = out.reshape(out.shape[0], -1).cpu().numpy().T
        return flat

    def _matmat(self, columns: np.ndarray) -> np.ndarray:
        return self._product(self._operator, columns)

    def _rmatmat(self, columns: np.ndarray) -> np.ndarray:
        return self._product(self._operator.T, columns)

    def _matvec(self, vector: np.ndarray) -> np.ndarray:
        return self._matmat(vector.reshape(-1, 1)).reshape(-1)

    def _rmatvec(self, vector: np.ndarray) -> np.ndarray:
        return self._rmatmat(vector.reshape(-1, 1)).reshape(-1)


@to_scipy.register
def _to_scipy(operator: Operator) -> LinearOperator:
    return _Flat(operator)
