"""Lyapunov exponents along a trajectory, by repeated QR decomposition; nothing overflows for long runs.

Sources: Benettin et al., Meccanica 15 (1980), for the spectrum; Kaplan and Yorke (1979) for the
dimension; Engelken, Wolf and Abbott, Phys. Rev. Research 5 (2023), for recurrent networks.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from attrs import frozen

from kpframe.errors import ArgumentError, mismatch
from kpframe.step_jacobian import StepJacobian


@frozen(eq=False)
class LyapunovSpectrum:
    """Exponents of each trial, from the largest.

    Attributes:
        exponents: ``[batch, k]``, per unit time (per step when ``dt`` is 1); ``-inf`` where the dynamics
            has no such direction left.
        dt: time per step.
        steps: number of steps averaged over.
    """

    exponents: torch.Tensor
    dt: float
    steps: int

    @property
    def mean(self) -> torch.Tensor:  # [k]
        """The mean over trials."""
        return self.exponents.mean(dim=0)

    @property
    def stderr(self) -> torch.Tensor:  # [k]
        """The standard error of the mean over trials; NaN for one trial, which has none."""
        count = self.exponents.shape[0]
        if count < 2:
            return torch.full_like(self.exponents[0], torch.nan)
        error: torch.Tensor = self.exponents.std(dim=0) / count**0.5
        return error

    @property
    def expansion_rate(self) -> torch.Tensor:  # [batch]
        """The sum of the positive exponents: the rate at which volumes stretch (Pesin's entropy rate)."""
        return self.exponents.clamp(min=0).sum(dim=1)

    @property
    def dimension(self) -> torch.Tensor:  # [batch]
        """The Kaplan-Yorke dimension; k where the sum of all k exponents is not negative."""
        return torch.stack([_kaplan_yorke(row) for row in self.exponents])

    def __repr__(self) -> str:
        leading = ", ".join(f"{value:.4g}" for value in self.mean[:4].tolist())
        more = ", ..." if self.exponents.shape[1] > 4 else ""
        return f"LyapunovSpectrum({leading}{more}; {len(self.exponents)} trials, {self.steps} steps)"


def lyapunov_exponents(
    A: StepJacobian,
    k: int | None = None,
    *,
    dt: float = 1.0,
    discard: int = 0,
    generator: torch.Generator | None = None,
) -> LyapunovSpectrum:
    """Return the leading ``k`` Lyapunov exponents along each trial of a trajectory.

    An orthonormal frame is carried by the step Jacobians and reorthogonalised at every step; the mean
    logarithm of how much each direction grows is its exponent. Cost: ``k`` products with each ``A_t`` and
    one QR decomposition of ``[H, k]`` a step.

    Args:
        A: the step Jacobian, ``flow.A``; ``A_0``, which acts on the initial state, is included.
        k: number of exponents; all H when left out.
        dt: time per step; exponents are per unit of it.
        discard: steps at the start that align the frame and are not counted.
        generator: of the random first frame; seeded with 0 when left out.

    Raises:
        ArgumentError: for a ``k`` outside [1, H], a ``dt`` that is not positive, or a ``discard`` that
            leaves no step.
    """
    batch, steps, width = A.domain.shape
    k = width if k is None else k
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= width:
        raise ArgumentError(mismatch("k", f"a whole number in [1, {width}]", repr(k)))
    _check_dt(dt)
    if isinstance(discard, bool) or not isinstance(discard, int) or not 0 <= discard < steps:
        raise ArgumentError(mismatch("discard", f"a whole number in [0, {steps - 1}]", repr(discard)))
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    first = torch.randn(width, k, generator=generator, dtype=A.dtype, device=generator.device).to(A.device)
    frame = torch.linalg.qr(first).Q.expand(batch, width, k)
    total = torch.zeros(batch, k, dtype=A.dtype, device=A.device)
    with torch.no_grad():
        for t in range(steps):
            frame, growth = _carry(A.step, t, frame)
            if t >= discard:
                total += growth
    counted = steps - discard
    return LyapunovSpectrum((total / (counted * dt)).sort(dim=1, descending=True).values, dt, counted)


def finite_time_exponents(
    A: StepJacobian,
    t: int = -1,
    s: int | None = None,
    *,
    dt: float = 1.0,
    tol: float = 1e-12,
    sweeps: int = 200,
) -> torch.Tensor:  # [batch, H]
    """Return ``log(singular values of A_t ... A_{s+1}) / ((t - s) dt)`` of each trial, from the largest.

    The product is never formed: the frame is swept forward with ``A`` and back with ``A*`` until the
    logarithms settle, which is orthogonal iteration for the singular vectors of the product, so small
    singular values are as accurate as large ones and nothing overflows. Singular values closer to each
    other than ``tol`` need not be told apart.

    Args:
        A: the step Jacobian, ``flow.A``.
        t, s: time indices as in ``Propagator.transition``; ``s=None``
            is the initial state.
        dt: time per step.
        tol: change of an exponent's logarithm, relative to the number of steps, at which sweeps end.
        sweeps: bound on the number of sweeps there and back.

    Raises:
        ArgumentError: for an index out of range or an empty interval.
    """
    batch, steps, width = A.domain.shape
    for name, value in (("t", t), ("s", 0 if s is None else s)):
        if isinstance(value, bool) or not isinstance(value, int) or not -steps <= value < steps:
            raise ArgumentError(mismatch(name, f"a time index in [{-steps}, {steps - 1}]", repr(value)))
    stop, start = t % steps, -1 if s is None else s % steps
    if start >= stop:
        raise ArgumentError(mismatch("s", f"an index below t = {stop}", start))
    _check_dt(dt)
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(width, width, generator=generator, dtype=A.dtype).to(A.device)
    frame = torch.linalg.qr(first).Q.expand(batch, width, width)
    count = stop - start
    logs: torch.Tensor | None = None
    with torch.no_grad():
        for _ in range(sweeps):
            there = torch.zeros(batch, width, dtype=A.dtype, device=A.device)
            for place in range(start + 1, stop + 1):
                frame, growth = _carry(A.step, place, frame)
                there += growth
            back = torch.zeros_like(there)
            for place in range(stop, start, -1):
                frame, growth = _carry(A.step_adjoint, place, frame)
                back += growth
            new = (there + back) / 2
            if logs is not None and bool((torch.nan_to_num(new - logs).abs() <= tol * count).all()):
                logs = new
                break
            logs = new
    assert logs is not None  # sweeps >= 1
    return (logs / (count * dt)).sort(dim=1, descending=True).values


def _carry(
    step: Callable[[int, torch.Tensor], torch.Tensor], t: int, frame: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the frame ``[B, H, k]`` after a step, orthonormal again, and the logarithms of its growth."""
    moved = step(t, frame.permute(2, 0, 1)).permute(1, 2, 0)
    q, r = torch.linalg.qr(moved)
    return q, r.diagonal(dim1=-2, dim2=-1).abs().log()


def _kaplan_yorke(exponents: torch.Tensor) -> torch.Tensor:
    sums = exponents.cumsum(dim=0)
    count = int((sums >= 0).sum())
    if count == 0:
        return exponents.new_zeros(())
    if count == len(exponents):
        return exponents.new_tensor(float(count))
    return count + sums[count - 1] / exponents[count].abs()


def _check_dt(dt: float) -> None:
    if not dt > 0:
        raise ArgumentError(mismatch("dt", "a positive number", dt))
