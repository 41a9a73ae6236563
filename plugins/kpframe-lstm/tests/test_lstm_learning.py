"""Training: step by step as ``torch.nn.LSTM`` trains, and three bits learnt to be held."""

from __future__ import annotations

import pytest
import torch

from kpframe import Model, Readout, create_model, create_task
from kpframe.readout import task_loss
from kpframe.training import Trainer, TrainingSettings

UNITS = 24
FORMS = {
    "one layer": {},
    "forget bias": {"forget_bias": 1.0},
    "two layers": {"num_layers": 2},
    "projected": {"proj_size": 8},
}


def trainer(steps: int, dtype: torch.dtype, **settings) -> Trainer:
    """Return a trainer on the 3-bit flip-flop; the readout sees h of the last layer."""
    task = create_task("flip_flop", steps=25)
    model: Model = create_model("lstm", input_size=3, hidden_size=UNITS, seed=0, **settings).to(dtype)
    start = sum(list(model.components.values())[:-2])
    h = slice(start, start + list(model.components.values())[-2])
    readout = Readout(model.width, 3, hidden=h, generator=0, dtype=dtype)
    return Trainer(
        model, readout, task, TrainingSettings(steps=steps, batch_size=32, learning_rate=0.02), seed=1
    )


@pytest.mark.parametrize(
    "form", [{}, {"num_layers": 2, "proj_size": 8}], ids=["one layer", "projected layers"]
)
@pytest.mark.rows(2)
def test_it_trains_as_torch_does(reference, close, differ, form) -> None:
    made = trainer(10, torch.float64, **form)
    twin, other = reference(made.model), trainer(10, torch.float64, **form)
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
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_it_learns_to_hold_three_bits(form) -> None:
    """R^2 of unseen trials; a readout trained on an untrained network stays far below."""
    made, fixed = trainer(200, torch.float32, **form), trainer(200, torch.float32, **form)
    fixed.model.requires_grad_(False)
    test = made.task.sample(500, generator=5, split="test")
    assert made.evaluate(test)[1] < 0.1
    for one in (made, fixed):
        for _ in one.run():
            pass
    assert made.evaluate(test)[1] > 0.97
    assert fixed.evaluate(test)[1] < 0.7
