"""Forecasting channels that a system of low rank drives."""

from __future__ import annotations

import numpy as np
import torch

from kpframe.plugin import takes_settings
from kpframe.tasks import SPLITS, Split, Task, Trials, seeded_generator
from kpframe_tasks import LowRankForecastSettings


class LowRankForecast(Task):
    """Forecast what a system of few latent variables shows ``horizon`` steps ahead.

    A latent state z of ``rank`` r variables starts at standard normal values and moves by itself:

    - ``dynamics = "linear"``: z' = U z. U is orthogonal, the polar factor of (1 - a) I + a Q, with a the
      ``mixing`` and Q a random orthogonal matrix: a slow rotation, so that all signals stay as large as
      they began;
    - ``"tanh"``: z' = (1 - a) z + a tanh(gain Q z), a leaky network of r units.

    Inputs ``[B, T, I]``: x_t = f(C z_t + b) + noise; targets ``[B, T, O]``: y_t = g(D z_{t + horizon} + c),
    without noise. With ``observation = "linear"``, f and g are the identity and b = c = 0, so that inputs
    and targets have rank r over all trials and steps; with ``"sine"``, f = g = sin and b and c are standard
    normal, and they fill their channels though z has r variables. Entries of C and D are normal with
    variance 1 / r, so linear channels have unit variance at the start. Q, C, D, b and c follow from
    ``seed`` and are the same in both splits; attributes ``rotation`` (Q), ``transition`` (U), ``read_in``
    (C), ``read_out`` (D), ``input_bias`` and ``output_bias``, float64. ``horizon = 0`` asks for the present.

    Scored from step ``transient`` on; no padding. Epochs ``"warmup"``, before, and ``"forecast"``. Coordinate
    ``norm``, the Euclidean norm of z at the first step.

    With linear observation, no noise and I >= r, one observation tells z, and its forecast is exact:
    y_t = D F^horizon(C^+ x_t), F the map of a step. With I < r several observations are needed.

    Source: the forecasting task with a low-dimensional latent state of the reference code of arXiv
    2507.06381, where z' = 0.8 z + 0.2 Q z, f = g = sin, and one step is forecast. Ours departs from it in the
    polar factor, without which the state decays; in the scale of C and D; and in noise on the inputs
    alone.

    Raises:
        SettingsError, ArgumentError: for a setting out of bounds.
    """

    @takes_settings(LowRankForecastSettings)
    def __init__(self, settings: LowRankForecastSettings) -> None:
        c = settings
        super().__init__(input_size=c.input_size, output_size=c.output_size, loss="mse", seed=c.seed)
        self.rank, self.horizon, self.steps, self.transient = c.rank, c.horizon, c.steps, c.transient
        self.dynamics, self.observation = c.dynamics, c.observation
        self.mixing, self.gain, self.noise = c.mixing, c.gain, c.noise
        generator = seeded_generator(self.seed, len(SPLITS))  # apart from the splits' own streams

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")

        factor, triangle = torch.linalg.qr(normal(c.rank, c.rank))
        self.rotation = factor * triangle.diagonal().sign()  # uniform over the orthogonal matrices
        left, _, right = torch.linalg.svd(
            (1 - c.mixing) * torch.eye(c.rank, dtype=torch.float64, device="cpu") + c.mixing * self.rotation
        )
        self.transition = left @ right
        self.read_in = normal(c.input_size, c.rank) / c.rank**0.5
        self.read_out = normal(c.output_size, c.rank) / c.rank**0.5
        sine = c.observation == "sine"
        self.input_bias, self.output_bias = sine * normal(c.input_size), sine * normal(c.output_size)

    def advance(self, state: torch.Tensor, steps: int = 1) -> torch.Tensor:
        """Return the latent state ``[..., r]`` (float64) so many steps later."""
        for _ in range(steps):
            if self.dynamics == "linear":
                state = state @ self.transition.T
            else:
                moved = torch.tanh(self.gain * state @ self.rotation.T)
                state = (1 - self.mixing) * state + self.mixing * moved
        return state

    def draw(self, batch_size: int, generator: torch.Generator, split: Split) -> Trials:
        """Return random trials; the splits differ in their random stream only."""
        state = torch.randn(batch_size, self.rank, generator=generator, dtype=torch.float64)
        shape = (batch_size, self.steps, self.input_size)
        eta = torch.randn(shape, generator=generator, dtype=torch.float64)
        states = [state]
        for _ in range(self.steps + self.horizon - 1):
            states.append(self.advance(states[-1]))
        path = torch.stack(states, dim=1)
        inputs = path[:, : self.steps] @ self.read_in.T + self.input_bias
        targets = path[:, self.horizon :] @ self.read_out.T + self.output_bias
        if self.observation == "sine":
            inputs, targets = inputs.sin(), targets.sin()
        mask = torch.ones(batch_size, self.steps, dtype=torch.bool)
        scored = mask & (torch.arange(self.steps) >= self.transient)
        return Trials(
            inputs=inputs + self.noise * eta,
            targets=targets,
            mask=mask,
            scored=scored,
            epoch=np.where(scored.numpy(), "forecast", "warmup"),
            trial={"norm": state.norm(dim=1).numpy()},
        )
