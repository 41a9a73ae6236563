"""S5: one diagonal state-space model that all channels share (Smith, Warrington & Linderman 2023)."""

from __future__ import annotations

import math

import torch

from kpframe.plugin import takes_settings
from kpframe_ssm import discretise
from kpframe_ssm.base import MatrixModes
from kpframe_ssm.construct import parameters, seeded
from kpframe_ssm.drives import MatrixDrive
from kpframe_ssm.hippo import hippo_normal
from kpframe_ssm.modes import from_pairs
from kpframe_ssm.parameters import Coefficients
from kpframe_ssm.settings import S5Settings


class S5(MatrixModes):
    """``dz/dt = A z + B x`` with a complex diagonal A, discretised mode by mode; ``y = Re(C z) + D x``.

    At the start A is the spectrum of HiPPO-LegS' normal part of 2 n states and B, C are drawn in its
    eigenvectors' basis. Of each conjugate pair one mode is carried; the factor 2 of the other is part of C.

    Parameters (a complex one ends in real and imaginary part): ``log_dt [n]``, ``log_A_real [n]`` with
    ``Re A = -exp(log_A_real)``, ``A_imag [n]``, ``B [n, I, 2]``, ``C [O, n, 2]``, ``D [O, I]``. C and D are
    read by ``output`` alone: their columns of J are zero.

    The state has width 2 n for n = hidden_size modes, half the paper's state size. ``dt`` of each mode is
    drawn log-uniformly between ``dt_min`` and ``dt_max``.

    Raises:
        SettingsError: for settings that are out of bounds or do not go together.

    Source: Smith, Warrington & Linderman (2023), Simplified state space layers for sequence modeling, arXiv
    2208.04933.
    """

    log_dt: torch.Tensor
    log_A_real: torch.Tensor
    A_imag: torch.Tensor
    B: torch.Tensor
    C: torch.Tensor

    @takes_settings(S5Settings)
    def __init__(self, settings: S5Settings) -> None:
        c, start = settings, settings.trainable_initial_state
        super().__init__(c.input_size, c.hidden_size, scan=c.scan, trainable_initial_state=start)
        self.hidden_size, self.discretisation = c.hidden_size, c.discretisation
        self.output_size = c.input_size if c.output_size is None else c.output_size
        with seeded(c.seed):
            values = self._draw(c.dt_min, c.dt_max)
        parameters(self, values)

    def _draw(self, dt_min: float, dt_max: float) -> dict[str, torch.Tensor]:
        modes, low, high = self.hidden_size, math.log(dt_min), math.log(dt_max)
        A, V = hippo_normal(modes)
        B = torch.randn(2 * modes, self.input_size, dtype=torch.float64) / math.sqrt(self.input_size)
        C = torch.randn(self.output_size, 2 * modes, dtype=torch.float64) / math.sqrt(2 * modes)
        D = torch.randn(self.output_size, self.input_size, dtype=torch.float64)
        return {
            "log_dt": low + (high - low) * torch.rand(modes, dtype=torch.float64),
            "log_A_real": (-A.real).log(),
            "A_imag": A.imag,
            "B": (V.mH @ B.to(V.dtype)).contiguous(),
            "C": 2 * (C.to(V.dtype) @ V),  # 2: the conjugate modes
            "D": D / math.sqrt(self.input_size),
        }

    @property
    def A(self) -> torch.Tensor:
        """The modes' rates, complex ``[n]``."""
        return torch.complex(-self.log_A_real.exp(), self.A_imag)

    def coefficients(self) -> Coefficients:
        """Return lambda ``[n]`` and the drive ``Bbar x``."""
        decay, gain = discretise.diagonal(self.A, self.log_dt.exp(), self.discretisation)
        B = gain.unsqueeze(-1) * from_pairs(self.B)
        return Coefficients(decay, MatrixDrive(torch.cat([B.real, B.imag])))

    def _C(self) -> torch.Tensor:
        return from_pairs(self.C)
