"""The flip-flop against a naive loop over its inputs."""

from __future__ import annotations

import pytest
import torch
from kpframe_tasks.flip_flop import FlipFlop

from kpframe.errors import ArgumentError


@pytest.mark.parametrize(
    ("bits", "steps", "probability"), [(3, 50, 0.1), (1, 1, 0.5), (2, 20, 0.0), (2, 20, 1.0)]
)
def test_targets_equal_a_naive_loop(bits, steps, probability):
    trials = FlipFlop(bits, steps, probability).sample(8, generator=2, dtype=torch.float64)
    flips = [0] * 8
    for b in range(8):
        for k in range(bits):
            state = None
            for t in range(steps):
                pulse = float(trials.inputs[b, t, k])
                assert pulse in (-1, 0, 1)
                if pulse:
                    flips[b] += state is not None and pulse != state
                    state = pulse
                assert state == float(trials.targets[b, t, k])
    assert trials.trial["flips"].tolist() == flips


def test_targets_do_not_just_copy_the_inputs():
    trials = FlipFlop().sample(8, generator=2)
    assert not torch.equal(trials.inputs, trials.targets)
    assert trials.trial["flips"].min() > 0


def test_pulses_come_as_often_as_asked_with_both_signs():
    trials = FlipFlop(bits=4, steps=200, probability=0.2).sample(100, generator=0, dtype=torch.float64)
    later = trials.inputs[:, 1:]
    n = later.numel()
    assert abs(float((later != 0).double().mean()) - 0.2) < 4 * (0.2 * 0.8 / n) ** 0.5
    assert abs(float(later.sum()) / n) < 4 * (0.2 / n) ** 0.5
    assert (trials.inputs[:, 0] != 0).all()


def test_epochs_say_when_a_channel_pulses():
    trials = FlipFlop().sample(5, generator=1)
    assert ((trials.epoch == "pulse") == (trials.inputs != 0).any(dim=2).numpy()).all()
    assert ((trials.epoch == "pulse") | (trials.epoch == "hold")).all()


@pytest.mark.parametrize("transient", [0, 7])
def test_scored_from_the_transient_on(transient):
    trials = FlipFlop(transient=transient).sample(3)
    assert trials.mask.all()
    assert not trials.scored[:, :transient].any()
    assert trials.scored[:, transient:].all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": 0}, r"bits: expected int >= 1, got 0"),
        ({"steps": 0}, r"steps: expected int >= 1, got 0"),
        ({"probability": 1.5}, r"probability: expected float >= 0 and <= 1, got 1.5"),
        ({"probability": float("nan")}, r"probability: expected a number >= 0 and <= 1, got nan"),
        ({"steps": 5, "transient": 5}, r"transient: expected from 0 to 4, below steps, got 5"),
        ({"transient": -1}, r"transient: expected int >= 0, got -1"),
        ({"seed": -1}, r"seed: expected int >= 0, got -1"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ArgumentError, match=message):
        FlipFlop(**settings)
