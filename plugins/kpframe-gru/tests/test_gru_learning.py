"""Training: step by step as ``torch.nn.GRU`` trains, and three bits learnt to be held by both forms."""

from __future__ import annotations

import pytest
import torch

from kpframe import Readout, create_model, create_task
from kpframe.readout import task_loss
from kpframe.training import Trainer, TrainingSettings

UNITS = 24


def trainer(steps: int, dtype: torch.dtype, **settings) -> Trainer:
    """Return a trainer on the 3-bit flip-flop; the readout sees the last layer."""
    task = create_task("flip_flop", steps=25)
    model = create_model("gru", input_size=3, hidden_size=UNITS, seed=0, **settings).to(dtype)
    last = slice(model.width - UNITS, model.width)
    readout = Readout(model.width, 3, hidden=last, generator=0, dtype=dtype)
    chosen = TrainingSettings(steps=steps, batch_size=32, learning_rate=0.02)
    return Trainer(model, readout, task, chosen, seed=1)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.rows(2)
def test_it_trains_as_torch_does(reference, close, differ, layers) -> None:
    made, other = (trainer(10, torch.float64, num_layers=layers) for _ in range(2))
    twin = reference(made.model)
    optimizer = torch.optim.Adam([*twin.parameters(), *other.readout.parameters()], lr=0.02)
    generator = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(10):
        trials = other.task.sample(32, generator=generator, dtype=torch.float64)
        out, _ = twin(trials.inputs)
        loss = task_loss(out @ other.readout.weight.T + other.readout.bias, trials, "mse")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    found = torch.tensor([progress.loss for progress in made.run()], dtype=torch.float64)
    close(found, torch.tensor(losses, dtype=torch.float64), 1e-10)
    differ(found, found.flip(0))
    for name, parameter in twin.named_parameters():
        close(getattr(made.model, name), parameter, 1e-8)
        differ(getattr(made.model, name), getattr(other.model, name))


@pytest.mark.slow
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("reset", ["after", "before"])
def test_it_learns_to_hold_three_bits(reset, layers) -> None:
    """R^2 of unseen trials; a readout trained on an untrained network stays far below."""
    made, fixed = (trainer(200, torch.float32, reset=reset, num_layers=layers) for _ in range(2))
    fixed.model.requires_grad_(False)
    test = made.task.sample(500, generator=5, split="test")
    assert made.evaluate(test)[1] < 0.1
    for one in (made, fixed):
        for _ in one.run():
            pass
    assert made.evaluate(test)[1] > 0.97
    assert fixed.evaluate(test)[1] < 0.7
