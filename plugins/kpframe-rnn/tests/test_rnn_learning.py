"""Networks of every kind learn, by the trainer that studies use; figures for the given seeds."""

from __future__ import annotations

import pytest
from kpframe_rnn.noise import NoisyTask

from kpframe import create_model, create_task
from kpframe.readout import Readout
from kpframe.training import Trainer, TrainingSettings

UNITS = 64
DALE = {"excitatory_fraction": 0.8, "nonlinearity": "relu", "gain": 1.0}

#: Settings, updates, learning rate, and the R^2 to exceed on the two-bit flip-flop.
FLIP_FLOP = {
    "plain": ({"gain": 1.0}, 400, 5e-3, 0.95),
    "masked": ({"gain": 1.0, "density": 0.1, "self_connections": False}, 400, 5e-3, 0.9),
    "dale": ({**DALE, "form": "rate", "alpha": 0.5}, 500, 2e-3, 0.9),
    "dale, rectified": ({**DALE, "form": "rate", "alpha": 0.5, "rectifier": "relu"}, 500, 2e-3, 0.9),
    "low rank": ({"rank": 2}, 400, 1e-2, 0.97),
    "stacked": ({"num_layers": 2}, 400, 3e-3, 0.97),
    "noisy": ({"gain": 1.0, "state_noise": 0.05}, 400, 5e-3, 0.9),
}


def train(model, task, steps: int, rate: float, batch_size: int) -> tuple[float, float]:
    """Return the accuracy on test trials before and after training."""
    top = slice(model.width - UNITS, model.width)
    readout = Readout(model.width, task.output_size, hidden=top, generator=0)
    settings = TrainingSettings(steps=steps, batch_size=batch_size, learning_rate=rate)
    trainer = Trainer(model, readout, task, settings, seed=1)
    test = task.sample(400, generator=9, split="test")
    before = trainer.evaluate(test)[1]
    for _ in trainer.run():
        pass
    return before, trainer.evaluate(test)[1]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("kind", FLIP_FLOP)
def test_flip_flop(kind, seed) -> None:
    own, steps, rate, reached = FLIP_FLOP[kind]
    task, own = create_task("flip_flop", bits=2, steps=25), {"hidden_size": UNITS, "seed": seed, **own}
    if "state_noise" in own:
        model = create_model("noisy_rnn", input_size=2, **own)
        task = NoisyTask(task, model.noise)
    else:
        model = create_model("rnn", input_size=2, **own)
    before, after = train(model, task, steps, rate, 32)
    assert before < 0.3
    assert after > reached


@pytest.mark.slow
def test_digits_under_dales_law() -> None:
    model = create_model("rnn", input_size=8, hidden_size=UNITS, seed=0, **DALE)
    before, after = train(model, create_task("digits"), 200, 5e-3, 64)
    assert before < 0.25
    assert after > 0.85
