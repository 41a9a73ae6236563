"""Every kind learns: the digits, and a delayed response; what linear dynamics cannot learn they do not."""

from __future__ import annotations

import pytest

from kpframe import create_model, create_task
from kpframe.readout import Readout
from kpframe.training import Trainer, TrainingSettings

pytestmark = pytest.mark.slow

#: The published initialisations; time steps of the order of the tasks' lengths.
KINDS = {
    "lti": {"hidden_size": 64},
    "s4d": {"hidden_size": 16, "state_size": 8},
    "s5": {"hidden_size": 64},
    "lru": {"hidden_size": 64},
    "mamba": {"hidden_size": 16, "state_size": 8},
}
SHORT = {"dt_min": 0.1, "dt_max": 1.0}


def train(
    name: str, task: str, steps: int, *, learns: bool = True, task_settings=None, **settings
) -> tuple[float, float]:
    """Return loss and accuracy (R^2 for regression) on test trials after training with Adam, rate 0.01."""
    work = create_task(task, **(task_settings or {}))
    model = create_model(name, input_size=work.input_size, seed=0, **{**KINDS[name], **settings})
    model.requires_grad_(learns)
    readout = Readout(model.width, work.output_size, generator=0)
    batch_size = 64 if task == "digits" else 32
    chosen = TrainingSettings(steps=steps, batch_size=batch_size, learning_rate=0.01)
    made = Trainer(model, readout, work, chosen, seed=1)
    test = work.dataset("test") if task == "digits" else work.sample(256, split="test", generator=5)
    _, before = made.evaluate(test)
    assert before < (0.2 if task == "digits" else 0.01)
    for _ in made.run():
        pass
    return made.evaluate(test)


@pytest.mark.parametrize("name", KINDS)
def test_digits(name) -> None:
    """More than 88 % of the digits, read row by row, after 300 updates of 64 images."""
    own = SHORT if name in ("s4d", "s5", "mamba") else {}
    assert train(name, "digits", 300, **own)[1] > 0.88


@pytest.mark.parametrize("name", KINDS)
def test_memory_pro(name) -> None:
    """R^2 > 0.85 after 300 updates, at less than half of the loss that a trained readout alone reaches."""
    loss, score = train(name, "memory_pro", 300)
    assert score > 0.85
    fixed, _ = train(name, "memory_pro", 300, learns=False)
    assert loss < 0.5 * fixed


@pytest.mark.parametrize("name", KINDS)
def test_flip_flop_takes_selection(name) -> None:
    """A linear filter cannot forget a bit when a new one comes: it stays below R^2 = 0.65, Mamba does not."""
    _, score = train(name, "flip_flop", 300, task_settings={"steps": 25})
    assert 0.5 < score < 0.65 if name != "mamba" else score > 0.68
