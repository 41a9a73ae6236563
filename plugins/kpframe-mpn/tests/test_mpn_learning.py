"""Learning: a memory task by plasticity alone, and the gradient that training takes."""

from __future__ import annotations

import pytest
import torch

from kpframe import Readout, create_model, create_task, linearize
from kpframe.readout import error, task_loss
from kpframe.training import Trainer, TrainingSettings


def trainer(task: str, neurons: int, steps: int, batch_size: int, **settings: object) -> Trainer:
    """Return a trainer whose readout sees the activity h, not the modulations."""
    work = create_task(task)
    model = create_model("mpn", input_size=work.input_size, hidden_size=neurons, seed=0, **settings)
    readout = Readout(model.width, work.output_size, hidden=slice(0, neurons), generator=0)
    chosen = TrainingSettings(steps=steps, batch_size=batch_size, learning_rate=1e-2)
    return Trainer(model, readout, work, chosen, seed=0)


def accuracy_after_training(made: Trainer, trials) -> float:
    for _ in made.run():
        pass
    return made.evaluate(trials)[1]


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["hebbian", "oja"])
def test_it_remembers_an_angle(rule) -> None:
    """R^2 > 0.99 after 300 updates of 32 trials; without plasticity only the fixation can be learned."""
    made = trainer("memory_pro", 32, 300, 32, rule=rule)
    trials = made.task.sample(256, split="test")
    assert made.evaluate(trials)[1] < 0.1
    assert accuracy_after_training(made, trials) > 0.99
    without = trainer("memory_pro", 32, 300, 32, rule=rule, eta=0.0, train_eta=False)
    assert accuracy_after_training(without, trials) < 0.5


@pytest.mark.slow
def test_it_reads_digits() -> None:
    """More than 80 % of the test images after 300 updates of 64; by the last row alone, about half."""
    made = trainer("digits", 64, 300, 64)
    trials = made.task.dataset("test")
    assert made.evaluate(trials)[1] < 0.25
    assert accuracy_after_training(made, trials) > 0.8
    without = trainer("digits", 64, 300, 64, eta=0.0, train_eta=False)
    assert accuracy_after_training(without, trials) < 0.55


@pytest.mark.parametrize("form", ["multiplicative", "additive"])
def test_the_gradient_of_the_operators(form, close, differ) -> None:
    made = trainer("memory_pro", 8, 1, 8, form=form, trainable_initial_state=True)
    model, readout = made.model.double(), made.readout.double()
    trials = made.task.sample(8, dtype=torch.float64)
    loss = task_loss(readout(model.rollout(trials.inputs, mask=trials.mask).states), trials, made.task.loss)
    loss.backward()
    expected = torch.cat([p.grad.reshape(-1) for p in model.parameters()])
    flow = linearize(model, trials.inputs, mask=trials.mask)
    err = error(readout, flow.trajectory.states, trials, made.task.loss)
    close((flow.J.T @ flow.P.T)(err), expected, 1e-12)
    differ((flow.J.T @ flow.P.truncated(2).T)(err), expected)
