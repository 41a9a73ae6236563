"""What P is computed by: substitution, one step after the other.

``(P q)_t = q_t + A_t (P q)_{t-1}`` is the forward substitution of ``I - A Z``, and ``(P* r)_{t-1} = r_{t-1} +
A_t* (P* r)_t`` the backward one of its adjoint.
"""

from __future__ import annotations

from typing import Protocol

import torch

from kpframe.operators._spaces import Space


class Steps(Protocol):
    """The two products of a step; ``StepJacobian`` has them."""

    domain: Space
    dtype: torch.dtype

    def step(self, t: int, v: torch.Tensor) -> torch.Tensor:
        """Return ``A_t v``."""

    def step_adjoint(self, t: int, v: torch.Tensor) -> torch.Tensor:
        """Return ``A_t* v``."""


class Scans(Protocol):
    """What P is computed by: see ``StepJacobian.scan``."""

    def scan(self, q: torch.Tensor) -> torch.Tensor:
        """Turn ``q`` ``[T, ..., B, H]`` into ``(I - A Z)^{-1} q`` in place, and return it."""

    def scan_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        """Turn ``r`` ``[T, ..., B, H]`` into ``(I - A Z)^{-*} r`` in place, and return it."""


class KeptSteps:
    """The scans of a step Jacobian, one product after the other, but for the steps that are cut."""

    def __init__(self, A: Steps, keep: torch.Tensor) -> None:
        rows = keep.expand(A.domain.shape[:2])
        self._A, self._keep = A, rows.to(A.dtype).unsqueeze(-1)  # [B, T, 1]
        self._any, self._all = rows.any(dim=0).tolist(), rows.all(dim=0).tolist()

    def scan(self, q: torch.Tensor) -> torch.Tensor:
        """Turn ``q`` ``[T, ..., B, H]`` into ``(I - A Z)^{-1} q`` in place, and return it."""
        for t in range(1, len(q)):
            if self._any[t]:
                moved = self._A.step(t, q[t - 1])
                q[t] += moved if self._all[t] else self._keep[:, t] * moved
        return q

    def scan_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        """Turn ``r`` ``[T, ..., B, H]`` into ``(I - A Z)^{-*} r`` in place, and return it."""
        for t in range(len(r) - 1, 0, -1):
            if self._any[t]:
                r[t - 1] += self._A.step_adjoint(t, r[t] if self._all[t] else self._keep[:, t] * r[t])
        return r
