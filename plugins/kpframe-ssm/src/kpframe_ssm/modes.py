"""How complex modes are laid out in a real state: the component ``re``, then the component ``im``.

A state of n modes is ``[Re z_1 .. Re z_n, Im z_1 .. Im z_n]``, of width 2 n. The operators work on the
complex form with time outermost, ``[T, K, B, n]`` with K the probes, in which a step is contiguous.
"""

from __future__ import annotations

import torch


def to_complex(h: torch.Tensor) -> torch.Tensor:  # [..., 2 n] -> [..., n]
    """Return the complex modes of a state."""
    re, im = h.chunk(2, dim=-1)
    return torch.complex(re, im)


def to_real(z: torch.Tensor) -> torch.Tensor:  # [..., n] -> [..., 2 n]
    """Return the state of complex modes, real parts first."""
    return torch.cat([z.real, z.imag], dim=-1)


def from_pairs(p: torch.Tensor) -> torch.Tensor:  # [..., 2] -> [...]
    """Return complex numbers from real and imaginary parts in the last dimension."""
    return torch.complex(p[..., 0], p[..., 1])  # view_as_complex cannot be batched at any offset


def turned(h: torch.Tensor) -> torch.Tensor:  # [..., 2 n] -> [..., 2 n]
    """Return the state of the modes times i: ``lambda o z`` is ``Re lambda o h + Im lambda o turned(h)``."""
    re, im = h.chunk(2, dim=-1)
    return torch.cat([-im, re], dim=-1)


def unflatten(v: torch.Tensor, *sizes: int) -> torch.Tensor:  # [..., prod(sizes)] -> [..., *sizes]
    """Return ``v`` with its last dimension in several."""
    return v.reshape(*v.shape[:-1], *sizes)


def time_outermost(q: torch.Tensor) -> torch.Tensor:  # [..., B, T, w] -> [T, K, B, w]
    """Return a state vector with all its probe dimensions in one, behind time."""
    return q.reshape(-1, *q.shape[-3:]).permute(2, 0, 1, 3)


def probes_first(z: torch.Tensor, probes: torch.Size) -> torch.Tensor:  # [T, K, B, w] -> [..., B, T, w]
    """Undo ``time_outermost``, as a view."""
    return z.permute(1, 2, 0, 3).reshape(*probes, *z.shape[2:3], *z.shape[:1], *z.shape[3:])
