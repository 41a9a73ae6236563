"""LRU: the linear recurrent unit (Orvieto et al. 2023)."""

from __future__ import annotations

import math

import torch

from kpframe.errors import ArgumentError, mismatch
from kpframe_ssm.base import MatrixModes
from kpframe_ssm.construct import check_range, check_size, parameters, seeded
from kpframe_ssm.drives import MatrixDrive
from kpframe_ssm.parameters import Coefficients


class LRU(MatrixModes):
    """``z' = lambda o z + gamma o (B x)`` with ``lambda = exp(-exp(nu) + i exp(theta))``.

    The output is ``y = Re(C z) + D x``. ``gamma = sqrt(1 - |lambda|^2)`` gives every mode the same variance
    under white input. By default it follows lambda; ``trainable_gamma`` starts there and learns it apart,
    as the paper's code does.

    Parameters (the paper's names): ``nu_log [n]``, ``theta_log [n]``, ``gamma_log [n]`` if it is trainable,
    ``B_re``, ``B_im [n, I]``, ``C_re``, ``C_im [O, n]``, ``D [O, I]`` (a vector in the paper, whose outputs
    are as many as the inputs). C and D are read by ``output`` alone: their columns of J are zero.

    Args:
        input_size: inputs per step, I.
        hidden_size: number n of complex modes; the state has width 2 n.
        output_size: number O of outputs; the inputs' where left out.
        r_min, r_max: at the start lambda is uniform on the ring between these radii.
        max_phase: its phases are uniform in [0, max_phase] [rad].
        trainable_gamma: whether gamma is a parameter of its own.
        scan: form of the scan in P: ``"auto"``, ``"sequential"``, ``"chunked"`` or ``"fft"``.
        trainable_initial_state: makes ``h_0`` a parameter.
        seed: seed of the initial values.

    Raises:
        ArgumentError: for an unknown name, or a size or range that makes no sense.
    """

    nu_log: torch.Tensor
    theta_log: torch.Tensor
    gamma_log: torch.Tensor
    B_re: torch.Tensor
    B_im: torch.Tensor
    C_re: torch.Tensor
    C_im: torch.Tensor

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int | None = None,
        r_min: float = 0.0,
        r_max: float = 1.0,
        max_phase: float = 2 * math.pi,
        trainable_gamma: bool = False,
        scan: str = "auto",
        trainable_initial_state: bool = False,
        seed: int | None = None,
    ) -> None:
        check_size("hidden_size", hidden_size)
        super().__init__(input_size, hidden_size, scan=scan, trainable_initial_state=trainable_initial_state)
        self.hidden_size = hidden_size
        self.output_size = check_size("output_size", input_size if output_size is None else output_size)
        check_range("r_min", r_min, "r_max", r_max, 1)
        if not 0 < max_phase <= 2 * math.pi:
            raise ArgumentError(mismatch("max_phase", "a number in (0, 2 pi]", max_phase))
        self.trainable_gamma = trainable_gamma
        with seeded(seed):
            values = self._draw(r_min, r_max, max_phase)
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
