"""LRU: the linear recurrent unit (Orvieto et al. 2023)."""

from __future__ import annotations

import math

import torch

from kpframe.plugin import takes_settings
from kpframe_ssm.base import MatrixModes
from kpframe_ssm.construct import parameters, seeded
from kpframe_ssm.drives import MatrixDrive
from kpframe_ssm.parameters import Coefficients
from kpframe_ssm.settings import LRUSettings


class LRU(MatrixModes):
    """``z' = lambda o z + gamma o (B x)`` with ``lambda = exp(-exp(nu) + i exp(theta))``.

    The output is ``y = Re(C z) + D x``. ``gamma = sqrt(1 - |lambda|^2)`` gives every mode the same variance
    under white input. By default it follows lambda; ``trainable_gamma`` starts there and learns it apart,
    as the paper's code does.

    Parameters (the paper's names): ``nu_log [n]``, ``theta_log [n]``, ``gamma_log [n]`` if it is trainable,
    ``B_re``, ``B_im [n, I]``, ``C_re``, ``C_im [O, n]``, ``D [O, I]`` (a vector in the paper, whose outputs
    are as many as the inputs). C and D are read by ``output`` alone: their columns of J are zero.

    At the start lambda is uniform on the ring between ``r_min`` and ``r_max``, its phases in
    [0, max_phase]. The state has width 2 n for n = hidden_size modes.

    Raises:
        SettingsError: for settings that are out of bounds or do not go together.

    Source: Orvieto et al. (2023), Resurrecting recurrent neural networks for long sequences, arXiv
    2303.06349.
    """

    nu_log: torch.Tensor
    theta_log: torch.Tensor
    gamma_log: torch.Tensor
    B_re: torch.Tensor
    B_im: torch.Tensor
    C_re: torch.Tensor
    C_im: torch.Tensor

    @takes_settings(LRUSettings)
    def __init__(self, settings: LRUSettings) -> None:
        c, start = settings, settings.trainable_initial_state
        super().__init__(c.input_size, c.hidden_size, scan=c.scan, trainable_initial_state=start)
        self.hidden_size = c.hidden_size
        self.output_size = c.input_size if c.output_size is None else c.output_size
        self.trainable_gamma = c.trainable_gamma
        with seeded(c.seed):
            values = self._draw(c.r_min, c.r_max, c.max_phase)
        parameters(self, values)

    def _draw(self, r_min: float, r_max: float, max_phase: float) -> dict[str, torch.Tensor]:
        modes, inputs, outputs = self.hidden_size, self.input_size, self.output_size
        tiny = 1e-12  # keeps |lambda| and the phase off 0, and |lambda| off 1, where the logarithms end
        u, phase = torch.rand(2, modes, dtype=torch.float64).clamp(tiny, 1 - tiny)
        square = (r_min**2 + u * (r_max**2 - r_min**2)).clamp(tiny, 1 - tiny)
        nu = -square.log() / 2
        values = {"nu_log": nu.log(), "theta_log": (max_phase * phase).log()}
        if self.trainable_gamma:
            values["gamma_log"] = (1 - square).log() / 2
        B = torch.randn(2, modes, inputs, dtype=torch.float64) / math.sqrt(2 * inputs)
        C = torch.randn(2, outputs, modes, dtype=torch.float64) / math.sqrt(modes)
        D = torch.randn(outputs, inputs, dtype=torch.float64) / math.sqrt(inputs)
        return values | {"B_re": B[0], "B_im": B[1], "C_re": C[0], "C_im": C[1], "D": D}

    def coefficients(self) -> Coefficients:
        """Return lambda ``[n]`` and the drive ``gamma o (B x)``."""
        nu = self.nu_log.exp()
        decay = torch.polar(torch.exp(-nu), self.theta_log.exp())
        # 1 - |lambda|^2 without cancellation where |lambda| is near 1
        gamma = self.gamma_log.exp() if self.trainable_gamma else torch.sqrt(-torch.expm1(-2 * nu))
        B = torch.cat([self.B_re, self.B_im])
        return Coefficients(decay, MatrixDrive(gamma.repeat(2).unsqueeze(-1) * B))

    def _C(self) -> torch.Tensor:
        return torch.complex(self.C_re, self.C_im)
