"""Delayed addition against a naive loop, and the losses that tell what is remembered."""

from __future__ import annotations

import pytest
import torch
from kpframe_tasks.delayed_addition import DelayedAddition

from kpframe.errors import ArgumentError
from kpframe.readout import task_loss


@pytest.mark.parametrize(
    "settings",
    [{}, {"lags": (0,), "weights": (2,), "offset": 0}, {"lags": [4, 1, 2], "weights": [1, -2, 0.5]}],
)
def test_targets_equal_a_naive_loop(settings):
    task = DelayedAddition(steps=12, **settings)
    trials = task.sample(6, generator=2, dtype=torch.float64)
    for b in range(6):
        for t in range(12):
            x = trials.inputs[b, :, 0].tolist()
            assert x[t] in (0, 1)
            past = [x[t - lag] if t >= lag else 0 for lag in task.lags]
            wanted = task.offset + sum(w * one for w, one in zip(task.weights, past, strict=True))
            assert float(trials.targets[b, t]) == pytest.approx(wanted, abs=1e-15)
            known = t >= max(task.lags)
            assert bool(trials.scored[b, t]) == known
            assert trials.epoch[b, t] == ("report" if known else "warmup")
        assert trials.trial["ones"][b] == sum(x)


@pytest.mark.parametrize(("probability", "scale"), [(0.5, 1.0), (0.2, 0.64)])
def test_losses_of_answers_that_know_none_the_first_and_both_of_the_lags(probability, scale):
    task = DelayedAddition(probability=probability)
    trials = task.sample(4000, generator=3, dtype=torch.float64)
    back = {lag: trials.inputs.roll(lag, dims=1) for lag in (3, 8)}
    p = probability
    answers = {
        "none": torch.full_like(trials.targets, 0.5 + 0.25 * p),
        "first": 0.5 + 0.5 * back[3] - 0.25 * p,
        "both": 0.5 + 0.5 * back[3] - 0.25 * back[8],
        "a step late": 0.5 + 0.5 * back[3].roll(1, dims=1) - 0.25 * back[8].roll(1, dims=1),
    }
    losses = {name: float(task_loss(answer, trials, "mse")) for name, answer in answers.items()}
    assert losses["none"] == pytest.approx(scale * 5 / 64, rel=0.03)
    assert losses["first"] == pytest.approx(scale / 64, rel=0.03)
    assert losses["both"] <= 1e-30
    assert losses["a step late"] > losses["none"]


def test_ones_come_as_often_as_asked():
    trials = DelayedAddition(probability=0.3, steps=100).sample(200, generator=0, dtype=torch.float64)
    n = trials.inputs.numel()
    assert abs(float(trials.inputs.mean()) - 0.3) < 4 * (0.3 * 0.7 / n) ** 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lags": ()}, r"lags: expected different lags, at least one, got \[\]"),
        ({"lags": (3, 3)}, r"lags: expected different lags, at least one, got \[3, 3\]"),
        ({"lags": (3, -1)}, r"lags: expected .* >= 0, got"),
        ({"lags": (3,)}, r"weights: expected one for each of the 1 lags, got \[0.5, -0.25\]"),
        ({"lags": (3, 50)}, r"lags: expected below steps, 50, got \[3, 50\]"),
        ({"probability": 1.5}, r"probability: expected float >= 0 and <= 1, got 1.5"),
        ({"steps": 0}, r"steps: expected int >= 1, got 0"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ArgumentError, match=message):
        DelayedAddition(**settings)
