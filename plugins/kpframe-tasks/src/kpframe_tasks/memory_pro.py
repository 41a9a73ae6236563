"""Memory-guided and delayed responses, to a stimulus or away from it, alone or mixed."""

from __future__ import annotations

import math

import numpy as np
import torch

from kpframe.plugin import takes_settings
from kpframe.tasks import Split, Task, Trials
from kpframe_tasks import VARIANTS, MemoryProSettings

EPOCHS = ("cue", "fixation", "stimulus", "memory", "response", "padding")
CUE, FIXATION, STIMULUS, MEMORY, RESPONSE, PADDING = range(len(EPOCHS))


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

    Several names as ``variant`` mix them: of ``n`` of them each has ``B / n`` trials, rounded up or down,
    in random order. The rule channels tell them apart: all the time, or, with ``cue`` steps, in a first
    epoch ``"cue"`` (fixation 1, no stimulus) alone, so that the rule has to be remembered as well.

    With ``distractor`` steps a second, independent angle is added to the stimulus channels for so long, from
    a step on that is uniform among those that leave it within the memory epoch; the response ignores it.
    ``directions`` n draws angles among 2 pi k / n. With ``encoding = "one_hot"`` each direction has a channel
    in place of cosine and sine, in inputs and targets (n channels for 2), and its opposite is the channel
    n / 2 further. ``amplitude`` multiplies stimulus, distractor and response.

    Each epoch of each trial lasts its set length plus 0 to ``jitter`` steps, all equally likely (without
    ``cue`` there is no such epoch). ``T`` is the longest possible trial, so batches stack; shorter trials
    are padded with zeros. Coordinates: ``task``, the variant; ``angle`` theta in [0, 2 pi) [rad];
    ``response_angle`` phi, likewise; ``delay``, the steps of the memory epoch; with a distractor also
    ``distractor_angle`` [rad] and ``distractor_onset``, its first step. One seed gives the same angles,
    lengths and noise whatever the variant.

    Source: Yang, Joglekar, Song, Newsome & Wang (2019), Nature Neuroscience 22:297; inputs and outputs as
    an angle's cosine and sine after Driscoll, Shenoy & Sussillo (2024), Nature Neuroscience 27:1349; the
    distractor after Powell & Goldberg (2000), Journal of Neurophysiology 84:301.
    Ours departs from these: one stimulus modality, not two; lengths drawn per trial, not per batch, and
    the delay variants keep a ``memory`` epoch, so that all variants share their timing; fixation target
    1 and not 0.8; each scored step and output weighs the same (there, the response weighs five times,
    fixation twice, and the first 100 ms nothing); ``noise`` is the standard deviation itself. The default
    lengths are the published test trial of 0.5, 0.5, 1 and 0.5 s at 100 ms a step.
    The reference code of arXiv 2507.06381 has ``fixation=0, stimulus=30, memory=30, response=30, grace=0,
    noise=0.1 * 2 ** 0.5``, with ``rule=False`` for one variant and ``cue=30`` for the mixture of all four.

    Raises:
        SettingsError, ArgumentError: for a setting out of bounds, or settings that exclude each other.
    """

    @takes_settings(MemoryProSettings)
    def __init__(self, settings: MemoryProSettings) -> None:
        c = settings
        self.channels = c.directions if c.encoding == "one_hot" else 2
        width = 1 + self.channels
        super().__init__(
            input_size=width + len(VARIANTS) * c.rule, output_size=width, loss="mse", seed=c.seed
        )
        self.variant, self.variants, self.jitter, self.grace = c.variant, c.variants, c.jitter, c.grace
        self.noise, self.rule, self.cue, self.distractor = c.noise, c.rule, c.cue, c.distractor
        self.directions, self.encoding, self.amplitude = c.directions, c.encoding, c.amplitude
        lengths = [*([c.cue] if c.cue else []), c.fixation, c.stimulus, c.memory, c.response]
        self.lengths = torch.tensor(lengths, device="cpu")
        self.steps = sum(lengths) + len(lengths) * c.jitter

    def draw(self, batch_size: int, generator: torch.Generator, split: Split) -> Trials:
        """Return random trials; the splits differ in their random stream only."""
        # Always drawn, in this order: one seed gives one set of angles, lengths and noise to all variants.
        theta = self._angles(batch_size, generator)
        drawn = (batch_size, len(self.lengths))
        lengths = self.lengths + torch.randint(self.jitter + 1, drawn, generator=generator)
        noise_shape = (batch_size, self.steps, self.input_size)
        noise = torch.randn(noise_shape, generator=generator, dtype=torch.float64)
        which = self._mixture(batch_size, generator)
        names = np.array(VARIANTS)[which.numpy()]
        anti = torch.from_numpy(np.char.endswith(names, "anti"))
        delayed = torch.from_numpy(np.char.startswith(names, "delay"))
        phi = torch.where(anti, (theta + math.pi) % (2 * math.pi), theta)

        if not self.cue:  # an epoch of no steps
            lengths = torch.nn.functional.pad(lengths, (1, 0))
        ends = lengths.cumsum(dim=1)  # [B, 5]: the first step after each epoch
        step = torch.arange(self.steps)
        epoch = (step[:, None] >= ends[:, None, :]).sum(dim=2)  # [B, T]: 0 cue ... 5 padding
        mask = epoch != PADDING
        responding = epoch == RESPONSE
        shown = (epoch == STIMULUS) | (delayed[:, None] & ((epoch == MEMORY) | responding))
        trial = {
            "task": names,
            "angle": theta.numpy(),
            "response_angle": phi.numpy(),
            "delay": lengths[:, MEMORY].numpy(),
        }

        width = self.output_size
        inputs = torch.zeros(noise_shape, dtype=torch.float64)
        inputs[..., 0] = (epoch < RESPONSE).double()
        inputs[..., 1:width] = shown[..., None] * self._code(theta)[:, None, :]
        if self.distractor:
            other = self._angles(batch_size, generator)
            free = lengths[:, MEMORY] - self.distractor + 1
            wait = (torch.rand(batch_size, generator=generator, dtype=torch.float64) * free).long()
            onset = ends[:, STIMULUS] + wait
            seen = (step >= onset[:, None]) & (step < onset[:, None] + self.distractor)
            inputs[..., 1:width] += seen[..., None] * self._code(other)[:, None, :]
            trial |= {"distractor_angle": other.numpy(), "distractor_onset": onset.numpy()}
        if self.rule:
            one_hot = torch.nn.functional.one_hot(which, len(VARIANTS)).double()
            told = (epoch == CUE) if self.cue else mask
            inputs[..., width:] = told[..., None] * one_hot[:, None, :]
        targets = torch.zeros(batch_size, self.steps, width, dtype=torch.float64)
        targets[..., 0] = (epoch < RESPONSE).double()
        targets[..., 1:] = responding[..., None] * self._code(phi)[:, None, :]
        go = ends[:, MEMORY, None]
        return Trials(
            inputs=(inputs + self.noise * noise) * mask[..., None],
            targets=targets,
            mask=mask,
            scored=mask & ((step < go) | (step >= go + self.grace)),
            epoch=np.array(EPOCHS)[epoch.numpy()],
            trial=trial,
        )

    def _angles(self, batch_size: int, generator: torch.Generator) -> torch.Tensor:
        """Return angles in [0, 2 pi), ``[B]`` [rad]."""
        turn = torch.rand(batch_size, generator=generator, dtype=torch.float64)
        if self.directions:
            turn = (turn * self.directions).floor() / self.directions
        return 2 * math.pi * turn

    def _mixture(self, batch_size: int, generator: torch.Generator) -> torch.Tensor:
        """Return each trial's place in ``VARIANTS``, ``[B]``; one variant alone draws nothing."""
        places = torch.tensor([VARIANTS.index(name) for name in self.variants])
        if len(places) == 1:
            return places.expand(batch_size)
        # Which variants get one trial more is drawn as well, so that none has more on average.
        places = places[torch.randperm(len(places), generator=generator)]
        dealt = places[torch.arange(batch_size) % len(places)]
        return dealt[torch.randperm(batch_size, generator=generator)]

    def _code(self, angle: torch.Tensor) -> torch.Tensor:
        """Return angles ``[B]`` as the stimulus channels show them, ``[B, channels]``."""
        if self.encoding == "one_hot":
            place = (angle * self.directions / (2 * math.pi)).round().long() % self.directions
            return self.amplitude * torch.nn.functional.one_hot(place, self.directions).double()
        return self.amplitude * torch.stack((angle.cos(), angle.sin()), dim=-1)
