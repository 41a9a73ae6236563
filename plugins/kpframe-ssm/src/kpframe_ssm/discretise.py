"""From continuous to discrete time: ``dh/dt = A h + B x`` sampled every ``dt``.

========== =========================================== ==============================================
method     decay                                       input
========== =========================================== ==============================================
zoh        ``exp(A dt)``                               ``A^-1 (exp(A dt) - I) B``, x held over a step
bilinear   ``(I - A dt/2)^-1 (I + A dt/2)``            ``(I - A dt/2)^-1 dt B``
========== =========================================== ==============================================

These are ``scipy.signal.cont2discrete``'s A and B. Its bilinear form changes C and D as well, which the
state-space layers (S4, S5) do not.
"""

from __future__ import annotations

import math

import torch

from kpframe.errors import ArgumentError, mismatch

METHODS = ("zoh", "bilinear")

#: Terms of the series of ``phi`` inside the unit disc; the next is under 1e-17.
_SERIES_TERMS = 19


def check_method(method: str) -> str:
    """Return the name of a discretisation; raises ``ArgumentError`` for an unknown one."""
    if method not in METHODS:
        raise ArgumentError(mismatch("discretisation", "'zoh' or 'bilinear'", repr(method)))
    return method


def diagonal(A: torch.Tensor, dt: torch.Tensor, method: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ``lambda`` and the factor g of ``Bbar = g o B`` for modes ``dz/dt = A z + B x``.

    Args:
        A: complex ``[...]``.
        dt: time steps [unit of 1/A], positive, broadcast to ``A``.
        method: ``"zoh"`` or ``"bilinear"``.
    """
    z = A * dt
    if check_method(method) == "zoh":
        return torch.exp(z), dt * phi1(z)
    half = 1 - z / 2
    return (1 + z / 2) / half, dt / half


def phi1(z: torch.Tensor) -> torch.Tensor:
    """Return ``(exp(z) - 1) / z`` of complex numbers, 1 at 0, exact near 0, as are all its derivatives.

    The quotient loses digits near 0 and is 0 / 0 there, and differentiating it loses more; and the
    gradient of a ``where`` between it and a series is NaN at 0. So the derivative is built in:
    ``phi_k' = phi_k - k phi_{k+1}`` with ``phi_k(z) = Sum_j z^j / (j + k)!``.
    """
    return _phi(z, 1)


def _phi(z: torch.Tensor, k: int) -> torch.Tensor:
    return _Phi.apply(z, k)  # type: ignore[no-any-return, no-untyped-call]


class _Phi(torch.autograd.Function):
    """``phi_k``: by its series inside the unit disc, by ``phi_{k+1} = (phi_k - 1/k!) / z`` outside."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z: torch.Tensor, k: int) -> torch.Tensor:
        series = torch.zeros_like(z)
        for j in range(_SERIES_TERMS, -1, -1):
            series = series * z + 1 / math.factorial(j + k)
        quotient = torch.exp(z)
        for j in range(k):
            quotient = (quotient - 1 / math.factorial(j)) / z
        return torch.where(z.abs() < 1, series, quotient)

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        z, ctx.k = inputs
        ctx.save_for_backward(z)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        (z,) = ctx.saved_tensors
        slope = _phi(z, ctx.k) - ctx.k * _phi(z, ctx.k + 1)
        return gradient * slope.conj(), None


def dense(
    A: torch.Tensor, B: torch.Tensor, dt: float, method: str
) -> tuple[torch.Tensor, torch.Tensor]:  # [H, H], [H, I]
    """Return the discrete A and B of a dense system.

    Raises:
        ArgumentError: for an unknown method or a ``dt`` that is not positive and finite.
    """
    if not 0 < dt < math.inf:
        raise ArgumentError(mismatch("dt", "a positive number", dt))
    size = len(A)
    if check_method(method) == "zoh":  # the exponential of the augmented matrix (Van Loan 1978)
        both = torch.cat([A, B], dim=1) * dt
        joint = torch.linalg.matrix_exp(torch.cat([both, both.new_zeros(B.shape[1], both.shape[1])]))
        return joint[:size, :size], joint[:size, size:]
    half = dt / 2 * A
    eye = torch.eye(size, dtype=A.dtype, device=A.device)
    solved = torch.linalg.solve(eye - half, torch.cat([eye + half, dt * B], dim=1))
    return solved[:, :size], solved[:, size:]
