"""Lanczos quadrature: one tridiagonal matrix a probe, all probes in one batched product a step.

S. Ubaru, J. Chen, Y. Saad, "Fast estimation of tr(f(A)) via stochastic Lanczos quadrature", SIAM J. Matrix
Anal. Appl. 2017; G. H. Golub, J. H. Welsch, "Calculation of Gauss quadrature rules", Math. Comp. 1969.

For A = sum_i lambda_i u_i u_i* and a vector z, <z, f(A) z> = sum_i f(lambda_i) <z, u_i>^2 is an integral of f
over the spectral measure of z. After k Lanczos steps from z, the eigenpairs (theta_j, y_j) of the
tridiagonal matrix T make its Gauss quadrature of k nodes,

    <z, f(A) z> ~ |z|^2 sum_j tau_j f(theta_j),    tau_j = <e_1, y_j>^2,

exact for polynomials of degree up to 2 k - 1. The mean over random z with E[z z*] = I estimates tr f(A).
"""

from __future__ import annotations

import torch
from attrs import frozen

from kpframe.spectra._numerics.linalg import symmetric_eigen
from kpframe.spectra._numerics.matvecs import Matvecs
from kpframe.spectra._numerics.ranks import row_dots

F64 = torch.float64


@frozen(eq=False)
class Tridiagonal:
    """The Lanczos matrices of several start vectors; a row that broke down ends in zeros."""

    diagonal: torch.Tensor  # [p, steps]
    beside: torch.Tensor  # [p, steps - 1]
    squares: torch.Tensor  # [p], the start vectors' squared lengths

    def quadrature(self, steps: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the Gauss nodes and weights ``[p, steps]`` after so many steps (None: all).

        ``sum(weights * f(nodes))`` of a row estimates <z, f(A) z>; the weights of a row sum to <z, z>.
        """
        diagonal, beside = self.diagonal[:, :steps], self.beside
        beside = beside[:, : diagonal.shape[1] - 1]
        matrix = torch.diag_embed(diagonal)
        if beside.shape[1]:
            matrix = matrix + torch.diag_embed(beside, 1) + torch.diag_embed(beside, -1)
        nodes, vectors = symmetric_eigen(matrix)
        weights = vectors[:, 0] ** 2 * self.squares[:, None]
        return torch.where(weights > 0, nodes, 0.0), weights


def lanczos(
    matvec: Matvecs, starts: torch.Tensor, steps: int, deflated: torch.Tensor | None = None
) -> Tridiagonal:  # starts: [p, n]
    """Return the Lanczos matrices of a self-adjoint operator from each start vector.

    Full reorthogonalisation, also against ``deflated`` rows (eigenvectors taken out before). Where a
    recurrence breaks down, at a remainder below rounding of the norm, its row ends; when all have, the run
    does.
    """
    space = matvec.op.domain
    num, dimension = len(starts), space.dimension
    steps = min(steps, dimension)
    lengths = space.norms(starts)[:, None]
    alive = lengths[:, 0] > 0
    current = starts / lengths.clamp(min=torch.finfo(starts.dtype).tiny)
    basis = starts.new_zeros(num, steps, starts.shape[1])
    diagonal = torch.zeros(num, steps, dtype=F64, device=starts.device)
    beside = torch.zeros(num, steps, dtype=F64, device=starts.device)  # of the step before each
    scale = torch.zeros(num, dtype=F64, device=starts.device)
    eps = torch.finfo(starts.dtype).eps
    for step in range(steps):
        basis[:, step] = current
        images = matvec(current)
        diagonal[:, step] = row_dots(images, current, space)
        scale = torch.maximum(scale, space.norms(images).to(F64))
        if step + 1 == steps:
            break
        for _ in range(2):
            known = basis[:, : step + 1]
            images = images - (space.inner(images[:, None], known) @ known)[:, 0]
            if deflated is not None:
                images = images - space.inner(images, deflated) @ deflated
        remainder = space.norms(images).to(F64)
        alive = alive & (remainder > 8 * eps * dimension**0.5 * scale)
        if not alive.any():
            break
        beside[:, step + 1] = torch.where(alive, remainder, 0.0)
        current = torch.where(alive[:, None], images / remainder[:, None].to(images.dtype), 0.0)
    return Tridiagonal(diagonal, beside[:, 1:], lengths[:, 0].to(F64) ** 2)
