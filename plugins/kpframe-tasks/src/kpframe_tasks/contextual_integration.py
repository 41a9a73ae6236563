"""Context-dependent integration of two noisy streams."""

from __future__ import annotations

import numpy as np
import torch

from kpframe.plugin import takes_settings
from kpframe.tasks import Split, Task, Trials
from kpframe_tasks import ContextualIntegrationSettings

CONTEXTS = ("motion", "color")
EPOCHS = ("fixation", "stimulus", "delay", "response", "padding")
FIXATION, STIMULUS, DELAY, RESPONSE, PADDING = range(len(EPOCHS))


class ContextualIntegration(Task):
    """Integrate one of two noisy streams of evidence, as the context says, and ignore the other.

    Inputs ``[B, T, 4]``: the streams motion and color, then a channel for each context. During the epoch
    ``"stimulus"`` each stream is d + noise * eta_t, with its own mean d and eta_t standard normal,
    independent at each step; else it is 0. The context's channel is 1 until the response, the other one 0.
    Each mean is uniform on [-strength, strength], or, with ``levels``, one of these sizes with either sign,
    all equally likely; the two are independent. Targets ``[B, T, 1]``: 0 before the response, then the sign
    of the relevant stream's mean. Scored at the steps of ``"fixation"`` and ``"response"``; not in between,
    where the output is free. Each context has half of the trials of a batch, in random order (of an odd
    number, either may have one more).

    Each epoch of each trial lasts its set length plus 0 to ``jitter`` steps, all equally likely; shorter
    trials are padded with zeros. Coordinates: ``context``; ``motion`` and ``color``, the means; ``choice``,
    -1 or 1; ``congruent``, whether both means have the same sign; ``duration``, the stimulus' steps.

    The best choice is the sign of the relevant stream's sum over the n steps of the stimulus; for a mean d
    it is right with probability Phi(|d| sqrt(n) / noise), Phi the standard normal distribution function.

    Source: Mante, Sussillo, Shenoy & Newsome (2013), Nature 503:78. Ours departs from it in time, which is in
    steps of unit length; in the response, which is a period after the stimulus and not its last moment; and
    in the default sizes of means and noise, which at 20 steps make the best choice right in 82 % of trials.

    Raises:
        SettingsError: for a setting out of bounds.
    """

    @takes_settings(ContextualIntegrationSettings)
    def __init__(self, settings: ContextualIntegrationSettings) -> None:
        c = settings
        super().__init__(input_size=2 + len(CONTEXTS), output_size=1, loss="mse", seed=c.seed)
        self.jitter, self.strength, self.levels, self.noise = c.jitter, c.strength, c.levels, c.noise
        lengths = [c.fixation, c.stimulus, c.delay, c.response]
        self.lengths = torch.tensor(lengths, device="cpu")
        self.steps = sum(lengths) + len(lengths) * c.jitter

    def draw(self, batch_size: int, generator: torch.Generator, split: Split) -> Trials:
        """Return random trials; the splits differ in their random stream only."""
        lengths = self.lengths + torch.randint(self.jitter + 1, (batch_size, 4), generator=generator)
        means = self._means(batch_size, generator)  # [B, 2]
        extra = torch.randint(2, (1,), generator=generator)
        context = ((torch.arange(batch_size) + extra) % 2)[torch.randperm(batch_size, generator=generator)]
        shape = (batch_size, self.steps, len(CONTEXTS))
        eta = torch.randn(shape, generator=generator, dtype=torch.float64)

        ends = lengths.cumsum(dim=1)  # [B, 4]: the first step after each epoch
        epoch = (torch.arange(self.steps)[:, None] >= ends[:, None, :]).sum(dim=2)  # [B, T]
        responding = epoch == RESPONSE
        streams = (means[:, None, :] + self.noise * eta) * (epoch == STIMULUS)[..., None]
        told = torch.nn.functional.one_hot(context, len(CONTEXTS))[:, None, :] * (epoch < RESPONSE)[..., None]
        choice = means.gather(1, context[:, None])[:, 0].sign()
        return Trials(
            inputs=torch.cat((streams, told.double()), dim=2),
            targets=(responding * choice[:, None])[..., None],
            mask=epoch != PADDING,
            scored=(epoch == FIXATION) | responding,
            epoch=np.array(EPOCHS)[epoch.numpy()],
            trial={
                "context": np.array(CONTEXTS)[context.numpy()],
                "motion": means[:, 0].numpy(),
                "color": means[:, 1].numpy(),
                "choice": choice.long().numpy(),
                "congruent": (means[:, 0].sign() == means[:, 1].sign()).numpy(),
                "duration": lengths[:, STIMULUS].numpy(),
            },
        )

    def _means(self, batch_size: int, generator: torch.Generator) -> torch.Tensor:
        """Return the mean of each stream, ``[B, 2]``, never 0."""
        shape = (batch_size, len(CONTEXTS))
        signs = 2.0 * torch.randint(2, shape, generator=generator).double() - 1
        if self.levels:
            levels = torch.tensor(self.levels, dtype=torch.float64)
            return signs * levels[torch.randint(len(levels), shape, generator=generator)]
        size = torch.rand(shape, generator=generator, dtype=torch.float64)
        return signs * self.strength * (1 - size)  # in (0, strength]
