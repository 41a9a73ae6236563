"""The Nystrom sketch of a positive operator and what it leaves out, without each of its probes.

For probes Omega and products Y = A Omega, the Nystrom approximation is N = Y H^+ Y* with H = Omega* Y. It
reproduces A on the probes: N Omega = Y. Leaving out probe i changes it by one rank,

    N - N_i = s_i s_i*,    s_i = Y H^-1 e_i / sqrt((H^-1)_ii),    <s_i, omega_i> = 1 / sqrt((H^-1)_ii)

(the inverse of H without row and column i is that of H less a matrix of rank one). What is left,
R_i = A - N_i, vanishes on the other probes, and on omega_i it is known at no further product:

    R_i omega_i = A omega_i - N_i omega_i = N omega_i - N_i omega_i = s_i <s_i, omega_i>.

As omega_i is independent of N_i, <omega_i, R_i omega_i> = <s_i, omega_i>^2 is an unbiased sample of tr R_i
(E. N. Epperly, J. A. Tropp, R. J. Webber, "XTrace: making the most of every sample in stochastic trace
estimation", SIAM J. Matrix Anal. Appl. 45 (2024), XNysTrace). Of omega_i it sees only p_i, the part
orthogonal to the other probes, whose direction is uniform in their complement, of dimension n - m + 1, and
independent of its length. With G = Omega* Omega,

    p_i = Omega G^-1 e_i / (G^-1)_ii,    |p_i|^2 = 1 / (G^-1)_ii,

so that ``scale`` (n - m + 1) (G^-1)_ii sets the squared length to its mean, which takes the noise of the
length out (the paper's normalisation of test vectors). H is inverted by its eigenvalues rather than by
Cholesky's factor, so that it may be singular to rounding.

The samples share the sketch and are correlated; their error is found by comparing those of all probes with
those of which one probe is deleted altogether (``LeaveOneOut``).
"""

from __future__ import annotations

import torch
from attrs import frozen

from kpframe.operators._spaces import Space
from kpframe.spectra._numerics.linalg import gram_matrix, symmetric_eigen, tall_qr
from kpframe.spectra._numerics.statistics import SampleCorrelation, all_but_one

F64 = torch.float64


@frozen(eq=False)
class Approximations:
    """``b`` Nystrom approximations ``N = Q F F* Q*`` of ``A + shift I``, each from ``k`` of the m probes."""

    factor: torch.Tensor  # [b, m, k], F
    changes: torch.Tensor  # [b, m, k], column i is Q* s_i
    known: torch.Tensor  # [b, k], <s_i, omega_i>
    parts: torch.Tensor  # [b, m, k], column i is Q* p_i
    scale: torch.Tensor  # [b, k], (n - k + 1) / |p_i|^2
    shift: float
    dimension: int


@frozen(eq=False)
class Sketch:
    """Probes and products in the orthonormal basis Q of the products; small matrices in float64."""

    basis: (
        torch.Tensor
    )  # [n, m], orthonormal columns, the operator's dtype; [n, 0] where it was not asked for
    core: torch.Tensor  # [m, m], H = Omega* Y
    products: torch.Tensor  # [m, m], Q* Y
    probes: torch.Tensor  # [m, m], Q* Omega
    triangle: torch.Tensor  # [m, m], of the QR factors of Omega
    shift: float
    dimension: int  # n

    @classmethod
    def of(
        cls, probes: torch.Tensor, products: torch.Tensor, space: Space, *, with_basis: bool = False
    ) -> Sketch:
        """Return the sketch from Gaussian probes and the products with them, both ``[m, n]``, m <= n.

        On a sharded space ``basis`` and both hold this rank's entries, all else is the same on every rank.

        A is shifted by a few roundings of H, so that zero, low-rank and fast-decaying operators need no
        special case; the shift is taken off the estimates again.

        In float32 all but the basis itself comes from inner products in float64, a third of the work of QR
        factors: these resolve a direction down to 1e-8 of the longest, float32 holds it to 6e-8.
        """
        if products.dtype == torch.float32 and not with_basis:
            found = cls._of_inner_products(probes, products, space)
            if found is not None:
                return found
        shift = _shift(space.inner(probes, products).to(F64), products.dtype, space.dimension)
        products = products + shift * probes
        core = space.inner(probes, products).to(F64)
        basis, coordinates = tall_qr(products, space)
        return cls(
            basis,
            (core + core.mT) / 2,
            coordinates.to(F64),
            space.inner(basis.mT, probes).to(F64),
            _triangle(probes, space).to(F64),
            shift,
            space.dimension,
        )

    @classmethod
    def _of_inner_products(cls, probes: torch.Tensor, products: torch.Tensor, space: Space) -> Sketch | None:
        """Return the sketch without its basis; None where directions are too close to each other."""
        num, size = len(probes), space.dimension
        every = gram_matrix(space, probes, products)
        own, core, image = every[:num, :num], every[:num, num:], every[num:, num:]
        shift = _shift(core, products.dtype, size)
        image = image + shift * (core + core.mT) + shift**2 * own
        core = core + shift * own
        coordinates, failed = torch.linalg.cholesky_ex(image, upper=True)
        triangle, failed_too = torch.linalg.cholesky_ex(own, upper=True)
        if int(failed) or int(failed_too):
            return None
        inside = torch.linalg.solve_triangular(coordinates.mT, core.mT, upper=False)  # Q* Omega
        core = (core + core.mT) / 2
        return cls(products[:0].mT, core, coordinates, inside, triangle, shift, size)

    def approximations(self) -> tuple[Approximations, Approximations]:
        """Return that from all probes (b = 1) and those with one probe deleted."""
        num, device = len(self.core), self.core.device
        return self._from(torch.arange(num, device=device)[None]), self._from(all_but_one(num, device))

    @property
    def correlation(self) -> SampleCorrelation:
        """How the samples' errors are correlated."""
        num = len(self.triangle)
        eye = torch.eye(num, dtype=F64, device=self.triangle.device)
        half = torch.linalg.solve_triangular(self.triangle, eye, upper=True)
        inverse = half @ half.mT  # G^-1, whose entries are <p_i, p_j> / (|p_i|^2 |p_j|^2)
        lengths = inverse.diagonal().rsqrt()
        return SampleCorrelation((lengths[:, None] * inverse * lengths).square(), self.dimension - num)

    @property
    def rounding(self) -> float:
        """The size of the rounding errors in an estimated trace.

        The samples outside are one over entries of the inverse of H, so rounding comes multiplied by the
        condition of H, which grows as the probes come to span the space.
        """
        all_probes = self._from(torch.arange(len(self.core), device=self.core.device)[None])
        outside = float((all_probes.scale * all_probes.known**2).mean())
        values = torch.linalg.eigvalsh(self.core)
        eps = torch.finfo(self.basis.dtype).eps
        condition = min(1 / eps, float(values[-1] / values[0].clamp(min=torch.finfo(F64).tiny)))
        return self.shift * self.dimension + eps * condition * outside

    def _from(self, kept: torch.Tensor) -> Approximations:  # [b, k]
        """Return the approximations from the kept probes."""
        dimension, num = self.dimension, kept.shape[1]
        core = self.core[kept[:, :, None], kept[:, None, :]]
        values, vectors = symmetric_eigen(core)
        limits = torch.finfo(self.basis.dtype)
        values = values.clamp(min=(limits.eps * values[:, -1:]).clamp(min=limits.tiny))
        root = vectors * values.rsqrt()[:, None, :]  # root root* = H^-1
        factor = self.products[:, kept].movedim(1, 0) @ root  # N = Y H^-1 Y* = (Y root) (Y root)*
        known = (root * root).sum(2).rsqrt()  # 1 / sqrt((H^-1)_ii)
        changes = (factor @ root.mT) * known[:, None, :]
        triangle = torch.linalg.qr(self.triangle[:, kept].movedim(1, 0), mode="r")[1]
        eye = torch.eye(num, dtype=F64, device=core.device)
        half = torch.linalg.solve_triangular(triangle, eye, upper=True)
        inverse = half @ half.mT  # G^-1 of the kept probes
        diagonal = inverse.diagonal(dim1=1, dim2=2)
        parts = (self.probes[:, kept].movedim(1, 0) @ inverse) / diagonal[:, None, :]
        scale = (dimension - num + 1) * diagonal
        return Approximations(factor, changes, known, parts, scale, self.shift, dimension)


def _shift(core: torch.Tensor, dtype: torch.dtype, size: int) -> float:
    """Return a few roundings of H, for each dimension."""
    limits = torch.finfo(dtype)
    largest = float(torch.linalg.eigvalsh((core + core.mT) / 2)[-1])
    return max(8 * limits.eps * largest / size, limits.tiny)


def _triangle(rows: torch.Tensor, space: Space) -> torch.Tensor:
    if space.shards is not None:
        return tall_qr(rows, space)[1]
    triangle: torch.Tensor = torch.linalg.qr(rows.mT, mode="r")[1]
    return triangle


def trace_samples(each: Approximations) -> torch.Tensor:  # [b, k]
    """Return the leave-one-out estimates of tr A: tr N_i + scale_i <p_i, R_i p_i>."""
    inside = (each.factor**2).sum((1, 2))[:, None] - (each.changes**2).sum(1)  # tr N_i = tr N - |s_i|^2
    outside = each.scale * each.known**2
    return inside + (outside - each.shift * each.dimension)


def inner_samples(
    a: Approximations, b: Approximations, cross: torch.Tensor | None = None
) -> torch.Tensor:  # [b, k]
    """Return the leave-one-out estimates of <A, B>_F for two sketches on the same probes.

    With A = N_i + R_i and B = M_i + S_i, the first term of

        <A, B> = <N_i, M_i> + <N_i, S_i> + <R_i, M_i> + <R_i, S_i>

    is known and the others are traces of what vanishes on the other probes, sampled by p_i as in
    ``trace_samples``: <p_i, N_i S_i p_i>, and so on, with R_i p_i = s_i <s_i, omega_i> and S_i p_i =
    t_i <t_i, omega_i>. So B = A gives |A|_F^2. ``cross`` is ``Q_a* Q_b`` (None: the two sketches share their
    basis).
    """
    change_b = b.changes if cross is None else cross @ b.changes  # t_i in the basis of a
    change_a = a.changes if cross is None else cross.mT @ a.changes
    factor_b = b.factor if cross is None else cross @ b.factor
    overlap = (a.changes * change_b).sum(1)  # <s_i, t_i>
    on_a = a.factor.mT @ change_b  # F_a* t_i
    on_b = b.factor.mT @ change_a
    inside = ((a.factor.mT @ factor_b) ** 2).sum((1, 2))[:, None]
    # <N - s s*, M - t t*> = |F_a* F_b|^2 - |F_a* t|^2 - |F_b* s|^2 + <s, t>^2
    inside = inside - (on_a**2).sum(1) - (on_b**2).sum(1) + overlap**2
    mixed_a = b.known * (((a.factor.mT @ a.parts) * on_a).sum(1) - a.known * overlap)  # <p, N_i S_i p>
    mixed_b = a.known * (((b.factor.mT @ b.parts) * on_b).sum(1) - b.known * overlap)
    outside = a.scale * (mixed_a + mixed_b + a.known * b.known * overlap)
    # <A + a I, B + b I> = <A, B> + b tr A + a tr B + a b n
    shifted = b.shift * trace_samples(a) + a.shift * trace_samples(b)
    return inside + outside - shifted - a.shift * b.shift * a.dimension
