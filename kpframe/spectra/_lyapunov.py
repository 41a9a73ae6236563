"""Lyapunov exponents along a trajectory, by repeated QR decomposition; nothing overflows for long runs.

With an orthonormal frame Q_0 of k vectors and A_t Q_(t-1) = Q_t R_t at each step, the product of the A_t
carries the frame to Q_T R_T ... R_1. The volume that its first j vectors span grows by the product of the
first j diagonal entries of all R_t, at the rate of the sum of the j largest exponents (Oseledets 1968):

    lambda_j = lim 1 / (T dt) sum over t of log |(R_t)_jj|.

Sources: Benettin et al., Meccanica 15 (1980), for the spectrum; Kaplan and Yorke (1979) for the
dimension; Engelken, Wolf and Abbott, Phys. Rev. Research 5 (2023), for recurrent networks.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from attrs import frozen

from kpframe.errors import ArgumentError, mismatch, whole
from kpframe.flow._step_jacobian import StepJacobian
from kpframe.operators._isolation import in_isolation
from kpframe.operators._shards import Shards
from kpframe.operators._spaces import Space
from kpframe.spectra._arguments import check_step_jacobian
from kpframe.spectra._numerics.jacobi import Rows
from kpframe.spectra._numerics.probes import agreed, new_generator


@frozen(eq=False)
class LyapunovSpectrum:
    """Exponents of each trial, from the largest.

    Attributes:
        exponents: ``[batch, k]``, per unit time (per step when ``dt`` is 1); ``-inf`` where the dynamics
            has no such direction left.
        dt: time per step.
        steps: number of steps averaged over; ``[batch]``, int64, where trials have padded steps.
        space: of the trials; where ranks share them, a rank has the exponents of its own, and means are over
            all of them.
    """

    exponents: torch.Tensor
    dt: float
    steps: int | torch.Tensor
    space: Space | None = None

    @property
    def mean(self) -> torch.Tensor:  # [k]
        """The mean over trials ``[k]``, per unit time."""
        if self._shards is None:
            return self.exponents.mean(dim=0)
        total: torch.Tensor = self._shards.sum(self.exponents.sum(dim=0))
        return total / self._shards.total

    @property
    def _shards(self) -> Shards | None:
        return None if self.space is None else self.space.shards

    @property
    def stderr(self) -> torch.Tensor:  # [k]
        """The standard error ``[k]`` of the mean over trials; NaN for one trial, which has none."""
        count = len(self.exponents) if self._shards is None else self._shards.total
        if count < 2:
            return torch.full_like(self.exponents.sum(dim=0), torch.nan)
        if self._shards is None:
            error: torch.Tensor = self.exponents.std(dim=0) / count**0.5
            return error
        squares = self._shards.sum((self.exponents - self.mean).square().sum(dim=0))
        return (squares / (count - 1) / count).sqrt()

    @property
    def expansion_rate(self) -> torch.Tensor:  # [batch]
        """The sum ``[batch]`` of the positive exponents, per unit time: the rate at which volumes stretch.

        It is Pesin's entropy rate.
        """
        return self.exponents.clamp(min=0).sum(dim=1)

    @property
    def dimension(self) -> torch.Tensor:  # [batch]
        """The Kaplan-Yorke dimension ``[batch]``; k where the sum of all k exponents is not negative."""
        rows = [_kaplan_yorke(row) for row in self.exponents]
        return torch.stack(rows) if rows else self.exponents.new_zeros(0)

    def __repr__(self) -> str:
        own = self.exponents.mean(dim=0)  # a text asks other ranks for nothing
        leading = ", ".join(f"{value:.4g}" for value in own[:4].tolist())
        more = ", ..." if self.exponents.shape[1] > 4 else ""
        return f"LyapunovSpectrum({leading}{more}; {len(self.exponents)} trials, {self._counted()} steps)"

    def _counted(self) -> str:
        if not isinstance(self.steps, torch.Tensor):
            return str(self.steps)
        least, most = int(self.steps.min()), int(self.steps.max())
        return str(most) if least == most else f"{least} to {most}"


@in_isolation
def lyapunov_exponents(
    A: StepJacobian,
    *,
    k: int | None = None,
    dt: float = 1.0,
    discard: int = 0,
    generator: torch.Generator | None = None,
) -> LyapunovSpectrum:
    """Return the leading ``k`` Lyapunov exponents along each trial of a trajectory.

    An orthonormal frame is carried by the step Jacobians and reorthogonalised at every step; the mean
    logarithm of how much each direction grows is its exponent: what it grew over the trial by the number of
    steps, all of which count, ``A_0`` too. The first frame is random, so that the first steps also turn it
    towards the directions that grow; ``discard`` leaves these out, and without it an exponent is off by
    O(1 / steps). A padded step (``A.valid``) is no step: it is not taken, not counted and not discarded, so
    that a trial has the exponents that it would have alone, wherever its padding is.

    Cost: ``k`` products with each ``A_t`` and one QR decomposition of ``[H, k]`` a step.

    Args:
        A: the step Jacobian, ``flow.A``, which knows the mask of its flow.
        k: number of exponents; all H when left out.
        dt: time per step; exponents are per unit of it.
        discard: steps at the start of each trial that align the frame and are not counted.
        generator: of the random first frame; seeded with 0 when left out.

    Raises:
        ArgumentError: for a ``k`` outside [1, H], a ``dt`` that is not positive, a ``discard`` that
            leaves no step, or a trial that has none.

    Sources: Benettin et al. 1980; Engelken, Wolf, Abbott 2023 (for recurrent networks).

    Examples:
        >>> import kpframe, torch
        >>> A = kpframe.flow.DiagonalStepJacobian(torch.full((1, 50, 2), 0.5))
        >>> kpframe.lyapunov_exponents(A).mean  # log(1/2), twice
        tensor([-0.6931, -0.6931])
    """
    check_step_jacobian(A)
    batch, steps, width = A.domain.shape
    k = width if k is None else whole(k, "k", 1, width)
    _check_dt(dt)
    discard = whole(discard, "discard", 0, steps - 1)
    counted = _counted_steps(A, slice(None), discard)
    generator = agreed(new_generator(generator), A, k=k, dt=dt, discard=discard)
    first = torch.randn(width, k, generator=generator, dtype=A.dtype, device=generator.device).to(A.device)
    frame = torch.linalg.qr(first).Q.expand(batch, width, k)
    total = torch.zeros(batch, k, dtype=A.dtype, device=A.device)
    with torch.no_grad():
        for t in range(steps):
            frame, triangle = _carry(A, A.step, t, frame)
            growth = _growth(triangle)
            total += torch.where(counted[:, t, None], growth, 0.0)
    own = counted.sum(dim=1)
    rates = (total / (own[:, None] * dt)).sort(dim=1, descending=True).values
    return LyapunovSpectrum(rates, dt, steps - discard if A.valid is None else own, A.domain)


@in_isolation
def finite_time_exponents(
    A: StepJacobian,
    *,
    t: int = -1,
    s: int | None = None,
    dt: float = 1.0,
    tol: float = 1e-12,
    sweeps: int = 200,
) -> torch.Tensor:  # [batch, H]
    """Return ``log(singular values of A_t ... A_{s+1}) / ((t - s) dt)``, ``[B, H]``, from the largest.

    Padded steps (``A.valid``) hold the state: they are no factors and take no time, so that each trial is
    divided by the number of its own steps in the interval.

    The product is never formed: the frame is swept forward with ``A`` and back with ``A*`` until the
    logarithms settle, which is orthogonal iteration for the singular vectors of the product, so small
    singular values are as accurate as large ones and nothing overflows. What sweeps tell apart too slowly,
    singular values close to each other, Jacobi rotations of the product in the last frame do.

    Args:
        A: the step Jacobian, ``flow.A``.
        t: the later time index, as in ``Propagator.transition``.
        s: the earlier one; None is the initial state.
        dt: time per step.
        tol: change of an exponent's logarithm, relative to the number of steps, at which sweeps end.
        sweeps: bound on the number of sweeps there and back.

    Raises:
        ArgumentError: for an index out of range, an empty interval, or one in which a trial has no step.

    Source: Demmel, Veselic 1992 (the rotations); the sweeps are ours.
    """
    check_step_jacobian(A)
    batch, steps, width = A.domain.shape
    expected = f"a time index in [{-steps}, {steps - 1}]"
    stop = whole(t, "t", -steps, steps - 1, expected=expected) % steps
    start = -1 if s is None else whole(s, "s", -steps, steps - 1, expected=expected) % steps
    if start >= stop:
        raise ArgumentError(mismatch("s", f"an index below t = {stop}", start))
    _check_dt(dt)
    count = _counted_steps(A, slice(start + 1, stop + 1)).sum(dim=1, keepdim=True)  # [B, 1]
    shards = A.domain.shards
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(width, width, generator=generator, dtype=A.dtype, device=generator.device).to(
        A.device
    )
    frame = torch.linalg.qr(first).Q.expand(batch, width, width)
    logs: torch.Tensor | None = None
    with torch.no_grad():
        for _ in range(sweeps):
            there = torch.zeros(batch, width, dtype=A.dtype, device=A.device)
            for place in range(start + 1, stop + 1):
                frame, triangle = _carry(A, A.step, place, frame)
                there += _growth(triangle)
            back = torch.zeros_like(there)
            for place in range(stop, start, -1):
                frame, triangle = _carry(A, A.step_adjoint, place, frame)
                back += _growth(triangle)
            new = (there + back) / 2
            settled = logs is not None and bool((torch.nan_to_num(new - logs).abs() <= tol * count).all())
            if shards is not None:  # as many sweeps for each trial as on one machine
                settled = not shards.any(not settled, A.device)
            logs = new
            if settled:
                break
        product = Rows(batch, width, there)
        for place in range(start + 1, stop + 1):
            frame, triangle = _carry(A, A.step, place, frame)
            product.multiply(triangle)
    return (product.singular_logs() / (count * dt)).sort(dim=1, descending=True).values


def _counted_steps(A: StepJacobian, places: slice, discard: int = 0) -> torch.Tensor:  # [B, steps], bool
    """Return which steps of an interval count in each trial: the valid ones after the first ``discard``."""
    if A.valid is None:
        valid = torch.ones(A.domain.shape[:2], dtype=torch.bool, device=A.device)[:, places]
    else:
        valid = A.valid[:, places]
    counted = valid & (valid.cumsum(dim=1) > discard)
    empty = (~counted.any(dim=1)).nonzero().flatten().tolist()
    shards, trial = A.domain.shards, empty[0] if empty else -1
    found = int(valid[trial].sum()) if empty else 0
    if shards is not None:  # the last one on any rank, found by all
        trial = int(shards.max(torch.tensor(trial + shards.start if empty else -1, device=A.device)))
        own = [place for place in empty if place + shards.start == trial]
        found = int(shards.max(torch.tensor(int(valid[own[0]].sum()) if own else 0, device=A.device)))
    if trial >= 0:
        steps = f"{discard + 1} valid steps in each trial, for discard={discard}"
        needed = steps if discard else "one valid step in each trial"
        raise ArgumentError(
            mismatch("A", f"at least {needed}", f"{found} in trial {trial}")
            + "; leave such trials out of linearize"
        )
    return counted


def _carry(
    A: StepJacobian, step: Callable[[int, torch.Tensor], torch.Tensor], t: int, frame: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the frame ``[B, H, k]`` after a step, orthonormal again, and its triangle ``[B, k, k]``."""
    moved = step(t, frame.permute(2, 0, 1)).permute(1, 2, 0)
    q, r = torch.linalg.qr(moved)
    if A.valid is None:
        return q, r
    valid = A.valid[:, t, None, None]
    eye = torch.eye(r.shape[-1], dtype=r.dtype, device=r.device)
    return torch.where(valid, q, frame), torch.where(valid, r, eye)


def _growth(triangle: torch.Tensor) -> torch.Tensor:  # [B, k, k] -> [B, k]
    """Return the logarithms of how much each direction grew."""
    return triangle.diagonal(dim1=-2, dim2=-1).abs().log()


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
