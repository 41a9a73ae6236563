"""A task for feedforward networks: what another task tells step by step, told at once."""

from __future__ import annotations

import torch
from attrs import evolve

from kpframe import create_task
from kpframe.errors import ArgumentError, mismatch
from kpframe.plugin import takes_settings
from kpframe.tasks import Split, Task, Trials
from kpframe_feedforward import AtOnceSettings
from kpframe_feedforward.layers import at_first_step


class AtOnce(Task):
    """The trials of another task, each given whole at the first step and answered at the last. Ours.

    A trial of T steps of I channels becomes one sample of ``T I`` entries, step after step: an image that
    ``digits`` reads row by row becomes its pixels. It is the input of the first of ``steps`` steps, zeros
    follow, and the target of the trial's last step is scored at the last of them. Splits, labels and the
    draw are the other task's.

    Raises:
        ArgumentError: for trials that differ in length, or whose last step is not scored.
        UnknownNameError: when no installed plugin offers the task.
    """

    @takes_settings(AtOnceSettings)
    def __init__(self, settings: AtOnceSettings) -> None:
        inner = create_task(settings.task, seed=settings.seed)
        self.steps, self.inner = settings.steps, inner
        example = self._whole(inner.draw(1, torch.Generator().manual_seed(0), "train"))
        super().__init__(
            input_size=example.inputs.shape[2],
            output_size=inner.output_size,
            loss=inner.loss,
            seed=settings.seed,
        )

    def draw(self, batch_size: int, generator: torch.Generator, split: Split) -> Trials:
        """Return ``batch_size`` trials of the other task, whole."""
        return self._whole(self.inner.draw(batch_size, generator, split))

    def dataset(
        self,
        split: Split = "train",
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Trials:
        """Return every trial of the other task, whole; raises ``ArgumentError`` where there is no end."""
        return self._whole(self.inner.dataset(split, dtype=dtype, device=device))

    def num_trials(self, split: Split = "train") -> int | None:
        """Return the other task's number of trials."""
        return self.inner.num_trials(split)

    def _whole(self, trials: Trials) -> Trials:
        if not bool(trials.mask.all()):
            raise ArgumentError(
                mismatch("task", "trials of one length", "trials that end at different steps")
            )
        if not bool(trials.scored[:, -1].all()):
            raise ArgumentError(mismatch("task", "trials with a target at their last step", "none there"))
        samples = trials.inputs.flatten(1)
        batch, steps = len(samples), self.steps
        scored = torch.zeros(batch, steps, dtype=torch.bool, device=samples.device)
        scored[:, -1] = True
        last = trials.targets[:, -1:]
        return evolve(
            trials,
            inputs=at_first_step(samples, steps, samples.shape[1]),
            targets=last.expand(batch, steps, *last.shape[2:]).contiguous(),
            mask=torch.ones_like(scored),
            scored=scored,
            epoch=trials.epoch[:, -1:].repeat(steps, axis=1),
        )
