"""The Nystrom sketch of a positive operator and its leave-one-out residuals.

For probes Omega and products Y = A Omega, the Nystrom approximation is N = Y H^+ Y* with H = Omega* Y. It
reproduces A on the probes, so leaving probe i out changes it by one rank: N - N_i = s_i s_i*. The residual
R_i = A - N_i vanishes on the other probes and is known on omega_i: R_i omega_i = s_i <s_i, omega_i>. These
are unbiased one-sample looks at what the sketch misses, at no further product (Epperly, Tropp, Webber,
"XTrace: making the most of every sample in stochastic trace estimation", SIAM J. Matrix Anal. Appl. 2024).

The looks share the sketch and are correlated; their error is found by comparing the view of all probes with
views from which one probe is deleted altogether (``LeaveOneOut``).
"""

from __future__ import annotations

import torch
from attrs import frozen

from kpframe.spectra._numerics.linalg import symmetric_eigen
from kpframe.spectra._numerics.statistics import Looks, deletions

F64 = torch.float64


@frozen(eq=False)
class View:
    """``b`` Nystrom approximations ``N = Q F F* Q*`` of ``A + shift I``, each from ``k`` of the probes.

    ``Q changes[:, :, i]`` is s_i, ``known`` is <s_i, omega_i>, ``Q parts[:, :, i]`` is the projection of
    p_i, the part of omega_i orthogonal to the other probes. A residual sees only p_i; ``scale`` sets its
    squared length to the mean, n - k + 1, which takes the noise of the length out.
    """

    factor: torch.Tensor  # [b, m, k]
    changes: torch.Tensor  # [b, m, k]
    known: torch.Tensor  # [b, k]
    parts: torch.Tensor  # [b, m, k]
    scale: torch.Tensor  # [b, k]
    shift: float
    dimension: int


@frozen(eq=False)
class Sketch:
    """Probes and products in the orthonormal basis Q of the products; small matrices in float64."""

    basis: torch.Tensor  # [n, m], orthonormal columns, the operator's dtype
    core: torch.Tensor  # [m, m], H = Omega* Y
    products: torch.Tensor  # [m, m], Q* Y
    probes: torch.Tensor  # [m, m], Q* Omega
    triangle: torch.Tensor  # [m, m], of the QR factors of Omega
    shift: float

    @classmethod
    def of(cls, probes: torch.Tensor, products: torch.Tensor) -> Sketch:
        """Return the sketch from Gaussian probes and the products with them, both ``[m, n]``, m <= n.

        A is shifted by a few roundings of H, so that zero, low-rank and fast-decaying operators need no
        special case; the shift is taken off the estimates again.
        """
        limits = torch.finfo(products.dtype)
        core = (probes @ products.mT).to(F64)
        largest = float(torch.linalg.eigvalsh((core + core.mT) / 2)[-1])
        shift = max(8 * limits.eps * largest / probes.shape[1], limits.tiny)
        products = products + shift * probes
        core = (probes @ products.mT).to(F64)
        basis, coordinates = torch.linalg.qr(products.mT)
        return cls(
            basis,
            (core + core.mT) / 2,
            coordinates.to(F64),
            (basis.mT @ probes.mT).to(F64),
            torch.linalg.qr(probes.mT, mode="r")[1].to(F64),
            shift,
        )

    def views(self) -> tuple[View, View]:
        """Return the view of all probes (b = 1) and those with one probe deleted."""
        num, device = len(self.core), self.core.device
        return self._view(torch.arange(num, device=device)[None]), self._view(deletions(num, device))

    @property
    def looks(self) -> Looks:
        """How much the samples' looks outside have in common."""
        num = len(self.triangle)
        eye = torch.eye(num, dtype=F64, device=self.triangle.device)
        half = torch.linalg.solve_triangular(self.triangle, eye, upper=True)
        inverse = half @ half.mT  # of the probes' Gram matrix, which is also that of the p_i but for lengths
        lengths = inverse.diagonal().rsqrt()
        return Looks((lengths[:, None] * inverse * lengths).square(), self.basis.shape[0] - num)

    @property
    def rounding(self) -> float:
        """The size of the rounding errors in an estimated trace.

        What the samples see outside is one over entries of the inverse of H, so rounding comes multiplied by
        the condition of H, which grows as the probes come to span the space.
        """
        view = self._view(torch.arange(len(self.core), device=self.core.device)[None])
        outside = float((view.scale * view.known**2).mean())
        values = torch.linalg.eigvalsh(self.core)
        eps = torch.finfo(self.basis.dtype).eps
        condition = min(1 / eps, float(values[-1] / values[0].clamp(min=torch.finfo(F64).tiny)))
        return self.shift * self.basis.shape[0] + eps * condition * outside

    def _view(self, kept: torch.Tensor) -> View:  # [b, k]
        """Return the approximations from the kept probes; H is inverted by its eigenvalues."""
        dimension, num = self.basis.shape[0], kept.shape[1]
        core = self.core[kept[:, :, None], kept[:, None, :]]
        values, vectors = symmetric_eigen(core)
        limits = torch.finfo(self.basis.dtype)
        values = values.clamp(min=(limits.eps * values[:, -1:]).clamp(min=limits.tiny))
        root = vectors * values.rsqrt()[:, None, :]  # root root* is the inverse of H
        factor = self.products[:, kept].movedim(1, 0) @ root
        known = (root * root).sum(2).rsqrt()  # 1 / sqrt(diagonal of the inverse of H)
        changes = (factor @ root.mT) * known[:, None, :]
        triangle = torch.linalg.qr(self.triangle[:, kept].movedim(1, 0), mode="r")[1]
        eye = torch.eye(num, dtype=F64, device=core.device)
        half = torch.linalg.solve_triangular(triangle, eye, upper=True)
        inverse = half @ half.mT  # of the probes' Gram matrix
        diagonal = inverse.diagonal(dim1=1, dim2=2)
        parts = (self.probes[:, kept].movedim(1, 0) @ inverse) / diagonal[:, None, :]
        scale = (dimension - num + 1) * diagonal
        return View(factor, changes, known, parts, scale, self.shift, dimension)


def trace_samples(view: View) -> torch.Tensor:  # [b, k]
    """Return the leave-one-out estimates of tr A: tr N_i + scale_i <p_i, R_i p_i>."""
    inside = (view.factor**2).sum((1, 2))[:, None] - (view.changes**2).sum(1)
    outside = view.scale * view.known**2
    return inside + (outside - view.shift * view.dimension)


def inner_samples(a: View, b: View, cross: torch.Tensor | None = None) -> torch.Tensor:  # [b, k]
    """Return the leave-one-out estimates of <A, B>_F for two sketches on the same probes.

    With A = N_i + R_i and B = M_i + S_i, the first term of <A, B> = <N_i, M_i> + <N_i, S_i> + <R_i, M_i> +
    <R_i, S_i> is known and the others are seen through p_i: <p_i, N_i S_i p_i>, and so on. ``cross`` is
    ``Q_a* Q_b`` (None: the two sketches share their basis).
    """
    change_b = b.changes if cross is None else cross @ b.changes  # t_i in the basis of a
    change_a = a.changes if cross is None else cross.mT @ a.changes
    factor_b = b.factor if cross is None else cross @ b.factor
    overlap = (a.changes * change_b).sum(1)  # <s_i, t_i>
    on_a = a.factor.mT @ change_b  # F_a* t_i
    on_b = b.factor.mT @ change_a
    inside = ((a.factor.mT @ factor_b) ** 2).sum((1, 2))[:, None]
    inside = inside - (on_a**2).sum(1) - (on_b**2).sum(1) + overlap**2
    mixed_a = b.known * (((a.factor.mT @ a.parts) * on_a).sum(1) - a.known * overlap)  # <p, N_i S_i p>
    mixed_b = a.known * (((b.factor.mT @ b.parts) * on_b).sum(1) - b.known * overlap)
    outside = a.scale * (mixed_a + mixed_b + a.known * b.known * overlap)
    shifted = b.shift * trace_samples(a) + a.shift * trace_samples(b)
    return inside + outside - shifted - a.shift * b.shift * a.dimension
