"""S4D: a bank of diagonal state-space models, one for each channel (Gu, Gupta, Goel & Re 2022)."""

from __future__ import annotations

import math

import torch

from kpframe.errors import ArgumentError, ShapeError, mismatch
from kpframe.plugin import takes_settings
from kpframe_ssm import discretise
from kpframe_ssm.base import DiagonalModel
from kpframe_ssm.construct import parameters, seeded, warn_unless_stable
from kpframe_ssm.drives import ChannelDrive
from kpframe_ssm.hippo import s4d_spectrum
from kpframe_ssm.modes import from_pairs, to_complex, unflatten
from kpframe_ssm.parameters import Coefficients
from kpframe_ssm.settings import S4DSettings


class S4D(DiagonalModel):
    """Channel c carries N modes ``dz_cn/dt = A_cn z_cn + B_cn v_c``, discretised with its own step ``dt_c``.

    ``v = E x`` are the channels' inputs, and ``y_c = Re(Sum_n C_cn z_cn) + D_c v_c``; the factor 2 of the
    conjugate modes, which are not carried, is part of C. The state is ``re [C N]``, ``im [C N]``, the modes
    of a channel side by side.

    Parameters (S4's names; a complex one ends in real and imaginary part): ``log_dt [C]``,
    ``log_A_real [C, N]`` with ``Re A = -exp(log_A_real)``, ``A_imag [C, N]``, ``B [C, N, 2]``,
    ``C [C, N, 2]``, ``D [C]``, and ``encoder [C, I]`` unless the inputs are the channels. C and D are read
    by ``output`` alone: their columns of J are zero.

    N, the state_size, is half the paper's. ``dt`` is drawn log-uniformly between ``dt_min`` and ``dt_max``.
    Unless ``constrained``, ``A_real`` is the parameter in place of ``log_A_real``: A may then leave the
    stable half-plane.

    Raises:
        SettingsError: for settings that are out of bounds or do not go together.

    Warns:
        StabilityWarning: for a ``real`` of 0 or more.

    Source: Gu, Gupta, Goel & Re (2022), On the parameterization and initialization of diagonal state space
    models, arXiv 2206.11893.
    """

    log_dt: torch.Tensor
    log_A_real: torch.Tensor
    A_real: torch.Tensor
    A_imag: torch.Tensor
    B: torch.Tensor
    C: torch.Tensor
    D: torch.Tensor

    @takes_settings(S4DSettings)
    def __init__(self, settings: S4DSettings) -> None:
        c, start = settings, settings.trainable_initial_state
        modes = c.hidden_size * c.state_size
        super().__init__(c.input_size, modes, scan=c.scan, trainable_initial_state=start)
        self.discretisation, self.constrained = c.discretisation, c.constrained
        self.hidden_size, self.state_size = c.hidden_size, c.state_size
        with seeded(c.seed):
            values = self._draw(c.init, c.dt_min, c.dt_max, c.real, c.encoder)
        parameters(self, values)
        self._warn(stacklevel=5)

    def _draw(
        self, init: str, dt_min: float, dt_max: float, real: float, encoder: bool
    ) -> dict[str, torch.Tensor]:
        shape = (self.hidden_size, self.state_size)
        low, high = math.log(dt_min), math.log(dt_max)
        values = {"log_dt": low + (high - low) * torch.rand(self.hidden_size, dtype=torch.float64)}
        start = torch.full(shape, real, dtype=torch.float64)
        values |= {"log_A_real": (-start).log()} if self.constrained else {"A_real": start}
        values["A_imag"] = s4d_spectrum(init, self.state_size).imag.expand(shape)
        values["B"] = torch.ones(shape, dtype=torch.complex128)
        values["C"] = 2 * torch.randn(shape, dtype=torch.complex128)  # 2: the conjugate modes
        values["D"] = torch.randn(self.hidden_size, dtype=torch.float64)
        if encoder:
            bound = 1 / math.sqrt(self.input_size)  # as in torch.nn.Linear
            drawn = torch.rand(self.hidden_size, self.input_size, dtype=torch.float64)
            values["encoder"] = bound * (2 * drawn - 1)
        return values

    @classmethod
    def from_continuous(
        cls,
        A: torch.Tensor,  # [C, N] complex
        B: torch.Tensor,  # [C, N] complex
        C: torch.Tensor,  # [C, N] complex
        D: torch.Tensor,  # [C]
        dt: torch.Tensor,  # [C]
        *,
        discretisation: str = "zoh",
        scan: str = "auto",
    ) -> S4D:
        """Return a bank of given channels, without an encoder; of the dtype of D.

        A mode that does not decay (``Re A >= 0``) makes the whole bank unconstrained.

        Raises:
            ShapeError: for tensors that do not fit A.
            ArgumentError: for a ``dt`` that is not positive.

        Warns:
            StabilityWarning: for a mode that does not decay.
        """
        if A.ndim != 2 or not A.is_complex():
            raise ShapeError(
                mismatch("A", "a complex tensor [channels, modes]", f"{A.dtype} {list(A.shape)}")
            )
        for name, value, shape in (("B", B, A.shape), ("C", C, A.shape), ("D", D, A.shape[:1])):
            if value.shape != shape:
                raise ShapeError(mismatch(name, f"shape {list(shape)}", list(value.shape)))
        if dt.shape != A.shape[:1] or not bool((dt > 0).all()):
            raise ArgumentError(mismatch("dt", f"{len(A)} positive numbers", dt.tolist()))
        model = cls(
            len(A),
            len(A),
            A.shape[1],
            discretisation=discretisation,
            constrained=bool((A.real < 0).all()),
            encoder=False,
            scan=scan,
            seed=0,
        ).to(D.dtype)
        real = (-A.real).log() if model.constrained else A.real
        given = {"log_dt": dt.log(), "A_imag": A.imag, "B": B, "C": C, "D": D}
        given["log_A_real" if model.constrained else "A_real"] = real
        with torch.no_grad():
            for name, value in given.items():
                parameter = getattr(model, name)
                parameter.copy_(torch.view_as_real(value.resolve_conj()) if value.is_complex() else value)
        model._warn()
        return model

    @property
    def A(self) -> torch.Tensor:
        """The modes' rates, complex ``[C, N]``."""
        real = -self.log_A_real.exp() if self.constrained else self.A_real
        return torch.complex(real, self.A_imag)

    def coefficients(self) -> Coefficients:
        """Return lambda ``[C N]`` and the drive of the channels."""
        dt = self.log_dt.exp().unsqueeze(-1)
        decay, gain = discretise.diagonal(self.A, dt, self.discretisation)
        encoder = getattr(self, "encoder", None)
        gain = gain * from_pairs(self.B)
        drive = ChannelDrive(torch.stack([gain.real, gain.imag]), encoder)
        return Coefficients(decay.flatten(), drive)

    def output_weight(self) -> torch.Tensor:
        """Return W ``[C, 2 C N]`` of ``y = W h + D v``, written out: block diagonal over channels."""
        C = from_pairs(self.C)
        channel = torch.eye(self.hidden_size, dtype=C.real.dtype, device=C.device)
        blocks = channel.unsqueeze(-1) * torch.stack([C.real, -C.imag]).unsqueeze(1)  # [2, C, C, N]
        return blocks.transpose(0, 1).flatten(1)

    def _output(self, states: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        z = unflatten(to_complex(states), self.hidden_size, self.state_size)
        C = from_pairs(self.C)
        drive = self.coefficients().drive
        assert isinstance(drive, ChannelDrive)
        y = (C.real * z.real - C.imag * z.imag).sum(-1)
        return y + self.D * drive.channels(inputs)

    def _warn(self, stacklevel: int = 4) -> None:
        if self.D.is_meta:  # no values to look at
            return
        worst = float(self.A.detach().real.max())
        warn_unless_stable(
            worst < 0, "S4D", "modes with Re A < 0 (|lambda| < 1)", f"Re A = {worst:g}", stacklevel
        )
