"""Noise as columns of the input: drawn outside of the model, so that a step stays a pure function."""

from __future__ import annotations

import math

import torch
from attrs import evolve, frozen

from kpframe.errors import ArgumentError, ShapeError, mismatch
from kpframe.tasks import Split, Task, Trials, seeded_generator


@frozen
class Noise:
    """Where noise stands in the input and how the model scales it.

    The columns of ``x`` are ``signals``, then as many of input noise if ``input_noise > 0``, then
    ``units`` of state noise for each layer if ``state_noise > 0``. They hold standard normal draws.

    Attributes:
        signals: number of input channels.
        units: number of units of a layer.
        layers: number of layers.
        input_noise, state_noise: standard deviations sigma; 0 for none.
        alpha: dt / tau of a leaky form; None for the vanilla one, which has no time constant.
    """

    signals: int
    units: int
    layers: int
    input_noise: float
    state_noise: float
    alpha: float | None

    @property
    def inputs(self) -> int:
        """Number of columns that the input weights read: signals and their noise."""
        return self.signals * (2 if self.input_noise else 1)

    @property
    def width(self) -> int:
        """Number of all columns."""
        return self.inputs + (self.layers * self.units if self.state_noise else 0)

    def state_columns(self, layer: int) -> slice:
        """The columns of a layer's state noise."""
        start = self.inputs + layer * self.units
        return slice(start, start + self.units)

    def scale(self, sigma: float) -> float:
        """Return what a standard normal draw is multiplied by: sqrt(2 / alpha) sigma, or sigma."""
        return sigma if self.alpha is None else math.sqrt(2 / self.alpha) * sigma

    def append(self, x: torch.Tensor, generator: torch.Generator | int | None = None) -> torch.Tensor:
        """Return signals ``[..., I]`` with standard normal draws beside them, ``[..., width]``.

        Args:
            x: the signals.
            generator: a seed, a CPU generator, which advances, or None for torch's global one. The draw
                does not depend on dtype and device of ``x``.

        Raises:
            ShapeError: when the last dimension is not ``signals`` wide.
        """
        if not isinstance(x, torch.Tensor) or x.ndim < 1 or x.shape[-1] != self.signals:
            got = f"shape {list(x.shape)}" if isinstance(x, torch.Tensor) else type(x).__name__
            raise ShapeError(mismatch("x", f"shape [..., input={self.signals}]", got))
        if generator is not None and not isinstance(generator, torch.Generator):
            generator = seeded_generator(generator)
        shape = (*x.shape[:-1], self.width - self.signals)
        noise = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
        return torch.cat([x, noise.to(x)], dim=-1)


class NoisyTask(Task):
    """A task whose inputs carry the noise of a model beside them, drawn anew with each trial.

    A noisy network is trained with it: ``Trainer(model, readout, NoisyTask(task, model.noise), settings)``.

    Args:
        task: gives the trials.
        noise: of the model that is to be trained, ``model.noise``.
        seed: seed of the trials that are drawn without a generator.

    Raises:
        ArgumentError: when the model reads another number of signals than the task gives.
    """

    def __init__(self, task: Task, noise: Noise, seed: int = 0) -> None:
        if noise.signals != task.input_size:
            got = f"a model of {noise.signals}"
            raise ArgumentError(mismatch("noise", f"that of a model of {task.input_size} inputs", got))
        super().__init__(input_size=noise.width, output_size=task.output_size, loss=task.loss, seed=seed)
        self.task, self.noise = task, noise

    def draw(self, batch_size: int, generator: torch.Generator, split: Split) -> Trials:
        """Return the task's trials, and then noise, from one generator."""
        trials = self.task.draw(batch_size, generator, split)
        return evolve(trials, inputs=self.noise.append(trials.inputs, generator))
