"""Conjugate gradients on a batch of right-hand sides, preconditioned by a metric."""

from __future__ import annotations

from collections.abc import Callable

import torch

from kpframe.errors import ArgumentError
from kpframe_rules.units import row_units

Product = Callable[[torch.Tensor], torch.Tensor]

#: How many units of rounding of its terms a residual may keep.
ROUNDING = 16


def damped_solve(
    F: Product, M0: Product, b: torch.Tensor, damping: float, *, tolerance: float, iterations: int, who: str
) -> torch.Tensor:
    """Return ``x = (F + damping M0^{-1})^{-1} b`` on the range of M0, in which x lies.

    Conjugate gradients preconditioned by M0 (Hestenes & Stiefel 1952; Saad 2003, Algorithm 9.1). Each search
    direction is kept with the vector that M0 makes it of, so that ``M0^{-1}`` is never applied and M0 may be
    singular. Each right-hand side goes on until its residual, in the norm of M0, is at most ``tolerance``
    times that of b, or what rounding leaves of it. The residual is computed anew at the end, and the method
    started again from there where the recursion had lost it.

    Args:
        F: a symmetric positive semi-definite product ``[k, M] -> [k, M]``.
        M0: likewise; the identity gives the ordinary method.
        b: right-hand sides ``[k, M]``.
        damping: > 0.
        tolerance: see above.
        iterations: the largest number.
        who: names the caller in errors.

    Raises:
        ArgumentError: when F or M0 is not positive semi-definite, or the iterations do not suffice; says how
            far they came.
    """
    units = row_units(b)  # squares of small or large numbers stay within range
    b = b / units
    scale = b.norm(dim=-1, keepdim=True)
    scale = torch.where(scale > 0, scale, 1)
    b = b / scale
    x, seed = torch.zeros_like(b), torch.zeros_like(b)  # x = M0 seed
    goal = tolerance * _size(b, M0(b), who)
    sigma = torch.zeros_like(goal)  # largest Rayleigh quotient of F met
    rounding, left = ROUNDING * torch.finfo(b.dtype).eps, iterations
    while True:
        r = b - F(x) - damping * seed
        z = M0(r)
        found = _size(r, z, who)
        floor = rounding * (goal / tolerance + (sigma + damping) * _size(seed, x, who))
        target = torch.maximum(goal, floor)
        if bool((found <= target).all()):
            return units * (scale * x)
        if left <= 0:
            worst = float((found / goal * tolerance).nan_to_num(0.0).max())
            raise ArgumentError(
                f"{who}: conjugate gradients did not converge: relative residual {worst:.3g} after "
                f"{iterations} iterations, expected at most {tolerance:g}; raise damping, max_iterations or "
                "tolerance"
            )
        p, p_seed, size = z, r, found
        while left > 0 and bool((active := size > target).any()):
            left -= 1
            Fp = F(p)
            bend, own = _dot(p, Fp), _dot(p, p_seed)
            if bool((active & ~(bend + damping * own > 0)).any()):
                raise ArgumentError(
                    f"{who}: expected a positive semi-definite curvature, got an indefinite one"
                )
            sigma = torch.where(active, torch.maximum(sigma, bend / own), sigma)
            alpha = torch.where(active, size.square() / (bend + damping * own), 0).unsqueeze(-1)
            x, seed = x + alpha * p, seed + alpha * p_seed
            r = r - alpha * (Fp + damping * p_seed)
            z = M0(r)
            new = _size(r, z, who)
            beta = torch.where(active, (new / size).square(), 0).unsqueeze(-1)
            p, p_seed = z + beta * p, r + beta * p_seed
            size = torch.where(active, new, size)


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:  # [k, M] -> [k]
    return (a * b).sum(dim=-1)


def _size(r: torch.Tensor, z: torch.Tensor, who: str) -> torch.Tensor:
    """Return the norms of r in the metric that makes z of it."""
    square = _dot(r, z)
    if bool((square < -(torch.finfo(r.dtype).eps ** 0.5) * r.norm(dim=-1) * z.norm(dim=-1)).any()):
        raise ArgumentError(f"{who}: expected a positive semi-definite metric, got an indefinite one")
    return square.clamp(min=0).sqrt()
