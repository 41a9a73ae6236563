"""``P = (I - A Z)^{-1}``, the propagator: ``(P q)_t = q_t + A_t (P q)_{t-1}``.

``P[t, s] = A_t A_{t-1} ... A_{s+1}`` for ``s <= t`` and zero above: the state-transition matrices. The
abstract class first, then its forms, then what is made of it (inverse, truncations, transitions).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch

from kpframe.errors import ArgumentError, UnsupportedError, mismatch, whole
from kpframe.flow._step_jacobian import StepJacobian
from kpframe.operators._base import MEMORY_BUDGET, Operator
from kpframe.operators._memory import check_dense_memory
from kpframe.operators._spaces import BATCH, TIME


class TrialwiseOperator(Operator):
    """An operator on states by which no trial reaches another."""

    @property
    def separate_axes(self) -> frozenset[str]:
        """``batch``."""
        return frozenset({BATCH})


class Propagator(TrialwiseOperator):
    """The solution operator of the linearized dynamics, built from a step Jacobian ``A``; abstract.

    A form supplies ``_apply`` and ``_apply_adjoint`` on ``[..., B, T, H]``, probes first; it says by ``fits``
    which step Jacobians it takes and by ``settings`` how it was made. A rule that changes what flows through
    time is the same ``P`` with another ``A``: ``with_step``.

    Args:
        A: the step Jacobian.
        name: how it prints.
        why: why the products are computed as ``method`` says.

    Attributes:
        device_type: of the devices that the form is for, such as ``"cuda"``; None for any.

    Raises:
        UnsupportedError: for a step Jacobian that the form does not fit; says why.
    """

    device_type: ClassVar[str | None] = None

    def __init__(self, A: StepJacobian, *, name: str = "P", why: str = "asked for") -> None:
        reason = self.fits(A)
        if reason is not None:
            raise UnsupportedError(f"{type(self).__name__} does not fit {A!r} ({A.method} form): {reason}")
        super().__init__(A.domain, A.domain, dtype=A.dtype, device=A.device)
        self.A = A
        self.name = name
        self.why = why

    @property
    def method(self) -> str:
        """How the products are computed."""
        return "custom"

    @classmethod
    def fits(cls, A: StepJacobian) -> str | None:
        """Return why this form cannot take a step Jacobian ``A``, such as its device; None where it can."""
        if cls.device_type in (None, A.device.type):
            return None
        return f"it is for {cls.device_type} devices, and A is on {A.device}"

    @classmethod
    def prefers(cls, A: StepJacobian) -> bool:
        """Return whether this form is known to be the fastest for products with ``A``, of those that it fits.

        ``propagator="fastest"`` asks the forms of plugins, and takes the first that prefers A.
        """
        return False

    @property
    def settings(self) -> dict[str, Any]:
        """What a form takes beside A, its name and why: the keywords that ``with_step`` hands on."""
        return {}

    def with_step(self, A: StepJacobian, *, name: str | None = None) -> Propagator:
        """Return ``P`` of another step Jacobian: of the same form where it fits, else the scan of ``A``.

        Args:
            A: the step Jacobian, such as one that a rule has changed.
            name: how it prints; that of this one when left out.
        """
        name = self.name if name is None else name
        if self.fits(A) is None:
            return type(self)(A, name=name, **self.settings)
        return ScanPropagator(A, name=name)

    def _inverse(self) -> Operator:
        """Return ``I - A Z``, the exact inverse, in one pass without a scan."""
        return InversePropagator(self)

    def transition(self, t: int, s: int | None = None) -> TransitionOperator:
        """Return ``dh_t / dh_s`` on ``(batch, hidden)``; ``s=None`` is the initial state.

        Time indices count the entries of the time axis, from 0; negative ones count from its end.
        Raises ``ArgumentError`` for an index out of range or ``s > t``.
        """
        return TransitionOperator(self.A, t, s)

    def truncated(self, window: int) -> Operator:
        """Return ``P_k = Sum_{j<k} (A Z)^j`` with ``k = window`` terms; ``k = 1`` is the identity.

        Costs ``k - 1`` products with ``A`` over all steps at once; a scan in which ``T - k + 1`` vectors ride
        where those are fewer; with ``k >= T`` it is P.
        """
        window, time = whole(window, "window"), self.A.steps
        if time - window + 1 < window - 1 and window < time:
            starts = [max(0, t - window + 1) for t in range(time)]
            return WindowedPropagator(self.A, starts, name=f"P_{window}")
        return TruncatedPropagator(self, window)

    def chunked(self, length: int, offset: int = 0) -> Propagator:
        """Return ``P`` with ``A_t := 0`` at the starts ``offset, offset + length, ...`` of chunks.

        The first step is left as it is: it leads from the initial state, and P never uses it.
        """
        length = whole(length, "length")
        offset = whole(offset, "offset", 0, length - 1)
        keep = torch.arange(self.A.steps, device=self.device) % length != offset
        keep[0] = True  # what comes before the first step is h_0, which no chunk holds
        name = f"P_chunk{length}" + (f"+{offset}" if offset else "")
        return self.with_step(self.A.masked(keep), name=name)


class ScanPropagator(Propagator):
    """``P`` by the scan that its step Jacobian ``A`` brings: forward in time for ``P``, backward for ``P*``.

    All probes ride along in every step. It prints as ``name``; ``why`` says why it was taken.
    """

    def __init__(
        self, A: StepJacobian, *, name: str = "P", why: str = "the form of its step Jacobian"
    ) -> None:
        super().__init__(A, name=name, why=why)

    @property
    def method(self) -> str:
        """How the products are computed: the form of the step Jacobian."""
        return self.A.method

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return self.A.scan(time_outermost(q)).movedim(0, -2)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return self.A.scan_adjoint(time_outermost(r)).movedim(0, -2)


class StepwisePropagator(Propagator):
    """``P`` by one product with ``A_t`` after the other, whatever scan the step Jacobian brings.

    It uses ``A.step`` and ``A.step_adjoint`` alone: the plain reference for every other form.
    """

    @property
    def method(self) -> str:
        """Always ``"stepwise"``."""
        return "stepwise"

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return StepJacobian.scan(self.A, time_outermost(q)).movedim(0, -2)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return StepJacobian.scan_adjoint(self.A, time_outermost(r)).movedim(0, -2)


class DensePropagator(Propagator):
    """``P`` by the blocks of A written out, ``[T, B, H, H]``: one batched matrix product a step.

    The blocks take H products with A, made with the first product. It pays where the state is small or A is
    dear, and where many products follow.

    Args:
        A: the step Jacobian.
        max_bytes: largest memory of the blocks, in bytes.
        name: how it prints.
        why: why the products are computed so.

    Raises:
        MemoryBudgetError: for blocks that need more than ``max_bytes``.
    """

    def __init__(
        self, A: StepJacobian, *, max_bytes: int = MEMORY_BUDGET, name: str = "P", why: str = "asked for"
    ) -> None:
        super().__init__(A, name=name, why=why)
        self.max_bytes = whole(max_bytes, "max_bytes")
        batch, time, hidden = A.domain.shape
        check_dense_memory(f"blocks of {A!r}", batch * time * hidden, hidden, A.dtype, self.max_bytes)

    @property
    def method(self) -> str:
        """Always ``"dense"``."""
        return "dense"

    @property
    def settings(self) -> dict[str, Any]:
        """The memory that the blocks may take."""
        return {"max_bytes": self.max_bytes}

    @cached_property
    def _blocks(self) -> torch.Tensor:  # [T, B, H, H]
        return self.A.blocks(self.max_bytes).transpose(0, 1).contiguous()

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        states = self._rows(q)
        for t in range(1, len(states)):
            states[t].baddbmm_(states[t - 1], self._blocks[t].mT)
        return states.permute(2, 1, 0, 3).reshape(q.shape)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        states = self._rows(r)
        for t in range(len(states) - 1, 0, -1):
            states[t - 1].baddbmm_(states[t], self._blocks[t])
        return states.permute(2, 1, 0, 3).reshape(r.shape)

    def _rows(self, q: torch.Tensor) -> torch.Tensor:  # [..., B, T, H] -> [T, B, k, H]
        """Return a copy in which the probes of each trial and step are the rows of a matrix."""
        flat = q.reshape(-1, *self.domain.shape)
        return flat.permute(2, 1, 0, 3).clone(memory_format=torch.contiguous_format)


class InversePropagator(TrialwiseOperator):
    """``I - A Z``."""

    def __init__(self, propagator: Propagator) -> None:
        super().__init__(
            propagator.domain, propagator.domain, dtype=propagator.dtype, device=propagator.device
        )
        self.propagator = propagator
        self.name = f"{propagator.name}^-1"

    def _inverse(self) -> Propagator:
        return self.propagator

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return q - self.propagator.A._apply(shift(q))

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return r - unshift(self.propagator.A._apply_adjoint(r))


class TruncatedPropagator(TrialwiseOperator):
    """``P_k = Sum_{j<k} (A Z)^j``, the first ``k`` terms of the Neumann series of ``P``, by Horner's rule.

    ``P_1 = I`` and ``P_{j+1} = I + A Z P_j``: a product with A over all steps at once for each further term.
    With at least as many terms, ``window``, as steps it is P in its own form.
    """

    def __init__(self, P: Propagator, window: int) -> None:
        window = whole(window, "window")
        super().__init__(P.domain, P.domain, dtype=P.dtype, device=P.device)
        self.A = P.A
        self.window = window
        self.name = f"P_{window}"
        self._full = P if window >= P.A.steps else None

    @property
    def method(self) -> str:
        """How the products are computed: the form of the step Jacobian, or of all of P."""
        return self.A.method if self._full is None else self._full.method

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        if self._full is not None:
            return self._full._apply(q)
        out = q.clone()
        for _ in range(self.window - 1):
            out = q + self.A._apply(shift(out))
        return out

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        if self._full is not None:
            return self._full._apply_adjoint(r)
        out = r.clone()
        for _ in range(self.window - 1):
            out = r + unshift(self.A._apply_adjoint(out))
        return out


class WindowedPropagator(TrialwiseOperator):
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


class TransitionOperator(TrialwiseOperator):
    """``A_t A_{t-1} ... A_{s+1}`` of ``A``: how a change of the state at ``s`` (None: h_0) arrives at ``t``.

    Raises ``ArgumentError`` for indices that are none of A's steps or not in order.
    """

    def __init__(self, A: StepJacobian, t: int, s: int | None) -> None:
        space = A.domain.without(TIME)
        super().__init__(space, space, dtype=A.dtype, device=A.device)
        self.A = A
        self.t = _index("t", t, A.steps)
        self.s = -1 if s is None else _index("s", s, A.steps)
        if self.s > self.t:
            raise ArgumentError(mismatch("s", f"an index <= t = {self.t}", self.s))
        self.name = f"P[{self.t},{'h0' if self.s < 0 else self.s}]"

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        out = q.clone()
        for t in range(self.s + 1, self.t + 1):
            out = self.A.step(t, out)
        return out

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        out = r.clone()
        for t in range(self.t, self.s, -1):
            out = self.A.step_adjoint(t, out)
        return out


def time_outermost(q: torch.Tensor) -> torch.Tensor:  # [..., B, T, H] -> [T, ..., B, H]
    """Return a copy in which each step is contiguous, for a scan to work in."""
    return q.movedim(-2, 0).clone(memory_format=torch.contiguous_format)


def shift(q: torch.Tensor) -> torch.Tensor:
    """Return ``Z q`` for ``q`` ``[..., T, H]``: ``(Z q)_t = q_{t-1}``, zero at the first step."""
    out = torch.zeros_like(q)
    out[..., 1:, :] = q[..., :-1, :]
    return out


def unshift(q: torch.Tensor) -> torch.Tensor:
    """Return ``Z* q`` for ``q`` ``[..., T, H]``: ``(Z* q)_t = q_{t+1}``, zero at the last step."""
    out = torch.zeros_like(q)
    out[..., :-1, :] = q[..., 1:, :]
    return out


def _index(argument: str, value: object, steps: int) -> int:
    expected = f"a time index in [{-steps}, {steps - 1}]"
    return whole(value, argument, -steps, steps - 1, expected=expected) % steps
