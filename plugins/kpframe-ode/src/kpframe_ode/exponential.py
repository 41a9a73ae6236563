"""``phi_1(z) = (exp(z) - 1) / z`` of tensors and of matrices, smooth through zero."""

from __future__ import annotations

import torch

from kpframe_ode import integrators

#: Below this size the quotient's derivative loses digits, and the series does not.
_SMALL = 1e-2
_SERIES = (1 / 5040, 1 / 720, 1 / 120, 1 / 24, 1 / 6, 1 / 2, 1.0)  # next term: z^7 / 40320 < 3e-19


def phi1(z: torch.Tensor | float) -> torch.Tensor | float:
    """Return phi_1 entry by entry; value and derivatives are accurate at and around zero."""
    if not isinstance(z, torch.Tensor):
        return integrators.phi1(z)
    small = z.abs() < _SMALL
    near, far = torch.where(small, z, 0.0), torch.where(small, 1.0, z)  # no branch divides by zero
    series = torch.zeros_like(near)
    for coefficient in _SERIES:
        series = series * near + coefficient
    return torch.where(small, series, torch.expm1(far) / far)


def matrix_phi1(matrix: torch.Tensor) -> torch.Tensor:  # [H, H] -> [H, H]
    """Return phi_1 of a matrix, which may be singular.

    The upper right block of ``exp([[Z, I], [0, 0]])`` (Al-Mohy & Higham 2011, SIAM J. Sci. Comput. 33:488,
    theorem 2.1).
    """
    n = len(matrix)
    unit = torch.eye(n, dtype=matrix.dtype, device=matrix.device)
    block = torch.nn.functional.pad(torch.cat([matrix, unit], dim=1), (0, 0, 0, n))
    exponential: torch.Tensor = torch.linalg.matrix_exp(block)
    return exponential[:n, n:]
