"""Both models learn to read handwritten digits, row by row, through currents, synapses and spikes.

A row of pixels is held for several steps of the membrane; the readout sees one component of the last state.
The nonnegative conductances of a fifth of inhibitory neurons train along with the input's weights.
"""

from __future__ import annotations

import pytest
import torch

from kpframe import Task, Trials, create_model, create_task
from kpframe.readout import Readout
from kpframe.training import Trainer, TrainingSettings


class Held(Task):
    """A task whose steps are held for ``steps`` steps each; the last one is scored."""

    def __init__(self, task: Task, steps: int) -> None:
        super().__init__(
            input_size=task.input_size, output_size=task.output_size, loss=task.loss, seed=task.seed
        )
        self.task, self.steps = task, steps

    def draw(self, batch_size, generator, split) -> Trials:
        return self.hold(self.task.draw(batch_size, generator, split))

    def hold(self, trials: Trials) -> Trials:
        scored = torch.zeros_like(trials.scored).repeat_interleave(self.steps, dim=1)
        scored[:, -1] = True
        return Trials(
            inputs=trials.inputs.repeat_interleave(self.steps, dim=1),
            targets=trials.targets.repeat_interleave(self.steps, dim=1),
            mask=trials.mask.repeat_interleave(self.steps, dim=1),
            scored=scored,
            epoch=trials.epoch.repeat(self.steps, axis=1),
            trial=trials.trial,
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings", "read", "held", "updates", "rate", "reached"),
    [
        ("hh", {"dt": 0.2, "input_gain": 15.0}, "s", 4, 200, 0.07, 0.80),
        ("morris_lecar", {"dt": 1.0, "input_gain": 200.0}, "w", 4, 250, 0.1, 0.85),
    ],
)
def test_digits(name, settings, read, held, updates, rate, reached) -> None:
    """The accuracy on held-out images after so many updates of 64 images; chance is 0.1."""
    n = 64
    model = create_model(
        name,
        input_size=8,
        hidden_size=n,
        input_weights=True,
        bias=True,
        inhibitory_fraction=0.2,
        nonnegative=True,
        seed=0,
        **settings,
    )
    digits = create_task("digits")
    task = Held(digits, held)
    part = list(model.components).index(read)
    readout = Readout(model.width, 10, hidden=slice(part * n, (part + 1) * n), generator=0)
    training = TrainingSettings(steps=updates, batch_size=64, learning_rate=rate)
    trainer = Trainer(model, readout, task, training, seed=0)
    test = task.hold(digits.dataset("test"))
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    assert trainer.evaluate(test)[1] < 0.2
    for _ in trainer.run():
        pass
    _, accuracy = trainer.evaluate(test)
    assert accuracy >= reached
    for key, p in model.named_parameters():
        assert float((p.detach() - before[key]).norm()) > 1e-2 * float(before[key].norm()), key
    with torch.no_grad():  # the synapses carry part of it
        for key, p in model.named_parameters():
            if key in ("weight_excitatory", "weight_inhibitory"):
                p.fill_(-30.0)
    assert trainer.evaluate(test)[1] < accuracy - 0.02
