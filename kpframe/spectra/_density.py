"""The spectral density of a self-adjoint operator, by stochastic Lanczos quadrature.

The density (1/n) sum_i delta(lambda - lambda_i) is the mean over random directions z of their spectral
measures, sum_i <z, u_i>^2 delta(lambda - lambda_i) with |z| = 1. Each is replaced by its Gauss quadrature,
sum_j tau_j delta(lambda - theta_j), which has the same moments up to the degree 2 k - 1 (see
``_numerics.lanczos``; L. Lin, Y. Saad, C. Yang, "Approximating spectral densities of large matrices", SIAM
Review 2016).
"""

from __future__ import annotations

import math

import torch
from attrs import frozen

from kpframe.errors import ArgumentError, mismatch
from kpframe.operators import Operator
from kpframe.operators._isolation import in_isolation
from kpframe.spectra._arguments import (
    check_count,
    check_positive,
    check_square,
    check_symmetric,
    probe_symmetry,
)
from kpframe.spectra._numerics.lanczos import lanczos
from kpframe.spectra._numerics.matvecs import Matvecs
from kpframe.spectra._numerics.probes import agreed, new_generator, random_rows
from kpframe.spectra._numerics.small_side import WHERE, small_side


@frozen(eq=False)
class SpectralDensity:
    """A discrete estimate of the density of eigenvalues: raw nodes and weights, one row a probe.

    The weights of all rows sum to one. Nothing is smoothed; ``broadened`` is for plots.

    Attributes:
        nodes: ``[p, steps]``, float64; a row that ended early is filled with 0.
        weights: ``[p, steps]``, float64, weight 0 there.
        dimension: of the space, so that ``dimension * weights`` count eigenvalues.
        num_matvecs: operator products taken.
        method: how it was found.
    """

    nodes: torch.Tensor  # [p, steps], float64; a row that ended early is filled with 0
    weights: torch.Tensor  # [p, steps], float64, weight 0 there
    dimension: int
    num_matvecs: int
    method: str

    def broadened(self, grid: torch.Tensor, sigma: float) -> torch.Tensor:  # [g] -> [g]
        """Return the density ``[g]`` at ``grid`` ``[g]``, a normal curve of width ``sigma`` for each node.

        Raises ``ArgumentError`` for a ``sigma`` that is not positive.
        """
        sigma = check_positive(sigma, "sigma")
        nodes, weights = self.nodes.flatten(), self.weights.flatten()
        distances = (grid.to(nodes)[:, None] - nodes) / sigma
        return torch.exp(-(distances**2) / 2) @ weights / (sigma * math.sqrt(2 * math.pi))


@in_isolation
def spectral_density(
    op: Operator,
    *,
    budget: int = 200,
    num_lanczos: int | None = None,
    generator: torch.Generator | None = None,
) -> SpectralDensity:
    """Estimate the density of a self-adjoint operator's eigenvalues.

    Stochastic Lanczos quadrature: ``budget // num_lanczos`` random directions, each with ``num_lanczos``
    steps of full reorthogonalisation, all directions in one batched product a step. A recurrence that
    breaks down has found an invariant subspace and ends there. Operators of a dimension up to the budget are
    solved densely: every eigenvalue with weight 1/dimension; so are those that go through an inner space of
    such a dimension, as Phi = G M G* through the parameters, with all the zeros that they have besides as one
    node.

    Args:
        op: a self-adjoint operator; where that is not provable, two products test it.
        budget: number of operator products.
        num_lanczos: steps from each direction, at most the budget; None: the lesser of 40 and a fifth of
            the budget.
        generator: the source of the directions; None: a new one with seed 0.

    Raises:
        ArgumentError: for numbers that cannot be used or an operator that is not self-adjoint.
        SpaceMismatchError: when the operator is not square.
        NonFiniteError: when a product is not finite.

    Source: Ubaru, Chen, Saad 2017.

    Examples:
        >>> import kpframe, torch
        >>> density = kpframe.spectral_density(kpframe.DiagonalOperator(torch.tensor([1.0, 1.0, 3.0])))
        >>> density.nodes.round(decimals=3).tolist()
        [[1.0, 1.0, 3.0]]
        >>> density.weights.sum()
        tensor(1., dtype=torch.float64)
    """
    check_square(op, "spectral_density")
    budget = check_count(budget, "budget")
    steps = min(40, max(1, budget // 5)) if num_lanczos is None else check_count(num_lanczos, "num_lanczos")
    source = agreed(new_generator(generator), op, budget=budget, num_lanczos=steps)
    dimension = op.domain.dimension
    matvec = Matvecs(op)
    side = small_side(op)
    if side is not None and side.dimension <= budget:
        small = torch.cat([side.eigenvalues, torch.zeros(1, dtype=torch.float64, device=op.device)])
        weights = torch.full_like(small, 1 / dimension)
        weights[-1] = 1 - side.dimension / dimension  # the zeros that it has besides
        return SpectralDensity(small[None], weights[None], dimension, side.dimension, f"dense, {WHERE}")
    if dimension <= budget:
        dense = matvec.dense()
        check_symmetric(op, float((dense - dense.mT).abs().max()), float(dense.abs().max()))
        values = matvec.unit * torch.linalg.eigvalsh((dense + dense.mT).double() / 2)[None]
        return SpectralDensity(
            values, torch.full_like(values, 1 / dimension), dimension, matvec.count, "dense"
        )
    num = (budget - (0 if op.self_adjoint else 2)) // steps
    if num < 1:
        raise ArgumentError(mismatch("budget", f"at least {steps} products for {steps} steps", budget))
    if not op.self_adjoint:
        probe_symmetry(op, matvec, source)
    starts = random_rows(op, num, source, "sphere")
    nodes, weights = lanczos(matvec, starts, steps).quadrature()
    weights = weights / weights.sum()
    nodes = matvec.unit * nodes
    return SpectralDensity(nodes, weights, dimension, matvec.count, f"Lanczos, {num} probes, {steps} steps")
