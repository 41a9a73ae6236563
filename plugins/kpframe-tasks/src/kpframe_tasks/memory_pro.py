"""Memory-guided and delayed responses, to a stimulus or away from it."""

from __future__ import annotations

import math

import numpy as np
import torch

from kpframe.plugin import takes_settings
from kpframe.tasks import Split, Task, Trials
from kpframe_tasks import VARIANTS, MemoryProSettings

EPOCHS = ("fixation", "stimulus", "memory", "response", "padding")
FIXATION, STIMULUS, MEMORY, RESPONSE, PADDING = range(len(EPOCHS))


class MemoryPro(Task):
    """See an angle, wait for the go cue, respond to the angle (pro) or to its opposite (anti).

    A trial has four epochs, ``"fixation"``, ``"stimulus"``, ``"memory"`` and ``"response"``; the go cue
    is the end of the fixation input at the response's first step. The angle theta is uniform on the
    circle [rad]. Inputs ``[B, T, 3]``, or ``[B, T, 7]`` with ``rule``:

    ====================== ================================================================
    channel                value
    ====================== ================================================================
    0, fixation            1 until the go cue, then 0
    1, 2, stimulus         (cos theta, sin theta) while it is shown, else 0
    3 to 6, rule           one-hot: ``pro``, ``anti``, ``delay_pro``, ``delay_anti``
    ====================== ================================================================

    ``pro`` and ``anti`` show the stimulus in its epoch only (the published MemoryPro and MemoryAnti, also
    ``delaygo`` and ``delayanti``); ``delay_pro`` and ``delay_anti`` show it from its onset to the trial's
    end (DelayPro and DelayAnti, also ``fdgo`` and ``fdanti``), so that nothing need be remembered.
    Targets ``[B, T, 3]``: (1, 0, 0) until the go cue, then (0, cos phi, sin phi), phi = theta for pro and
    theta + pi for anti. Every existing step is scored, but the ``grace`` steps from the go cue on.

    Each epoch of each trial lasts its set length plus 0 to ``jitter`` steps, all equally likely. ``T`` is
    the longest possible trial, so batches stack; shorter trials are padded with zeros. Coordinates:
    ``angle`` theta in [0, 2 pi) [rad], ``response_angle`` phi, likewise, and ``delay``, the steps of the
    memory epoch. One seed gives the same angles, lengths and noise whatever the variant.

    Source: Yang, Joglekar, Song, Newsome & Wang (2019), Nature Neuroscience 22:297; inputs and outputs as
    an angle's cosine and sine after Driscoll, Shenoy & Sussillo (2024), Nature Neuroscience 27:1349.
    Ours departs from these: one stimulus modality, not two; lengths drawn per trial, not per batch, and
    the delay variants keep a ``memory`` epoch, so that all variants share their timing; fixation target
    1 and not 0.8; each scored step and output weighs the same (there, the response weighs five times,
    fixation twice, and the first 100 ms nothing); ``noise`` is the standard deviation itself. The default
    lengths are the published test trial of 0.5, 0.5, 1 and 0.5 s at 100 ms a step.

    Raises:
        SettingsError, ArgumentError: for a setting out of bounds.
    """

    @takes_settings(MemoryProSettings)
    def __init__(self, settings: MemoryProSettings) -> None:
        c = settings
        super().__init__(input_size=3 + len(VARIANTS) * c.rule, output_size=3, loss="mse", seed=c.seed)
        self.variant, self.jitter, self.grace = c.variant, c.jitter, c.grace
        self.noise, self.rule = c.noise, c.rule
        lengths = [c.fixation, c.stimulus, c.memory, c.response]
        self.lengths = torch.tensor(lengths, device="cpu")
        self.steps = sum(lengths) + len(lengths) * c.jitter

    def draw(self, batch_size: int, generator: torch.Generator, split: Split) -> Trials:
        """Return random trials; the splits differ in their random stream only."""
        # Always drawn, in this order: one seed gives one set of angles, lengths and noise to all variants.
        theta = 2 * math.pi * torch.rand(batch_size, generator=generator, dtype=torch.float64)
        lengths = self.lengths + torch.randint(self.jitter + 1, (batch_size, 4), generator=generator)
        noise_shape = (batch_size, self.steps, self.input_size)
        noise = torch.randn(noise_shape, generator=generator, dtype=torch.float64)

        ends = lengths.cumsum(dim=1)  # [B, 4]: the first step after each epoch
        step = torch.arange(self.steps)
        epoch = (step[:, None] >= ends[:, None, :]).sum(dim=2)  # [B, T]: 0 fixation ... 4 padding
        mask = epoch != PADDING
        responding = epoch == RESPONSE
        shown = epoch == STIMULUS
        if self.variant.startswith("delay"):
            shown = shown | (epoch == MEMORY) | responding
        phi = (theta + math.pi) % (2 * math.pi) if self.variant.endswith("anti") else theta

        inputs = torch.zeros(noise_shape, dtype=torch.float64)
        inputs[..., 0] = (epoch < RESPONSE).double()
        inputs[..., 1:3] = shown[..., None] * _circle(theta)[:, None, :]
        if self.rule:
            inputs[..., 3 + VARIANTS.index(self.variant)] = 1
        targets = torch.zeros(batch_size, self.steps, 3, dtype=torch.float64)
        targets[..., 0] = (epoch < RESPONSE).double()
        targets[..., 1:3] = responding[..., None] * _circle(phi)[:, None, :]
        go = ends[:, MEMORY, None]
        return Trials(
            inputs=(inputs + self.noise * noise) * mask[..., None],
            targets=targets,
            mask=mask,
            scored=mask & ((step < go) | (step >= go + self.grace)),
            epoch=np.array(EPOCHS)[epoch.numpy()],
            trial={
                "angle": theta.numpy(),
                "response_angle": phi.numpy(),
                "delay": lengths[:, MEMORY].numpy(),
            },
        )


def _circle(angle: torch.Tensor) -> torch.Tensor:
    return torch.stack((angle.cos(), angle.sin()), dim=-1)
