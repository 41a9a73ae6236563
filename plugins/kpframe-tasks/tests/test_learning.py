"""A small network learns each task: its loss on unseen trials, beside those of simpler answers."""

from __future__ import annotations

import pytest
import torch

from kpframe import create_task
from kpframe.readout import task_loss

VARIANTS = ("pro", "anti", "delay_pro", "delay_anti")


class Network(torch.nn.Module):
    def __init__(self, task, units: int = 64) -> None:
        super().__init__()
        self.cell = torch.nn.GRU(task.input_size, units, batch_first=True)
        self.readout = torch.nn.Linear(units, task.output_size)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.readout(self.cell(inputs)[0])


def trained(task, steps: int, rate: float = 0.01) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Network(task)
    optimizer = torch.optim.Adam(network.parameters(), rate)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        trials = task.sample(32, generator=generator)
        optimizer.zero_grad()
        task_loss(network(trials.inputs), trials, task.loss).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    return network


def learn(task, steps: int) -> tuple[float, float]:
    """Return the loss on 500 unseen trials: of the best constant answer, and of a trained network."""
    network = trained(task, steps)
    test = task.sample(500, generator=5, split="test")
    constant = test.targets[test.scored].mean(dim=0).expand_as(test.targets)
    with torch.no_grad():
        return (
            float(task_loss(constant, test, task.loss)),
            float(task_loss(network(test.inputs), test, task.loss)),
        )


@pytest.mark.slow
def test_a_network_learns_an_environment_of_neurogym() -> None:
    """The share of right classes at the steps that are not fixation; guessing has 1 in 16."""
    pytest.importorskip("neurogym", reason="neurogym is not installed", exc_type=ImportError)
    task = create_task("neurogym", environment="yang19.dlygo-v0", dt=100)
    network = trained(task, 300)
    test = task.sample(300, generator=5, split="test")
    asked = test.scored & (test.targets != 0)
    with torch.no_grad():
        right = network(test.inputs).argmax(dim=2) == test.targets
    assert float(right[asked].double().mean()) > 0.8


@pytest.mark.slow
@pytest.mark.parametrize(("name", "steps"), [("japanese_vowels", 150), ("basic_motions", 80)])
def test_a_network_learns_recorded_series(name, steps) -> None:
    """The share of unseen series that are named right; guessing has 1 in 9 and 1 in 4."""
    pytest.importorskip("sktime", reason="sktime is not installed", exc_type=ImportError)
    task = create_task("time_series", dataset=name)
    network, test = trained(task, steps), task.dataset("test")
    with torch.no_grad():
        right = network(test.inputs).argmax(dim=2) == test.targets
    assert float(right[test.scored].double().mean()) > 0.85


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings", "steps", "share"),
    [
        ("memory_pro", {"variant": VARIANTS}, 200, 0.05),
        ("memory_pro", {"variant": VARIANTS[:2], "cue": 3, "fixation": 0, "memory": 5}, 350, 0.05),
        ("memory_pro", {"distractor": 3}, 200, 0.05),
        ("adding", {"steps": 10, "delay": 3}, 400, 0.1),
        ("delayed_addition", {"lags": (2, 4), "steps": 20}, 300, 0.1),
        ("contextual_integration", {"noise": 0.05, "stimulus": 10}, 500, 0.2),
        ("low_rank_forecast", {"horizon": 2, "steps": 15}, 200, 0.05),
        ("low_rank_forecast", {"dynamics": "tanh", "observation": "sine", "steps": 15}, 300, 0.1),
    ],
)
def test_a_network_learns_it(name, settings, steps, share) -> None:
    """``share`` is the part of a constant answer's loss that is left."""
    constant, learnt = learn(create_task(name, **settings), steps)
    assert learnt < share * constant
