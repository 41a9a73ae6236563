"""A and P of complex modes that do not mix: ``A_t`` multiplies each by its own ``lambda``.

On a real pair that is a rotation times a scaling. P is a scan over modes; no matrix product is made. It
comes in the forms of ``kpframe_ssm.scan``, a class each, for all A whose P is one.
"""

from __future__ import annotations

from abc import abstractmethod

import torch

from kpframe import Propagator, Space, StepJacobian
from kpframe.errors import ArgumentError, mismatch
from kpframe.flow import DiagonalStepJacobian
from kpframe_ssm.modes import probes_first, time_outermost, to_complex, to_real
from kpframe_ssm.scan import METHODS, choose, recur


class ScannedStepJacobian(StepJacobian):
    """A step Jacobian whose P is an elementwise scan, with what is done before and after it."""

    method = "modes"

    @property
    @abstractmethod
    def decay(self) -> torch.Tensor:  # [t, 1, b, n]
        """What is scanned over; t and b are 1 where it is the same for all."""

    @abstractmethod
    def propagate(self, q: torch.Tensor, scan: str) -> torch.Tensor:  # [..., B, T, H]
        """Return ``(I - A Z)^{-1} q`` by a form of the scan."""

    @abstractmethod
    def propagate_adjoint(self, r: torch.Tensor, scan: str) -> torch.Tensor:  # [..., B, T, H]
        """Return ``(I - A Z)^{-*} r`` by a form of the scan."""


class ModeStepJacobian(ScannedStepJacobian):
    """``A_t z = lambda_t o z`` on complex modes.

    Args:
        decay: ``lambda``, complex ``[t, 1, b, n]``; t and b are 1 where it is the same for all.
        space: the state space, of width 2 n.
        name: how it prints.
    """

    def __init__(self, decay: torch.Tensor, space: Space, *, name: str = "A") -> None:
        super().__init__(space, dtype=decay.real.dtype, device=decay.device, name=name)
        self._decay = decay.detach()

    @property
    def decay(self) -> torch.Tensor:
        """``lambda``, complex."""
        return self._decay

    def step(self, t: int, v: torch.Tensor) -> torch.Tensor:
        """Return ``A_t v``."""
        return to_real(self._at(t) * to_complex(v))

    def step_adjoint(self, t: int, v: torch.Tensor) -> torch.Tensor:
        """Return ``A_t* v``: the conjugate rotation, the same scaling."""
        return to_real(self._at(t).conj() * to_complex(v))

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        z = self.decay * to_complex(time_outermost(q))
        return probes_first(to_real(z), q.shape[:-3])

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        z = self.decay.conj() * to_complex(time_outermost(r))
        return probes_first(to_real(z), r.shape[:-3])

    def propagate(self, q: torch.Tensor, scan: str) -> torch.Tensor:
        """Return ``(I - A Z)^{-1} q`` by a form of the scan."""
        return self._scan(q, scan, reverse=False)

    def propagate_adjoint(self, r: torch.Tensor, scan: str) -> torch.Tensor:
        """Return ``(I - A Z)^{-*} r`` by a form of the scan."""
        return self._scan(r, scan, reverse=True)

    def diagonal(self) -> DiagonalStepJacobian:
        """Return the operator that keeps the diagonal of each ``A_t``, the real part of lambda, twice."""
        batch, time, _ = self.domain.shape
        real = self.decay.real[:, 0].transpose(0, 1)
        values = torch.cat([real, real], dim=-1).expand(batch, time, -1).contiguous()
        return DiagonalStepJacobian(values, self.domain, name=f"diag({self.name})").keeping(self.valid)

    def masked(self, keep: torch.Tensor, name: str | None = None) -> ModeStepJacobian:
        """Return ``A`` with ``A_t := 0`` where ``keep`` (bool, ``[T]`` or ``[B, T]``) is False."""
        label = super().masked(keep, name).name  # checks keep
        kept = keep.mT if keep.ndim == 2 else keep.unsqueeze(1)  # [T, b]
        cut = ModeStepJacobian(self.decay * kept[:, None, :, None], self.domain, name=label)
        return cut.keeping(self.valid)

    def _at(self, t: int) -> torch.Tensor:  # [b, n]
        return self.decay[t % len(self.decay), 0]

    def _scan(self, q: torch.Tensor, scan: str, reverse: bool) -> torch.Tensor:
        out = recur(self.decay, to_complex(time_outermost(q)), scan, reverse)
        return probes_first(to_real(out), q.shape[:-3])


class ModePropagator(Propagator):
    """P by one elementwise scan over time, in the cheapest form for each product."""

    A: ScannedStepJacobian

    #: The form of the scan.
    scan = "auto"

    @property
    def method(self) -> str:
        """How a product with one vector is computed: ``"sequential"``, ``"chunked"`` or ``"fft"``."""
        batch, time, _ = self.domain.shape
        decay = self.A.decay
        return choose(self.scan, decay, decay.new_empty(1).expand(time, 1, batch, decay.shape[-1]))

    @classmethod
    def fits(cls, A: StepJacobian) -> str | None:
        """Return why this form cannot take a step Jacobian, or None where it can."""
        known = isinstance(A, ScannedStepJacobian)
        return None if known else "it scans over modes that do not mix, those of a diagonal state-space model"

    def with_step(self, A: StepJacobian, *, name: str | None = None) -> Propagator:
        """Return ``P`` of another A: in this form, else in the cheapest of the scan, else by A's own scan."""
        if self.fits(A) is not None and ModePropagator.fits(A) is None:
            return ModePropagator(A, name=self.name if name is None else name)
        return super().with_step(A, name=name)

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return self.A.propagate(q, self.scan)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return self.A.propagate_adjoint(r, self.scan)


class SequentialModePropagator(ModePropagator):
    """P by T elementwise steps, one after the other."""

    scan = "sequential"


class ChunkedModePropagator(ModePropagator):
    """P by a scan within all chunks of sqrt(T) steps at once, one over their ends, and a correction."""

    scan = "chunked"


class FFTModePropagator(ModePropagator):
    """P as a convolution with the powers of lambda; for the same lambda, at most 1, at every step."""

    scan = "fft"

    @classmethod
    def fits(cls, A: StepJacobian) -> str | None:
        """Return why this form cannot take a step Jacobian, or None where it can."""
        reason = super().fits(A)
        if reason is None and isinstance(A, ScannedStepJacobian):
            if len(A.decay) > 1:
                return "a convolution needs the same lambda at every step"
            # beyond 1 what rounding leaves of the largest value is larger than the values before it
            if bool((A.decay.abs() > 1).any()):
                return f"a convolution needs |lambda| <= 1, got {float(A.decay.abs().max()):.6g}"
        return reason


FORMS: dict[str, type[ModePropagator]] = {
    form.scan: form
    for form in (ModePropagator, SequentialModePropagator, ChunkedModePropagator, FFTModePropagator)
}


def in_form(scan: str, A: ScannedStepJacobian) -> ModePropagator:
    """Return P in a form of the scan by its name; in the cheapest where that form does not fit."""
    form = FORMS[check_scan(scan)]
    return form(A) if form.fits(A) is None else ModePropagator(A)


def check_scan(scan: str, methods: tuple[str, ...] = METHODS) -> str:
    """Return the name of a form of the scan; raises ``ArgumentError`` for an unknown one."""
    if scan not in methods:
        raise ArgumentError(mismatch("scan", f"one of {', '.join(map(repr, methods))}", repr(scan)))
    return scan
