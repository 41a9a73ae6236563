"""Training bundled models on bundled tasks by bundled rules: operators against ``loss.backward()``."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch

from kpframe import LearningRule, create_model, create_rule, create_task
from kpframe.study._running.training import Trainer, TrainingSettings, backward_gradient, operator_gradient
from kpframe.tasks._readout import Readout

MODELS: dict[str, tuple[str, dict[str, object]]] = {
    "vanilla": ("rnn", {"gain": 1.2}),
    "rate": ("rnn", {"gain": 1.2, "form": "rate", "alpha": 0.4, "trainable_initial_state": True}),
    "gru": ("gru", {}),
}


def trainer(
    model: str, task: str, rule: LearningRule | None, task_settings: Mapping[str, object] = {}, **settings
) -> Trainer:
    name, own = MODELS[model]
    work = create_task(task, **task_settings)
    network = create_model(name, input_size=work.input_size, hidden_size=16, seed=0, **own)
    chosen = {"batch_size": 32, "learning_rate": 5e-3, "gradient": "operators" if rule else "autograd"}
    readout = Readout(16, work.output_size, generator=0)
    return Trainer(network, readout, work, TrainingSettings(**chosen | settings), rule=rule, seed=1)


def losses(made: Trainer) -> np.ndarray:
    return np.array([progress.loss for progress in made.run()])


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.rows(2)
def test_digits_by_operators_are_digits_by_autograd(optimizer) -> None:
    rate = {"adam": 5e-3, "sgd": 0.5}[optimizer]
    settings = {"steps": 20, "optimizer": optimizer, "learning_rate": rate}
    expected = losses(trainer("gru", "digits", None, **settings))
    found = losses(trainer("gru", "digits", create_rule("bptt"), **settings))
    short = losses(trainer("gru", "digits", create_rule("truncated_bptt", window=1), **settings))
    assert np.abs(found / expected - 1).max() <= 2e-6
    assert np.abs(short / expected - 1).max() > 1e-3
    assert expected[-5:].mean() < expected[:5].mean() - 0.02


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("task", "task_settings"),
    [("memory_pro", {"jitter": 4, "noise": 0.1}), ("flip_flop", {"steps": 20}), ("digits", {})],
)
@pytest.mark.rows(6)
def test_gradients(dtype, rtol, model, task, task_settings) -> None:
    def gradient(rule: LearningRule | None) -> torch.Tensor:
        made = trainer(model, task, rule, task_settings)
        network, readout = made.model.to(dtype), made.readout.to(dtype)
        trials = made.task.sample(8, generator=2, dtype=dtype)
        if rule is None:
            backward_gradient(network, readout, trials, made.task)
        else:
            operator_gradient(network, readout, trials, made.task, rule)
        return torch.cat([p.grad.reshape(-1) for p in network.parameters()])

    expected = gradient(None)
    assert expected.dtype == dtype
    scale = float(expected.norm())
    assert float((gradient(create_rule("bptt")) - expected).norm()) <= rtol * scale
    for rule in (
        create_rule("truncated_bptt", window=2),
        create_rule("truncated_bptt", window=2, mode="chunked"),
        create_rule("frozen", parameters=["weight_hh_l0"]),
    ):
        assert float((gradient(rule) - expected).norm()) > 1e-3 * scale


def test_frozen_parameters_stay_where_they_are() -> None:
    made = trainer("gru", "digits", create_rule("frozen", parameters=["*_hh_*"]), steps=3)
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    losses(made)
    still = {name for name, value in made.model.state_dict().items() if torch.equal(value, before[name])}
    assert still == {"weight_hh_l0", "bias_hh_l0"}


@pytest.mark.parametrize("rule", [("truncated_bptt", {"window": 3}), ("frozen", {"parameters": ["*_hh_*"]})])
@pytest.mark.slow
def test_other_rules_learn_the_digits_too(rule) -> None:
    name, settings = rule
    made = trainer("gru", "digits", create_rule(name, **settings), steps=60, learning_rate=0.02)
    test = made.task.dataset("test")
    loss, accuracy = made.evaluate(test)
    assert accuracy < 0.25
    losses(made)
    better_loss, better_accuracy = made.evaluate(test)
    assert better_loss < 0.6 * loss
    assert better_accuracy > 0.45
