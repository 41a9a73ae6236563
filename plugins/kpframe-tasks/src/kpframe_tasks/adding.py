"""The adding problem."""

from __future__ import annotations

import numpy as np
import torch

from kpframe.plugin import takes_settings
from kpframe.tasks import Split, Task, Trials
from kpframe_tasks import AddingSettings

EPOCHS = ("values", "delay", "response", "padding")
VALUES, DELAY, RESPONSE, PADDING = range(len(EPOCHS))


class Adding(Task):
    """Add the two marked values of a sequence and answer after a delay.

    Inputs ``[B, T, 3]``: a value, its marker, and the go cue. For ``steps`` steps the value is uniform on
    [low, high]; the marker is 1 at one step of the first half (``steps // 2`` steps), at one of the
    second half, each uniform, and 0 elsewhere. Then come ``delay`` steps, plus 0 to ``jitter``, all
    equally likely, of zeros, and ``response`` steps with a go cue of 1, padded with zeros to the longest
    possible trial. Targets ``[B, T, 1]``: the sum of the two marked values at the response, else 0;
    scored at the response alone. Epochs ``"values"``, ``"delay"``, ``"response"`` and ``"padding"``.
    Coordinates ``sum``, ``first`` and ``second``, the marked steps, and ``delay`` [steps].

    The best answer without memory is low + high, whose mean squared error is (high - low)^2 / 6; one that
    keeps a single marked value halves it.

    Source: Hochreiter & Schmidhuber (1997), Long short-term memory, Neural Computation 9:1735, experiment
    4. Ours departs from it in the target, which is the sum itself and not 0.5 + sum / 4; in one marker
    in each half, as usual since; in lengths that vary by the delay alone; and in the delay and go cue.

    Raises:
        SettingsError, ArgumentError: for a setting out of bounds.
    """

    @takes_settings(AddingSettings)
    def __init__(self, settings: AddingSettings) -> None:
        super().__init__(input_size=3, output_size=1, loss="mse", seed=settings.seed)
        self.steps, self.delay, self.response = settings.steps, settings.delay, settings.response
        self.jitter, self.low, self.high = settings.jitter, settings.low, settings.high

    def draw(self, batch_size: int, generator: torch.Generator, split: Split) -> Trials:
        """Return random trials; the splits differ in their random stream only."""
        uniform = torch.rand(batch_size, self.steps, generator=generator, dtype=torch.float64)
        values = self.low + (self.high - self.low) * uniform
        half = self.steps // 2
        first = torch.randint(half, (batch_size,), generator=generator)
        second = torch.randint(half, self.steps, (batch_size,), generator=generator)
        delay = self.delay + torch.randint(self.jitter + 1, (batch_size,), generator=generator)
        total = (values.gather(1, first[:, None]) + values.gather(1, second[:, None]))[:, 0]

        step = torch.arange(self.steps + self.delay + self.jitter + self.response)
        ends = torch.stack((torch.full_like(delay, self.steps), delay, torch.full_like(delay, self.response)))
        epoch = (step[:, None] >= ends.cumsum(dim=0).T[:, None, :]).sum(dim=2)  # [B, T]
        responding = epoch == RESPONSE
        inputs = torch.zeros(batch_size, len(step), 3, dtype=torch.float64)
        inputs[:, : self.steps, 0] = values
        inputs[..., 1] = ((step == first[:, None]) | (step == second[:, None])).double()
        inputs[..., 2] = responding.double()
        return Trials(
            inputs=inputs,
            targets=(responding * total[:, None])[..., None],
            mask=epoch != PADDING,
            scored=responding,
            epoch=np.array(EPOCHS)[epoch.numpy()],
            trial={
                "sum": total.numpy(),
                "first": first.numpy(),
                "second": second.numpy(),
                "delay": delay.numpy(),
            },
        )
