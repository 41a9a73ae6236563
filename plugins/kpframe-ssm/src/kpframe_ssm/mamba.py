"""The Mamba block: a selective state-space model as a recurrence (Gu & Dao 2023)."""

from __future__ import annotations

import math

import torch
from torch.nn.functional import linear, silu, softplus

from kpframe import ParameterOperator, Trajectory
from kpframe.flow import ProductParameterOperator
from kpframe.plugin import takes_settings
from kpframe_ssm.base import ScanModel
from kpframe_ssm.construct import seeded
from kpframe_ssm.mamba_operators import (
    MambaGains,
    MambaParameterJacobian,
    MambaStepJacobian,
)
from kpframe_ssm.modes import unflatten
from kpframe_ssm.scan import linear_scan
from kpframe_ssm.selection import Selection, SelectionGains
from kpframe_ssm.settings import MambaSettings
from kpframe_ssm.step import ModePropagator, in_form


class Mamba(ScanModel):
    """One Mamba block, parameter for parameter that of ``mambapy`` and of the paper's own code.

    With E = hidden_size inner channels, N modes of each, a causal convolution over K steps and R =
    dt_rank, a step is::

        u, z = in_proj x                      # [E] each; z gates the output only
        a = silu(conv1d(u_{t-K+1} .. u_t))    # channel by channel
        delta, B, C = x_proj a                # [R], [N], [N]
        Delta = softplus(dt_proj delta)       # [E]
        h' = exp(Delta A) o h + Delta a B^T   # [E, N], A = -exp(A_log)
        y = out_proj((h' C + D a) o silu(z))

    What the convolution remembers is part of the state, so that ``step`` is a pure recurrence: component
    ``conv [E (K-1)]``, the last K - 1 values of u of each channel, the oldest first (absent for K = 1),
    then ``h [E N]``, the modes of a channel side by side.

    What only the output reads has zero columns in J: ``D``, ``out_proj``, the z rows of ``in_proj`` and the
    C rows of ``x_proj``.

    Delta is log-uniform between ``dt_min`` and ``dt_max`` at the start, for a zero input. The paper's choice
    of E is twice the inputs, which are also the outputs.

    Raises:
        SettingsError: for settings that are out of bounds or do not go together.

    Source: Gu & Dao (2023), Mamba: linear-time sequence modeling with selective state spaces, arXiv
    2312.00752.
    """

    @takes_settings(MambaSettings)
    def __init__(self, settings: MambaSettings) -> None:
        c, inner = settings, settings.hidden_size
        state = {"conv": inner * (c.conv_size - 1), "h": inner * c.state_size}
        state = {name: width for name, width in state.items() if width}
        super().__init__(c.input_size, state, trainable_initial_state=c.trainable_initial_state)
        self.hidden_size, self.state_size, self.conv_size = inner, c.state_size, c.conv_size
        self.dt_rank = math.ceil(c.input_size / 16) if c.dt_rank is None else c.dt_rank
        self.scan = c.scan
        like = torch.empty(0)
        with seeded(c.seed):
            bias_of_dt = self._make(c.bias, c.conv_bias, c.dt_min, c.dt_max)
        self.to(like)
        order = torch.arange(1, c.state_size + 1, dtype=like.dtype)
        self.A_log = torch.nn.Parameter(order.log().repeat(inner, 1))  # S4D's real spectrum
        with torch.no_grad():
            self.dt_proj.bias.copy_(bias_of_dt)

    def _make(self, bias: bool, conv_bias: bool, dt_min: float, dt_max: float) -> torch.Tensor:
        """Make the layers in float32, whatever the default; return the bias of ``dt_proj`` in float64."""
        inner, modes, rank = self.hidden_size, self.state_size, self.dt_rank
        drawn = torch.float32
        self.in_proj = torch.nn.Linear(self.input_size, 2 * inner, bias=bias, dtype=drawn)
        self.conv1d = torch.nn.Conv1d(inner, inner, self.conv_size, groups=inner, bias=conv_bias, dtype=drawn)
        self.x_proj = torch.nn.Linear(inner, rank + 2 * modes, bias=False, dtype=drawn)
        self.dt_proj = torch.nn.Linear(rank, inner, dtype=drawn)
        low, high = math.log(dt_min), math.log(dt_max)
        dt = torch.exp(low + (high - low) * torch.rand(inner, dtype=torch.float64)).clamp(min=1e-4)
        with torch.no_grad():
            self.dt_proj.weight.uniform_(-(rank**-0.5), rank**-0.5)
        self.register_parameter("A_log", None)  # keeps its place among the parameters
        self.D = torch.nn.Parameter(torch.ones(inner))
        self.out_proj = torch.nn.Linear(inner, self.input_size, bias=bias, dtype=drawn)
        return dt + torch.log(-torch.expm1(-dt))  # the inverse of softplus

    # -- the recurrence --------------------------------------------------------------------------------------

    def split(self, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the components of states ``[..., H]``: ``[..., E, K-1]`` and ``[..., E, N]``."""
        cut = self.hidden_size * (self.conv_size - 1)
        past = unflatten(h[..., :cut], self.hidden_size, self.conv_size - 1)
        return past, unflatten(h[..., cut:], self.hidden_size, self.state_size)

    def entering(self, x: torch.Tensor) -> torch.Tensor:  # [..., I] -> [..., E]
        """Return what the inputs send into the convolution, u."""
        bias = self.in_proj.bias
        inner = self.hidden_size
        return linear(x, self.in_proj.weight[:inner], None if bias is None else bias[:inner])

    def select(self, window: torch.Tensor) -> Selection:  # [..., E, K]
        """Return what the last K values of u make of the step's coefficients."""
        c = (window * self.conv1d.weight[:, 0]).sum(-1)
        c = c if self.conv1d.bias is None else c + self.conv1d.bias
        a = silu(c)
        delta, B, C = torch.split(
            linear(a, self.x_proj.weight), [self.dt_rank, self.state_size, self.state_size], dim=-1
        )
        v = linear(delta, self.dt_proj.weight, self.dt_proj.bias)
        return Selection(window, c, a, delta, B, C, v, softplus(v))

    def step(self, x: torch.Tensor, h: torch.Tensor, t: torch.Tensor | None = None) -> torch.Tensor:
        """Return the next state ``[N, H]``."""
        past, modes = self.split(h)
        window = torch.cat([past, self.entering(x).unsqueeze(-1)], dim=-1)
        now = self.select(window)
        modes = now.decay(self.A) * modes + now.source
        return torch.cat([window[..., 1:].flatten(-2), modes.flatten(-2)], dim=-1)

    def run(self, x: torch.Tensor, h0: torch.Tensor) -> torch.Tensor:
        """Return the states ``[B, T, H]``, by one convolution and one scan."""
        past, modes = self.split(h0)
        series = torch.cat([past, self.entering(x).transpose(1, 2)], dim=-1)  # [B, E, K-1+T]
        windows = series.unfold(-1, self.conv_size, 1).permute(2, 0, 1, 3)  # [T, B, E, K]
        now = self.select(windows)
        decay, source = now.decay(self.A), now.source
        source = torch.cat([source[:1] + decay[:1] * modes, source[1:]])
        h = linear_scan(decay.flatten(-2).unsqueeze(1), source.flatten(-2).unsqueeze(1), self.scan)
        return torch.cat([windows[..., 1:].flatten(-2), h[:, 0]], dim=-1).transpose(0, 1)

    @property
    def A(self) -> torch.Tensor:
        """The modes' rates ``[E, N]``, negative."""
        return -self.A_log.exp()

    def output(self, trajectory: Trajectory) -> torch.Tensor:  # [B, T, I]
        """Return the block's output along a trajectory, differentiable; zero where the mask is False."""
        past, _ = self.split(trajectory.previous)
        _, h = self.split(trajectory.states)
        x = trajectory.inputs
        now = self.select(torch.cat([past, self.entering(x).unsqueeze(-1)], dim=-1))
        y = (h @ now.C.unsqueeze(-1)).squeeze(-1) + self.D * now.a
        bias = self.in_proj.bias
        inner = self.hidden_size
        z = linear(x, self.in_proj.weight[inner:], None if bias is None else bias[inner:])
        out: torch.Tensor = self.out_proj(y * silu(z))
        return out if trajectory.mask is None else out * trajectory.mask.unsqueeze(-1)

    # -- the operators ---------------------------------------------------------------------------------------

    def propagator(self, trajectory: Trajectory) -> ModePropagator:
        """Return ``P``: shifts of the convolution's memory and a scan over modes."""
        return in_form(self.scan, self._step_jacobian(trajectory))

    def parameter_operator(self, trajectory: Trajectory) -> ParameterOperator:
        """Return ``K`` between the gains of the selection."""
        return self._between(self._step_jacobian(trajectory), trajectory)

    def operators(self, trajectory: Trajectory) -> tuple[ModePropagator, ParameterOperator]:
        """Return ``P`` and ``K``, the gains computed once for both."""
        A = self._step_jacobian(trajectory)
        return in_form(self.scan, A), self._between(A, trajectory)

    def _step_jacobian(self, trajectory: Trajectory) -> MambaStepJacobian:
        with torch.no_grad():
            x = trajectory.inputs.transpose(0, 1)
            past, modes = self.split(trajectory.previous.transpose(0, 1))  # [T, B, ...]
            now = self.select(torch.cat([past, self.entering(x).unsqueeze(-1)], dim=-1))
            decay = now.decay(self.A)
            rows = self.x_proj.weight[: self.dt_rank + self.state_size]
            weights = (self.conv1d.weight[:, 0], rows, self.dt_proj.weight)
            gains = SelectionGains.of(now, modes, self.A, *(w.detach().clone() for w in weights))
            decay = decay.flatten(-2).unsqueeze(1)
            move = hold = None
            if trajectory.mask is not None:
                move = trajectory.mask.T[:, None, :, None].to(decay)
                hold = 1 - move
                decay = torch.where(hold > 0, torch.ones_like(decay), decay)
        return MambaStepJacobian(MambaGains(gains, decay, move, hold), trajectory.space)

    def _between(self, A: MambaStepJacobian, trajectory: Trajectory) -> ParameterOperator:
        if self.shared_names():  # what is below gives each matrix one place
            return super().parameter_operator(trajectory)
        x = trajectory.inputs.detach().transpose(0, 1)
        start = "h0" in self.trainable() and not trajectory.given
        return ProductParameterOperator(MambaParameterJacobian(A, self.parameter_space, x, start))
