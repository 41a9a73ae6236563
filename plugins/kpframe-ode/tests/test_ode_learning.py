"""Models learn to hold three bits: by backpropagation through the integrator, not by their readout alone."""

from __future__ import annotations

import pytest

from kpframe import Readout, create_model, create_task
from kpframe.training import Trainer, TrainingSettings

CASES = {
    "neural_ode": ({"dt": 0.5, "mlp_width": 32, "integrator": "heun", "leak": 0.5}, 16, 1e-2, 0.92),
    "hopfield": ({"dt": 0.9}, 32, 2e-2, 0.82),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_flip_flop(name) -> None:
    """R^2 on fresh trials after 300 updates of 32 trials of 25 steps."""
    settings, hidden, rate, enough = CASES[name]
    task = create_task("flip_flop", steps=25)
    trials, reached = task.sample(200, generator=99), {}
    for frozen in (False, True):
        model = create_model(name, input_size=3, hidden_size=hidden, seed=0, **settings)
        model.requires_grad_(not frozen)
        chosen = TrainingSettings(steps=300, batch_size=32, learning_rate=rate)
        trainer = Trainer(model, Readout(hidden, 3, generator=0), task, chosen, seed=1)
        if not frozen:
            assert trainer.evaluate(trials)[1] < 0.1
        for _ in trainer.run():
            pass
        reached[frozen] = trainer.evaluate(trials)[1]
    assert reached[False] > enough
    assert reached[True] < 0.6
