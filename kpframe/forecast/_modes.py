"""The parts of an error along eigenvectors of Theta: all those of its matrix, or those that Lanczos finds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from attrs import evolve, frozen

from kpframe.forecast._laws import Decay
from kpframe.operators._memory import check_memory
from kpframe.operators._spaces import Space
from kpframe.spectra._numerics.linalg import outside
from kpframe.spectra._numerics.matvecs import Matvecs
from kpframe.spectra._numerics.ranks import own_rows, whole_rows

#: Lanczos steps after which the bound is looked at again, as a share of those made.
LOOK = 8


@frozen(eq=False)
class Modes:
    """An error as a sum of eigenvectors, with bounds on what is missing.

    Attributes:
        values: eigenvalues, ``[m]``.
        parts: of the error along each, ``[m]``.
        vectors: ``[m, n]``, this rank's entries.
        bounds: on the norm of the error of a forecast, by its horizon.
    """

    values: np.ndarray
    parts: np.ndarray
    vectors: torch.Tensor
    bounds: np.ndarray

    def combined(self, factors: np.ndarray) -> torch.Tensor:  # [n]
        """Return the sum of the parts times factors."""
        return torch.from_numpy(self.parts * factors).to(self.vectors.device) @ self.vectors

    def size(self, factors: np.ndarray) -> float:
        """Return its norm."""
        with np.errstate(over="ignore", invalid="ignore"):
            return float(np.linalg.norm(self.parts * factors))


def dense_modes(matrix: torch.Tensor, error: torch.Tensor, horizons: int, space: Space) -> Modes:
    """Return the modes of an error of a space under a symmetric matrix, of which each rank has all."""
    values, columns = torch.linalg.eigh(matrix)
    parts = columns.mT @ whole_rows(error[None], space)[0]
    vectors = own_rows(columns.mT, space)
    return Modes(values.cpu().numpy(), parts.cpu().numpy(), vectors, np.zeros(horizons))


def lanczos_modes(
    matvec: Matvecs,
    error: torch.Tensor,
    decay: Decay,
    counts: Sequence[int],
    *,
    growth: float,
    tol: float,
    most: int,
) -> Modes:
    """Return the modes of an error ``[n]`` in a Krylov space that is large enough for all horizons.

    Args:
        matvec: products with Theta, positive, of the dtype of its operator.
        error: in float64.
        decay: the law of the error.
        counts: numbers of updates, ascending.
        growth: how much an error may grow in an update.
        tol: bound at which it ends, relative to the change of the error at each horizon.
        most: Lanczos steps at most.
    """
    size = length_of(error, matvec.op.domain)
    if size == 0:
        return Modes(np.zeros(1), np.zeros(1), error[None], np.zeros(len(counts)))
    space, look = _Krylov(matvec, error / size), 1
    while True:
        space.extend()
        ended = space.whole or space.size >= most
        if space.size < look and not ended:
            continue
        look = space.size + max(1, space.size // LOOK)
        values, columns = np.linalg.eigh(space.tridiagonal)
        weights = columns[-1] * columns[0]
        modes = Modes(values, columns[0] * size, error[None], np.zeros(0))
        moved = np.array([modes.size(1 - decay.left(values, count)) for count in counts])
        if not ended:
            least = decay.largest_remainder(values, weights, space.beyond, counts[-1])
            if size * least > tol * moved[-1]:
                continue
        bounds = 2 * size * decay.remainders(values, weights, space.beyond, growth, counts)
        if ended or bool((bounds <= tol * moved).all()):
            vectors = torch.from_numpy(columns.T.copy()).to(error) @ space.rows
            return evolve(modes, vectors=vectors, bounds=bounds)


def length_of(vector: torch.Tensor, space: Space) -> float:  # [n]
    """Return the norm of a vector, over all ranks."""
    return float(vector.norm() if space.shards is None else space.norms(vector[None])[0])


class _Krylov:
    """The recurrence of Lanczos from one vector, with full reorthogonalisation.

    Attributes:
        beyond: h, how much of the latest product lies outside the space.
    """

    def __init__(self, matvec: Matvecs, start: torch.Tensor) -> None:
        self._matvec, self._next, self._space = matvec, start, matvec.op.domain
        self._diagonal: list[float] = []
        self._beside: list[float] = []
        self._buffer = start.new_empty(0, len(start))
        self.beyond = 0.0

    @property
    def size(self) -> int:
        """Dimension of the space."""
        return len(self._diagonal)

    @property
    def rows(self) -> torch.Tensor:  # [size, n]
        """Its orthonormal basis."""
        return self._buffer[: self.size]

    @property
    def tridiagonal(self) -> np.ndarray:  # [size, size]
        """The operator in the basis, T."""
        beside = self._beside[1:]
        return np.asarray(np.diag(self._diagonal) + np.diag(beside, 1) + np.diag(beside, -1))

    @property
    def whole(self) -> bool:
        """Whether products do not leave the space, but for rounding."""
        largest = max(map(abs, (*self._diagonal, *self._beside)))
        rounding = 8 * torch.finfo(self._next.dtype).eps * largest
        return self.size == self._space.dimension or self.beyond <= rounding

    def extend(self) -> None:
        """Add a vector, by one product."""
        if self.size:
            self._next = self._next / self.beyond
        self._beside.append(self.beyond)
        self._make_room()
        self._buffer[self.size] = self._next
        image = self._matvec(self._next[None].to(self._matvec.op.dtype)).to(self._next)
        self._diagonal.append(float(self._space.sum(image[0] @ self._next)))
        self._next = outside(image, self.rows, self._space)[0]
        self.beyond = length_of(self._next, self._space) if self.size < self._space.dimension else 0.0

    def _make_room(self) -> None:
        if self.size < len(self._buffer):
            return
        more = max(16, self.size)
        needed, device = 2 * (self.size + more) * self._next.nbytes, self._next.device
        what, remedy = "forecast: Krylov vectors", "take fewer trials"
        self._space.together(partial(check_memory, what, needed, device, remedy, None))
        self._buffer = torch.cat([self._buffer, self._buffer.new_empty(more, len(self._next))])
