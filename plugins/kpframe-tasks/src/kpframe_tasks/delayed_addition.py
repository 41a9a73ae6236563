"""A weighted sum of delayed inputs."""

from __future__ import annotations

import numpy as np
import torch

from kpframe.plugin import takes_settings
from kpframe.tasks import Split, Task, Trials
from kpframe_tasks import DelayedAdditionSettings


class DelayedAddition(Task):
    """Report at every step a weighted sum of inputs some steps back.

    Inputs ``[B, T, 1]``: x_t, 1 with ``probability``, else 0, independent at each step. Targets
    ``[B, T, 1]``: y_t = offset + sum_k weights[k] x_{t - lags[k]}, with x = 0 before the first step. Scored
    from step ``max(lags)`` on, from where every term is an input. No padding: every trial has ``steps``
    steps. Epochs ``"warmup"``, before the first scored step, and ``"report"``. Coordinate ``ones``, the
    number of ones of the trial.

    What a network has learnt can be read off its loss: with p the probability, the best answer that
    knows the inputs at some of the lags has the mean squared error p (1 - p) sum_k weights[k]^2, over the
    lags that it does not know; for the default settings 5/64 with none, 1/64 with the first, 0 with both.

    Source: the Add task of Marschall, Cho & Savin (2020), A unified framework of online learning algorithms
    for training recurrent neural networks, Journal of Machine Learning Research 21(135), after Pitis
    (2016), Recurrent neural networks in Tensorflow I, whose lags, weights and offset these are. Ours departs
    from the latter in the target, which is the probability of a one there; and in trials of finite length.

    Raises:
        SettingsError, ArgumentError: for a setting out of bounds, or weights that do not fit the lags.
    """

    @takes_settings(DelayedAdditionSettings)
    def __init__(self, settings: DelayedAdditionSettings) -> None:
        super().__init__(input_size=1, output_size=1, loss="mse", seed=settings.seed)
        self.lags, self.weights, self.offset = settings.lags, settings.weights, settings.offset
        self.probability, self.steps = settings.probability, settings.steps

    def draw(self, batch_size: int, generator: torch.Generator, split: Split) -> Trials:
        """Return random trials; the splits differ in their random stream only."""
        shape = (batch_size, self.steps)
        ones = torch.rand(shape, generator=generator, dtype=torch.float64) < self.probability
        inputs = ones.double()
        targets = torch.full_like(inputs, self.offset)
        for lag, weight in zip(self.lags, self.weights, strict=True):
            targets[:, lag:] += weight * inputs[:, : self.steps - lag]
        mask = torch.ones(shape, dtype=torch.bool)
        scored = mask & (torch.arange(self.steps) >= max(self.lags))
        return Trials(
            inputs=inputs[..., None],
            targets=targets[..., None],
            mask=mask,
            scored=scored,
            epoch=np.where(scored.numpy(), "report", "warmup"),
            trial={"ones": ones.sum(dim=1).numpy()},
        )
