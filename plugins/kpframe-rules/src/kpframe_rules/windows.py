"""A propagator with a window of its own for each step: where truncations begin."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kpframe import Operator, StepJacobian
from kpframe.errors import ArgumentError, mismatch


class WindowedPropagator(Operator):
    """``(P_w q)_t = Sum A_t ... A_{s+1} q_s`` over ``s`` from ``starts[t]`` to t; nothing is subtracted.

    One scan in which as many vectors ride as there are windows open at one time. That is one for chunks, k
    for a sliding window of k steps, but ``T - k + 1`` of them where it is longer than half of the T steps.

    Args:
        A: the step Jacobian.
        starts: first step of the window of each step; they never go back.
        name: what the operator prints as.

    Raises:
        ArgumentError: for starts that go back, or lie after their step.
    """

    def __init__(self, A: StepJacobian, starts: Sequence[int], *, name: str = "P_w") -> None:
        ahead = any(not 0 <= start <= t for t, start in enumerate(starts))
        if len(starts) != A.steps or ahead or list(starts) != sorted(starts):
            expected = f"{A.steps} steps that never go back, each in [0, t]"
            raise ArgumentError(mismatch("starts", expected, list(starts)))
        super().__init__(A.domain, A.domain, dtype=A.dtype, device=A.device)
        self.A, self.starts, self.name = A, tuple(starts), name
        opened = sorted(set(starts))
        last = {start: t for t, start in enumerate(starts)}
        #: Number of windows that are open at one time, at most.
        self.riding = max(sum(start <= t <= last[start] for start in opened) for t in range(A.steps))
        # windows close in the order in which they open, so that a slot is free again when its turn comes
        slot = {start: rank % self.riding for rank, start in enumerate(opened)}
        self._slots = [slot[start] for start in starts]
        self._opens = [slot.get(t) for t in range(A.steps)]

    @property
    def method(self) -> str:
        """How the products are computed: the form of the step Jacobian."""
        return self.A.method

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        carry = q.new_zeros(self.riding, *q.shape[:-2], q.shape[-1])  # [w, ..., B, H]
        out = []
        for t, source in enumerate(q.unbind(-2)):
            carry = self.A.step(t, carry) + source
            opening = self._opens[t]
            if opening is not None:
                carry[opening] = source
            out.append(carry[self._slots[t]])
        return torch.stack(out, dim=-2)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        carry = r.new_zeros(self.riding, *r.shape[:-2], r.shape[-1])
        out = torch.empty_like(r)
        for t in range(self.A.steps - 1, -1, -1):
            carry[self._slots[t]] += r[..., t, :]
            out[..., t, :] = carry.sum(dim=0)
            opening = self._opens[t]
            if opening is not None:
                carry[opening] = 0
            carry = self.A.step_adjoint(t, carry) if t else carry
        return out
