"""The k-bit flip-flop."""

from __future__ import annotations

import numpy as np
import torch

from kpframe.plugin import takes_settings
from kpframe.tasks import Split, Task, Trials
from kpframe_tasks import FlipFlopSettings


class FlipFlop(Task):
    """Hold the sign of the last pulse on each of ``bits`` channels.

    Inputs ``[B, T, bits]``: 0, or a pulse of +1 or -1 that lasts one step; at every step each channel
    pulses with ``probability``, both signs alike. Targets ``[B, T, bits]``: the sign of the channel's
    last pulse, that of the same step included. The first step pulses on every channel, so that the
    target is defined throughout. Scored from step ``transient`` on. No padding: every trial has ``steps``
    steps. Epochs ``"pulse"`` (some channel pulses) and ``"hold"``. Coordinate ``flips``: how often a
    bit changes in the trial, over all channels.

    Source: Sussillo & Barak (2013), Opening the black box, Neural Computation 25:626, which has 3 bits.
    Ours departs from it in the pulse at the first step and in the pulses' length of exactly one step.

    Raises:
        SettingsError, ArgumentError: for a setting out of bounds.
    """

    @takes_settings(FlipFlopSettings)
    def __init__(self, settings: FlipFlopSettings) -> None:
        bits = settings.bits
        super().__init__(input_size=bits, output_size=bits, loss="mse", seed=settings.seed)
        self.steps, self.probability, self.transient = (
            settings.steps,
            settings.probability,
            settings.transient,
        )

    def draw(self, batch_size: int, generator: torch.Generator, split: Split) -> Trials:
        """Return random trials; the splits differ in their random stream only."""
        shape = (batch_size, self.steps, self.input_size)
        pulses = torch.rand(shape, generator=generator, dtype=torch.float64) < self.probability
        pulses[:, 0] = True
        signs = 2.0 * torch.randint(2, shape, generator=generator).double() - 1
        # The step of the last pulse so far is a running maximum; the first step always has one.
        last = torch.where(pulses, torch.arange(self.steps)[:, None], 0).cummax(dim=1).values
        targets = signs.gather(1, last)
        mask = torch.ones(shape[:2], dtype=torch.bool)
        scored = mask & (torch.arange(self.steps) >= self.transient)
        return Trials(
            inputs=torch.where(pulses, signs, 0.0),
            targets=targets,
            mask=mask,
            scored=scored,
            epoch=np.where(pulses.any(dim=2).numpy(), "pulse", "hold"),
            trial={"flips": (targets[:, 1:] != targets[:, :-1]).sum(dim=(1, 2)).numpy()},
        )
