"""Initial values of the modes: the published diagonal spectra of S4D and S5."""

from __future__ import annotations

import math

import numpy as np
import torch


def s4d_spectrum(kind: str, count: int) -> torch.Tensor:  # [count], complex128
    """Return the modes with positive imaginary part of S4D's initialisations, ``2 count`` states.

    ``lin``: ``-1/2 + i pi n``; ``inv``: ``-1/2 + i N/pi (N/(2n+1) - 1)`` with ``N = 2 count``; ``legs``: the
    spectrum of HiPPO-LegS' normal part. Source: Gu, Gupta, Goel & Re (2022), section 4.
    """
    n = torch.arange(count, dtype=torch.float64)
    if kind == "lin":
        return torch.complex(torch.full_like(n, -0.5), math.pi * n)
    if kind == "inv":
        states = 2 * count
        return torch.complex(torch.full_like(n, -0.5), states / math.pi * (states / (2 * n + 1) - 1))
    return hippo_normal(count)[0]


def hippo_normal(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return eigenvalues ``[count]`` and eigenvectors ``[2 count, count]`` of HiPPO-LegS' normal part.

    HiPPO-LegS is ``A_nk = -sqrt((2n+1)(2k+1))`` for n > k, ``-(n+1)`` for n = k, 0 else; its normal part is
    ``A + P P^T`` with ``P_n = sqrt(n + 1/2)``, which is ``-I/2`` plus a skew-symmetric matrix. Of each
    conjugate pair the eigenvalue with positive imaginary part is kept, in ascending order.
    Source: Gu, Goel & Re (2022), appendix; Smith, Warrington & Linderman (2023), section 3.3.
    """
    n = np.arange(2 * count)
    root = np.sqrt(2 * n + 1)
    skew = (np.triu(np.outer(root, root), 1) - np.tril(np.outer(root, root), -1)) / 2
    imaginary, vectors = np.linalg.eigh(-1j * skew)
    kept = slice(count, None)
    values = -0.5 + 1j * imaginary[kept]
    return torch.from_numpy(values), torch.from_numpy(vectors[:, kept].copy())
