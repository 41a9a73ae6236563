"""The adding problem against a naive loop over its inputs."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from kpframe_tasks.adding import Adding

from kpframe.errors import ArgumentError
from kpframe.readout import task_loss


def draw(batch=40, seed=1, **settings):
    return Adding(**settings).sample(batch, generator=seed, dtype=torch.float64)


@pytest.mark.parametrize(
    "settings", [{}, {"steps": 2}, {"steps": 7, "delay": 4, "response": 3, "jitter": 5, "low": 0}]
)
def test_targets_equal_a_naive_loop(settings):
    task = Adding(**settings)
    trials = draw(**settings)
    assert trials.inputs.shape[1] == task.steps + task.delay + task.jitter + task.response
    for b in range(trials.num_trials):
        total, marked, answers = 0.0, [], 0
        for t, epoch in enumerate(trials.epoch[b]):
            value, marker, go = trials.inputs[b, t].tolist()
            assert marker in (0, 1)
            if marker:
                marked.append(t)
                total += value
            assert (epoch == "values") == (t < task.steps)
            assert value == 0 or epoch == "values"
            assert go == bool(trials.scored[b, t]) == (epoch == "response")
            assert bool(trials.mask[b, t]) == (epoch != "padding")
            assert float(trials.targets[b, t]) == (total if go else 0)
            answers += int(go)
        assert answers == task.response
        assert marked == [trials.trial["first"][b], trials.trial["second"][b]]
        assert marked[0] < task.steps // 2 <= marked[1] < task.steps
        assert total == trials.trial["sum"][b]
        assert trials.lengths[b] == task.steps + trials.trial["delay"][b] + task.response


def test_delays_are_spread_as_asked():
    trials = draw(batch=600, delay=3, jitter=2)
    counts = Counter(trials.trial["delay"].tolist())
    assert set(counts) == {3, 4, 5}
    assert all(abs(count - 200) < 4 * math.sqrt(200 * 2 / 3) for count in counts.values())
    assert not trials.mask.all()
    assert draw(delay=3).mask.all()


def test_losses_of_answers_that_know_none_one_and_both_of_the_values():
    low, high, batch = -1.0, 3.0, 20000
    trials = draw(batch=batch, low=low, high=high)
    first, second = (
        trials.inputs[torch.arange(batch), torch.from_numpy(trials.trial[name]), 0]
        for name in ("first", "second")
    )
    middle = (low + high) / 2
    answers = {"none": 2 * middle + 0 * first, "one": first + middle, "both": first + second}
    losses = {
        name: float(task_loss(answer[:, None, None].expand_as(trials.targets), trials, "mse"))
        for name, answer in answers.items()
    }
    assert losses["none"] == pytest.approx((high - low) ** 2 / 6, rel=0.04)
    assert losses["one"] == pytest.approx((high - low) ** 2 / 12, rel=0.04)
    assert losses["both"] <= 1e-30


def test_markers_are_uniform_in_each_half_and_values_on_their_range():
    trials = draw(batch=4000, steps=10)
    for name, steps in (("first", range(5)), ("second", range(5, 10))):
        counts = Counter(trials.trial[name].tolist())
        assert set(counts) == set(steps)
        assert all(abs(count - 800) < 4 * math.sqrt(800 * 0.8) for count in counts.values())
    values = trials.inputs[:, :10, 0]
    assert -1 <= values.min() < -0.999 < 0.999 < values.max() <= 1
    assert abs(float(values.mean())) < 4 / math.sqrt(3 * values.numel())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 1}, r"steps: expected int >= 2, got 1"),
        ({"delay": -1}, r"delay: expected int >= 0, got -1"),
        ({"response": 0}, r"response: expected int >= 1, got 0"),
        ({"low": 1, "high": 1}, r"low: expected below high, 1.0, got 1.0"),
        ({"high": math.inf}, r"high: expected float > -inf and < inf, got inf"),
        ({"seed": -1}, r"seed: expected int >= 0, got -1"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ArgumentError, match=message):
        Adding(**settings)
