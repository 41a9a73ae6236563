"""A and P of complex modes that do not mix: ``A_t`` multiplies each by its own ``lambda``.

On a real pair that is a rotation times a scaling. P is a scan over modes; no matrix product is made.
"""

from __future__ import annotations

import torch

from kpframe import Propagator, StepJacobian
from kpframe.errors import ArgumentError, mismatch
from kpframe.flow import DiagonalStepJacobian
from kpframe.operators import Space
from kpframe_ssm.modes import probes_first, time_outermost, to_complex, to_real
from kpframe_ssm.scan import METHODS, choose, recur


class ModeStepJacobian(StepJacobian):
    """``A_t z = lambda_t o z`` on complex modes.

    Args:
        decay: ``lambda``, complex ``[t, 1, b, n]``; t and b are 1 where it is the same for all.
        space: the state space, of width 2 n.
        name: how it prints.
    """

    method = "modes"

    def __init__(self, decay: torch.Tensor, space: Space, *, name: str = "A") -> None:
        super().__init__(space, dtype=decay.real.dtype, device=decay.device, name=name)
        self.decay = decay.detach()

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


class ModePropagator(Propagator):
    """P of modes: one elementwise scan over time, or an equal form of it; see ``kpframe_ssm.scan``.

    Args:
        A: the step Jacobian.
        scan: ``"sequential"``, ``"chunked"``, ``"fft"`` (constant lambda only; else as ``"auto"``), or
            ``"auto"``, which takes the cheapest for each product.
        name: how it prints.

    Raises:
        ArgumentError: for an unknown ``scan``.
    """

    A: ModeStepJacobian

    def __init__(self, A: ModeStepJacobian, scan: str = "auto", *, name: str = "P") -> None:
        super().__init__(A, name=name)
        self.scan = check_scan(scan)

    @property
    def method(self) -> str:
        """How a product with one vector is computed: ``"sequential"``, ``"chunked"`` or ``"fft"``."""
        batch, time, width = self.domain.shape
        like = self.A.decay.new_empty(1).expand(time, 1, batch, width // 2)
        return choose(self.scan, self.A.decay, like)

    @classmethod
    def fits(cls, A: StepJacobian) -> str | None:
        """Return why this form cannot take a step Jacobian, or None where it can."""
        return None if isinstance(A, ModeStepJacobian) else "it scans over the modes of a diagonal SSM"

    @property
    def settings(self) -> dict[str, str]:
        """The form of the scan."""
        return {"scan": self.scan}

    def using(self, scan: str) -> ModePropagator:
        """Return the same operator with another form of the scan."""
        return ModePropagator(self.A, scan, name=self.name)

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return self._scan(q, reverse=False)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return self._scan(r, reverse=True)

    def _scan(self, q: torch.Tensor, reverse: bool) -> torch.Tensor:
        source = to_complex(time_outermost(q))
        out = recur(self.A.decay, source, self.scan, reverse)
        return probes_first(to_real(out), q.shape[:-3])


def check_scan(scan: str, methods: tuple[str, ...] = METHODS) -> str:
    """Return the name of a form of the scan; raises ``ArgumentError`` for an unknown one."""
    if scan not in methods:
        raise ArgumentError(mismatch("scan", f"one of {', '.join(map(repr, methods))}", repr(scan)))
    return scan
