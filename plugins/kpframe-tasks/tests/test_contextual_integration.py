"""Contextual integration against a naive loop and the ideal observer's share of right choices."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from kpframe_tasks.contextual_integration import ContextualIntegration

from kpframe.errors import ArgumentError

LENGTHS = {"fixation": 2, "stimulus": 6, "delay": 3, "response": 4}


def draw(batch=40, seed=1, **settings):
    return ContextualIntegration(**settings).sample(batch, generator=seed, dtype=torch.float64)


@pytest.mark.parametrize("jitter", [0, 2])
@pytest.mark.parametrize("fixation", [0, 2])
def test_trials_equal_a_naive_loop(jitter, fixation):
    trials = draw(**LENGTHS | {"fixation": fixation, "jitter": jitter, "noise": 0})
    for b in range(trials.num_trials):
        one = {name: values[b] for name, values in trials.trial.items()}
        assert one["choice"] == (1 if one[one["context"]] > 0 else -1)
        assert one["congruent"] == (one["motion"] * one["color"] > 0)
        for t, epoch in enumerate(trials.epoch[b]):
            streams = [one["motion"], one["color"]] if epoch == "stimulus" else [0, 0]
            told = epoch in ("fixation", "stimulus", "delay")
            context = [float(told and one["context"] == name) for name in ("motion", "color")]
            assert trials.inputs[b, t].tolist() == [*streams, *context]
            assert float(trials.targets[b, t]) == (one["choice"] if epoch == "response" else 0)
            assert bool(trials.scored[b, t]) == (epoch in ("fixation", "response"))
            assert bool(trials.mask[b, t]) == (epoch != "padding")


@pytest.mark.parametrize("jitter", [0, 2])
def test_epochs_come_in_order_with_their_lengths(jitter):
    trials = draw(**LENGTHS, jitter=jitter)
    for b in range(trials.num_trials):
        runs = [(name, len(list(steps))) for name, steps in itertools.groupby(trials.epoch[b].tolist())]
        runs = [run for run in runs if run[0] != "padding"]
        assert [name for name, _ in runs] == list(LENGTHS)
        assert all(0 <= length - LENGTHS[name] <= jitter for name, length in runs)
        assert runs[1][1] == trials.trial["duration"][b]
    assert trials.inputs.shape[1] == 15 + 4 * jitter
    assert trials.mask.all() == (jitter == 0)


@pytest.mark.parametrize("settings", [{}, {"levels": (0.05, 0.2)}, {"noise": 1.5, "stimulus": 40}])
def test_the_ideal_observer_is_as_often_right_as_its_formula_says_and_the_other_stream_tells_nothing(
    settings,
):
    task = ContextualIntegration(**settings)
    batch = 8000
    trials = task.sample(batch, generator=3, dtype=torch.float64)
    relevant = (trials.trial["context"] == "color").astype(int)
    sums = trials.inputs[..., :2].sum(dim=1).numpy()
    right = np.sign(sums[np.arange(batch), relevant]) == trials.trial["choice"]
    other = np.sign(sums[np.arange(batch), 1 - relevant]) == trials.trial["choice"]
    sizes = task.levels or tuple((torch.arange(1000) + 0.5).div(1000).mul(task.strength).tolist())
    steps = float(task.lengths[1])
    reach = torch.tensor([size * math.sqrt(steps) / task.noise for size in sizes], dtype=torch.float64)
    expected = float(torch.special.ndtr(reach).mean())
    assert 0.6 < expected < 0.9
    assert right.mean() == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / batch))
    assert other.mean() == pytest.approx(0.5, abs=4 * math.sqrt(0.25 / batch))


def test_the_default_settings_have_the_stated_share_of_right_choices():
    sizes = (torch.arange(1000, dtype=torch.float64) + 0.5) / 4000
    assert float(torch.special.ndtr(sizes * math.sqrt(20) / 0.5).mean()) == pytest.approx(0.82, abs=0.005)


@pytest.mark.parametrize("batch", [10, 11])
def test_contexts_are_balanced_in_random_order(batch):
    more, orders = Counter(), set()
    for seed in range(40):
        context = draw(batch=batch, seed=seed).trial["context"].tolist()
        counts = Counter(context)
        assert abs(counts["motion"] - counts["color"]) == batch % 2
        more[counts["motion"] > counts["color"]] += 1
        orders.add(tuple(context))
    assert len(orders) > 30
    assert (min(more.values()) > 8 and len(more) == 2) == (batch % 2 == 1)


def test_means_and_noise_have_their_statistics():
    trials = draw(batch=4000, stimulus=10, levels=(0.1, 0.3, 0.9), noise=0.4)
    means = {name: trials.trial[name] for name in ("motion", "color")}
    for values in means.values():
        counts = Counter(values.tolist())
        assert set(counts) == {-0.9, -0.3, -0.1, 0.1, 0.3, 0.9}
        assert all(abs(count - 4000 / 6) < 4 * math.sqrt(4000 * 5 / 36) for count in counts.values())
    assert abs((means["motion"] * means["color"]).mean()) < 4 * (0.91 / 3) / math.sqrt(4000)
    assert abs(trials.trial["congruent"].mean() - 0.5) < 4 / math.sqrt(4 * 4000)
    seen = torch.from_numpy(trials.epoch == "stimulus")
    both = torch.from_numpy(np.stack(list(means.values()), axis=1))[:, None, :]
    rest = (trials.inputs[..., :2] - both)[seen]
    assert rest.std() == pytest.approx(0.4, rel=4 / math.sqrt(2 * rest.numel()))
    assert (trials.inputs[~seen][:, :2] == 0).all()
    spread = draw(batch=4000, strength=0.6).trial["motion"]
    assert -0.6 <= spread.min() < -0.59 < 0.59 < spread.max() <= 0.6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stimulus": 0}, r"stimulus: expected int >= 1, got 0"),
        ({"response": 0}, r"response: expected int >= 1, got 0"),
        ({"strength": 0}, r"strength: expected float > 0 and < inf, got 0"),
        ({"levels": (0.1, 0)}, r"levels: expected .* > 0 and < inf, got"),
        ({"noise": -1}, r"noise: expected float >= 0 and < inf, got -1"),
        ({"jitter": -1}, r"jitter: expected int >= 0, got -1"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ArgumentError, match=message):
        ContextualIntegration(**settings)
