"""Solutions of ``(I - A) x = b`` for many right-hand sides at once, each with an A of its own."""

from __future__ import annotations

from collections.abc import Callable

import torch

from kpframe.errors import ArgumentError
from kpframe_rules.units import row_units

Product = Callable[[torch.Tensor], torch.Tensor]

#: Longest Krylov basis that is kept before starting again.
RESTART = 60
#: How many units of rounding of its terms a residual may keep.
ROUNDING = 16


def gmres(A: Product, b: torch.Tensor, *, tolerance: float, iterations: int, who: str) -> torch.Tensor:
    """Return x by GMRES with restarts (Saad & Schultz 1986, SIAM J. Sci. Stat. Comput. 7:856).

    Args:
        A: the product ``[..., H] -> [..., H]``; every leading index is a system of its own.
        b: right-hand sides ``[..., H]``.
        tolerance: largest residual relative to b; what rounding leaves, where that is more.
        iterations: largest number of products.
        who: names the caller in errors.

    Raises:
        ArgumentError: when the iterations do not suffice; says how far they came.
    """
    units = row_units(b)  # squares of small or large numbers stay within range
    b = b / units
    x, left = torch.zeros_like(b), iterations
    while True:
        Ax = A(x)
        r = b - x + Ax
        if bool((_norm(r) <= _target(b, x, Ax, tolerance)).all()):
            return units * x
        if left <= 0:
            raise ArgumentError(_failure(who, "GMRES", r, b, iterations, tolerance))
        length = min(b.shape[-1], RESTART, left)
        left -= length
        x = x + _correction(A, r, length)


def neumann(A: Product, b: torch.Tensor, *, tolerance: float, iterations: int, who: str) -> torch.Tensor:
    """Return x as the sum ``b + A b + A^2 b + ...``, which converges for a spectral radius below 1.

    Arguments and errors are those of ``gmres``.
    """
    units = row_units(b)
    x = b = b / units
    for _ in range(iterations):
        Ax = A(x)
        new = b + Ax
        if not bool(torch.isfinite(_norm(new)).all()):
            break
        if bool((_norm(new - x) <= _target(b, x, Ax, tolerance)).all()):
            return units * new
        x = new
    raise ArgumentError(_failure(who, "the Neumann series", b + A(x) - x, b, iterations, tolerance))


def _correction(A: Product, r: torch.Tensor, length: int) -> torch.Tensor:
    """Return the d of a Krylov space of r with the least ``|r - (I - A) d|``."""
    scale = _norm(r)
    tiny = torch.finfo(r.dtype).tiny
    basis = [r / scale.clamp(min=tiny).unsqueeze(-1)]
    H = r.new_zeros(*r.shape[:-1], length + 1, length)
    for j in range(length):
        v = basis[j]
        w = v - A(v)
        before = _norm(w)
        for _ in range(2):  # twice is enough (Kahan)
            for i, u in enumerate(basis):
                along = (u * w).sum(dim=-1)
                H[..., i, j] += along
                w = w - along.unsqueeze(-1) * u
        size = _norm(w)
        on = size > ROUNDING * torch.finfo(r.dtype).eps * before  # off: the space is invariant
        H[..., j + 1, j] = torch.where(on, size, 0)
        basis.append(torch.where(on.unsqueeze(-1), w / size.clamp(min=tiny).unsqueeze(-1), 0))
        if not bool(on.any()):
            break
    right = H.new_zeros(*H.shape[:-1])
    right[..., 0] = scale
    y = (torch.linalg.pinv(H) @ right.unsqueeze(-1)).squeeze(-1)
    return sum((y[..., j, None] * basis[j] for j in range(min(length, len(basis)))), torch.zeros_like(r))


def _norm(v: torch.Tensor) -> torch.Tensor:
    norm: torch.Tensor = v.norm(dim=-1)
    return norm


def _target(b: torch.Tensor, x: torch.Tensor, Ax: torch.Tensor, tolerance: float) -> torch.Tensor:
    rounding = ROUNDING * torch.finfo(b.dtype).eps * (_norm(b) + _norm(x) + _norm(Ax))
    return torch.maximum(tolerance * _norm(b), rounding)


def _failure(
    who: str, method: str, r: torch.Tensor, b: torch.Tensor, iterations: int, tolerance: float
) -> str:
    worst = float((_norm(r) / _norm(b).clamp(min=torch.finfo(b.dtype).tiny)).max())
    return (
        f"{who}: {method} did not converge: relative residual {worst:.3g} after at most {iterations} "
        f"products, expected at most {tolerance:g}; the fixed point may be unstable or close to it"
    )
