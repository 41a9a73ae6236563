"""XTrace: the exchangeable, leave-one-out form of Hutch++.

E. N. Epperly, J. A. Tropp, R. J. Webber, "XTrace: making the most of every sample in stochastic trace
estimation", SIAM J. Matrix Anal. Appl. 45 (2024), the estimator XTrace with normalised test vectors. For any
square operator; two products a probe. Each probe serves both to sketch the range for the others and to sample
what their range misses.

With Q_i an orthonormal basis of the products with all probes but omega_i, and P_i = I - Q_i Q_i*, sample i is

    T_i = tr(Q_i* A Q_i) + c_i <P_i omega_i, A P_i omega_i>,    c_i = (n - m + 1) / |P_i omega_i|^2,

Hutch++ with all products but one for the range. It is unbiased, for omega_i is independent of Q_i, and the
direction of P_i omega_i, for a Gaussian omega_i, of its length: c_i puts the mean of the squared length,
the dimension n - (m - 1), in its place. No T_i needs products of its own. With Y = A Omega = Q R,

    Q_i Q_i* = Q (I - s_i s_i*) Q*,    s_i = R^-* e_i / |R^-* e_i|,

as s_i is orthogonal to every column of R but the i-th. So tr(Q_i* A Q_i) = tr H - <s_i, H s_i> with
H = Q* A Q, and with g_i = (I - s_i s_i*) Q* omega_i, the part of omega_i in the range of Q_i,

    <P_i omega_i, A P_i omega_i> = <omega_i, A omega_i> - <g_i, Q* (A + A*) omega_i> + <g_i, H g_i>.
"""

from __future__ import annotations

import torch
from attrs import frozen

from kpframe.spectra._numerics.linalg import orthonormal_rows
from kpframe.spectra._numerics.matvecs import Sampler
from kpframe.spectra._numerics.ranks import row_dots
from kpframe.spectra._numerics.statistics import LeaveOneOut, all_but_one, only_mean
from kpframe.spectra._traces.hutchinson import hutchinson

F64 = torch.float64


@frozen(eq=False)
class _Sketch:
    """The products with probes, in the orthonormal basis Q of their range; small matrices in float64."""

    products: torch.Tensor  # [r, m], Q* A Omega
    probes: torch.Tensor  # [r, m], Q* Omega
    back: torch.Tensor  # [r, m], Q* A* Omega
    core: torch.Tensor  # [r, r], H = Q* A Q
    forms: torch.Tensor  # [m], <omega_i, A omega_i>
    squares: torch.Tensor  # [m], |omega_i|^2
    dimension: int

    def samples(self, kept: torch.Tensor) -> torch.Tensor:  # [b, k] -> [b, k]
        """Return the leave-one-out estimates from the kept probes, for each of b choices of k of them."""
        products, probes, back = (
            small[:, kept].movedim(1, 0) for small in (self.products, self.probes, self.back)
        )
        basis, triangle = torch.linalg.qr(products)  # of the kept products, inside Q
        eye = torch.eye(kept.shape[1], dtype=F64, device=kept.device)
        inverse = torch.linalg.solve_triangular(triangle.mT, eye, upper=False)
        lost = basis @ (inverse / torch.linalg.vector_norm(inverse, dim=1, keepdim=True))  # s_i
        trace = ((self.core @ basis) * basis).sum((1, 2))
        inside = trace[:, None] - (lost * (self.core @ lost)).sum(1)
        inner = basis @ (basis.mT @ probes)
        seen = inner - lost * (lost * inner).sum(1, keepdim=True)  # g_i
        return self._assemble(kept, inside, seen, products + back, kept.shape[1] - 1)

    def rank_deficient(self) -> torch.Tensor:  # [m]
        """Return the estimates when the products are dependent: the range misses nothing without one."""
        kept = torch.arange(len(self.forms), device=self.forms.device)[None]
        inside = self.core.trace().expand(kept.shape)
        return self._assemble(
            kept, inside, self.probes[None], (self.products + self.back)[None], len(self.core)
        )[0]

    def _assemble(
        self, kept: torch.Tensor, inside: torch.Tensor, seen: torch.Tensor, sides: torch.Tensor, left: int
    ) -> torch.Tensor:
        """Return the trace inside plus the sample outside, with the probe's length set to its mean."""
        sample = self.forms[kept] - (seen * sides).sum(1) + (seen * (self.core @ seen)).sum(1)
        length = self.squares[kept] - (seen**2).sum(1)
        return inside + sample * (self.dimension - left) / length


def xtrace(source: Sampler, budget: int) -> tuple[float, float]:
    """Return the mean of one leave-one-out sample a pair of products (below two pairs: Hutchinson)."""
    num = budget // 2
    if num < 2:
        return hutchinson(source, budget)
    probes, products = source.products(num, "gaussian")
    space = source.op.domain
    basis = orthonormal_rows(products, space)  # [r, n]
    images = source.matvec(basis)  # (A Q)*, [r, n]
    sketch = _Sketch(
        space.inner(basis, products).to(F64),
        space.inner(basis, probes).to(F64),
        space.inner(images, probes).to(F64),
        space.inner(basis, images).to(F64),
        row_dots(probes, products, space),
        row_dots(probes, probes, space),
        space.dimension,
    )
    if len(basis) < num:
        samples = sketch.rank_deficient()
        return float(samples.mean()), float(samples.std())  # exact but for rounding
    whole = sketch.samples(torch.arange(num, device=probes.device)[None])
    deleted = sketch.samples(all_but_one(num, probes.device))
    return LeaveOneOut.of(whole[..., None], deleted[..., None]).estimate(only_mean)
