"""Inner products of operators that are never there together: from small sketches on the same random probes.

For Gaussian probes ``z_i`` and ``C_A[i, j] = <z_i, A z_j>``, the mean of ``C_A[i, j] C_B[i, j]`` over the
pairs ``i != j`` has the mean ``<A, B>_F`` (a U-statistic). Its error is about ``|A| |B| / m`` for m probes
and operators of high rank, and much larger where a few directions carry them: of rank one it is a sample
correlation. So a part of each operator that is known exactly is taken out of the sampling: with ``A_1 = sum
of l_a u_a u_a*`` from other probes (the leading eigenpairs of a Nystrom approximation),

    <A, B>  is estimated by  <A_1, B_1> + U(A, B) - U(A_1, B_1),

which has the same mean for whatever A_1 and B_1, and no error where they are all there is of A and B.
``<A_1, B_1> = sum of l_a m_b <u_a, v_b>^2`` needs the directions themselves. Where these are as long as
``LENGTH``, they are kept hashed to that length (each entry added to one of ``LENGTH`` sums with a random
sign, the same for all steps), and made orthonormal again.

Sources: Hutchinson 1990; Meyer, Musco, Musco, Woodruff 2021; Charikar, Chen, Farach-Colton 2002 (hashing).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from attrs import frozen

from kpframe.operators._base import Operator
from kpframe.operators._spaces import Space
from kpframe.spectra._numerics.matvecs import Matvecs
from kpframe.spectra._numerics.probes import random_rows
from kpframe.spectra._numerics.ranks import any_entry, basis_rows, places, whole_rows
from kpframe.spectra._numerics.statistics import t_factor

#: Length to which directions are hashed that are not shorter.
LENGTH = 2048
#: Directions that are taken out of the sampling.
DIRECTIONS = 8
#: Groups of sums of which one at a time is left out, to see what hashing does.
GROUPS = 16
#: Entries of vectors that are cast to float64 at a time.
SLICE = 2**15
#: Least standard error of what is not exact.
ROUNDING = 1e-7
#: Smallest eigenvalue of a direction, relative to the largest: below it rounding makes the direction.
SMALLEST = 1e-5


@frozen(eq=False)
class OperatorSketch:
    """What is kept of an operator for its inner products with others.

    Attributes:
        gram: ``[m, m]``, C; where ``exact`` the operator's matrix.
        values: ``[q]``, the eigenvalues of the part that is taken out of the sampling; zero for none.
        probed: ``[q, m]``, its directions in terms of the probes, ``<z_i, u_a>``.
        directions: ``[q, d]``, the directions, hashed where they are longer.
        exact: whether there were enough probes for the whole matrix.
    """

    gram: np.ndarray
    values: np.ndarray
    probed: np.ndarray
    directions: np.ndarray
    exact: bool

    @classmethod
    def of(cls, operator: Operator, budget: int, generator: torch.Generator) -> OperatorSketch:
        """Return the sketch of an operator from ``budget`` products, or fewer where it is small.

        The first third of the probes finds the directions of a positive operator; others have none.
        """
        space = operator.domain
        size = space.dimension
        length = min(LENGTH, size)
        matvec = Matvecs(operator, plain=True)
        if size <= budget:
            rows = basis_rows(space, 0, size, operator)
            none = np.zeros((DIRECTIONS, 1))
            gram = _inner(rows, matvec(rows), space).numpy()
            return cls(gram, none[:, 0], none.repeat(size, 1), none.repeat(length, 1), True)
        probes = random_rows(operator, budget, generator)
        products = matvec(probes)
        first = budget // 3 if operator.positive else 0
        seen = probes[first:]
        values, vectors = _leading(probes[:first], products[:first], space)
        gram = _inner(seen, products[first:], space).numpy()
        probed = _inner(vectors, seen, space).numpy()
        found = len(values)
        return cls(
            gram,
            np.pad(values, (0, DIRECTIONS - found)),
            np.pad(probed, ((0, DIRECTIONS - found), (0, 0))),
            np.pad(_hashed(vectors, length, space), ((0, DIRECTIONS - found), (0, 0))),
            False,
        )


def _inner(
    rows: torch.Tensor, others: torch.Tensor, space: Space
) -> torch.Tensor:  # [a, n], [b, n] -> [a, b]
    """Return inner products in float64, over all ranks, on the CPU.

    A slice at a time: long vectors are not held in float64 as a whole.
    """
    total = rows.new_zeros(len(rows), len(others), dtype=torch.float64)
    for start in range(0, rows.shape[1], SLICE):
        part = slice(start, start + SLICE)
        total += rows[:, part].double() @ others[:, part].double().mT
    return space.sum(total).cpu()


def _leading(probes: torch.Tensor, products: torch.Tensor, space: Space) -> tuple[np.ndarray, torch.Tensor]:
    """Return the leading eigenpairs ``[q]``, ``[q, n]`` of the Nystrom approximation, few where there are."""
    empty = np.zeros(0), products[:0]
    if len(probes) == 0 or not any_entry(products, space):
        return empty
    core = _inner(probes, products, space)
    own, basis_ = torch.linalg.eigh((core + core.mT) / 2)
    kept = own > SMALLEST * own[-1].clamp(min=0)
    if not bool(kept.any()):
        return empty
    root = basis_[:, kept] * own[kept].rsqrt()  # N = (Y root) (Y root)*
    inner = root.mT @ _inner(products, products, space) @ root
    squares, turn = torch.linalg.eigh(inner)
    kept = squares > SMALLEST * squares[-1]
    squares, turn = squares[kept].flip(0)[:DIRECTIONS], turn[:, kept].flip(1)[:, :DIRECTIONS]
    mix = (root @ turn * squares.rsqrt()).to(products)
    return squares.numpy(), mix.mT @ products


def _hashed(vectors: torch.Tensor, length: int, space: Space) -> np.ndarray:
    """Return vectors ``[q, n]`` hashed to a length, by the same places and signs for all operators."""
    count, size = len(vectors), space.dimension
    if length < LENGTH:
        return whole_rows(vectors.double(), space).cpu().numpy()
    source = torch.Generator().manual_seed(size)
    sums_of = torch.randint(length, (size,), generator=source)
    signs = torch.randint(2, (size,), generator=source, dtype=torch.float64) * 2 - 1
    if space.shards is not None:
        own = places(space, torch.device("cpu"))
        sums_of, signs = sums_of[own], signs[own]
    sums = torch.zeros(count, length, dtype=torch.float64)
    sums.index_add_(1, sums_of, vectors.double().cpu() * signs)
    return space.sum(sums.to(vectors.device)).cpu().numpy()


def cosines(sketches: Sequence[OperatorSketch]) -> tuple[np.ndarray, np.ndarray]:
    """Return the cosines ``[s, s]`` between operators, NaN where one is zero, and standard errors.

    All of one operator space, from the same probes. The jackknife leaves out each probe, and each of some
    groups of the sums that directions were hashed to; it takes the bias of the ratio away, too.
    """
    if all(sketch.exact for sketch in sketches):
        matrices = np.stack([sketch.gram for sketch in sketches]).reshape(len(sketches), -1)
        whole = _ratio(matrices @ matrices.T)
        return whole, np.where(np.isnan(whole), np.nan, 0.0)
    parts = _Parts.of(sketches)
    known = parts.known(parts.cross())
    whole = _ratio(known + parts.sampled())
    value, variance = whole.copy(), np.zeros_like(whole)
    num = parts.grams.shape[1]
    left = [_ratio(known + parts.sampled(without=i)) for i in range(num)]
    hashed = [_ratio(parts.known(parts.cross(without=i)) + parts.sampled()) for i in parts.groups]
    for each, factor in ((left, t_factor(num)), (hashed, 1.0)):
        if each:
            rows = np.stack(each)
            value += (len(rows) - 1) * (whole - rows.mean(0))
            variance += (len(rows) - 1) * rows.var(0) * factor**2
    defined = ~np.isnan(whole)
    stderr = np.where(defined, np.maximum(np.sqrt(variance), ROUNDING), np.nan)
    value = np.clip(value, -1, 1)
    diagonal = np.arange(len(sketches))
    value[diagonal, diagonal] = np.where(np.diag(defined), 1.0, np.nan)  # of an operator with itself
    stderr[diagonal, diagonal] = np.where(np.diag(defined), 0.0, np.nan)
    return value, stderr


@frozen(eq=False)
class _Parts:
    """What is kept of s operators, stacked: grams ``[s, m, m]``, values ``[s, q]``, directions ..."""

    grams: np.ndarray
    values: np.ndarray
    low: np.ndarray  # [s, m, m], what the directions make of the probes
    rows: np.ndarray  # [s q, d]

    @classmethod
    def of(cls, sketches: Sequence[OperatorSketch]) -> _Parts:
        """Return the parts of sketches."""
        values = np.stack([sketch.values for sketch in sketches])
        probed = np.stack([sketch.probed for sketch in sketches])
        low = np.einsum("sq,sqi,sqj->sij", values, probed, probed)
        grams = np.stack([sketch.gram for sketch in sketches])
        return cls(grams, values, low, np.concatenate([sketch.directions for sketch in sketches]))

    @property
    def groups(self) -> range:
        """The groups of sums that may be left out; none where directions are kept as they are."""
        return range(GROUPS if self.rows.shape[1] >= LENGTH else 0)

    def cross(self, without: int | None = None) -> np.ndarray:  # [s, q, s, q]
        """Return the inner products of all directions, of all sums but a group of them."""
        count, rank = self.values.shape
        kept = (
            self.rows if without is None else self.rows[:, np.arange(self.rows.shape[1]) % GROUPS != without]
        )
        return np.asarray((kept @ kept.T).reshape(count, rank, count, rank))

    def known(self, cross: np.ndarray) -> np.ndarray:  # [s, s]
        """Return ``<A_1, B_1>``; hashed directions are made orthonormal again, each with as little change."""
        roots = [_inverse_root(cross[i, :, i]) for i in range(len(cross))]
        root = np.stack(roots)
        turned = np.einsum("apq,aqbr,brs->apbs", root, cross, root, optimize=True) ** 2
        return np.asarray(np.einsum("ap,apbs,bs->ab", self.values, turned, self.values, optimize=True))

    def sampled(self, without: int | None = None) -> np.ndarray:  # [s, s]
        """Return ``U(A, B) - U(A_1, B_1)``, of all probes but one."""
        pairs = 1.0 - np.eye(self.grams.shape[1])
        if without is not None:
            pairs[without] = pairs[:, without] = 0
        whole, low = ((part * pairs).reshape(len(part), -1) for part in (self.grams, self.low))
        return np.asarray((whole @ whole.T - low @ low.T) / pairs.sum())


def _ratio(inner: np.ndarray) -> np.ndarray:
    size = np.sqrt(np.where(np.diag(inner) > 0, np.diag(inner), np.nan))
    return np.asarray(inner / size[:, None] / size)


def _inverse_root(gram: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(gram)
    kept = values > 1e-6 * max(values[-1], math.ulp(0.0))
    return np.asarray((vectors[:, kept] / np.sqrt(values[kept])) @ vectors[:, kept].T)
