"""The memory tasks against trials built step by step from their coordinates."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from kpframe_tasks.memory_pro import MemoryPro

from kpframe.errors import ArgumentError

VARIANTS = ("pro", "anti", "delay_pro", "delay_anti")


def draw(batch=40, seed=1, **settings):
    return MemoryPro(**settings).sample(batch, generator=seed, dtype=torch.float64)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("jitter", [0, 3])
def test_trials_equal_a_naive_loop(variant, jitter):
    trials = draw(variant=variant, jitter=jitter, grace=2)
    for b in range(trials.num_trials):
        theta = float(trials.trial["angle"][b])
        sign = -1 if "anti" in variant else 1
        since_go = 0
        for t in range(trials.inputs.shape[1]):
            epoch = trials.epoch[b, t]
            seen = epoch == "stimulus" or ("delay" in variant and epoch in ("memory", "response"))
            before = epoch in ("fixation", "stimulus", "memory")
            rule = [float(variant == name and epoch != "padding") for name in VARIANTS]
            shown = [math.cos(theta), math.sin(theta)] if seen else [0, 0]
            wanted = [sign * math.cos(theta), sign * math.sin(theta)] if epoch == "response" else [0, 0]
            assert trials.inputs[b, t].tolist() == pytest.approx([float(before), *shown, *rule], abs=1e-12)
            assert trials.targets[b, t].tolist() == pytest.approx([float(before), *wanted], abs=1e-12)
            assert bool(trials.mask[b, t]) == (epoch != "padding")
            assert bool(trials.scored[b, t]) == (before or (epoch == "response" and since_go >= 2))
            since_go += epoch == "response"


@pytest.mark.parametrize("jitter", [0, 3])
def test_epochs_come_in_order_with_their_lengths(jitter):
    trials = draw(fixation=2, stimulus=3, memory=4, response=5, jitter=jitter)
    found = set()
    for b in range(trials.num_trials):
        runs = [(name, len(list(steps))) for name, steps in itertools.groupby(trials.epoch[b].tolist())]
        if runs[-1][0] == "padding":
            runs.pop()
        assert [name for name, _ in runs] == ["fixation", "stimulus", "memory", "response"]
        lengths = [length for _, length in runs]
        assert all(0 <= length - least <= jitter for length, least in zip(lengths, (2, 3, 4, 5), strict=True))
        assert lengths[2] == trials.trial["delay"][b]
        assert sum(lengths) == trials.lengths[b]
        found.add(tuple(lengths))
    assert trials.inputs.shape[1] == 14 + 4 * jitter
    assert (len(found) > 10) == (jitter > 0)


def test_without_jitter_nothing_is_padded_and_with_it_much_is():
    assert draw().mask.all()
    trials = draw(jitter=3)
    assert not trials.mask.all()
    assert len(set(trials.lengths.tolist())) > 1


@pytest.mark.parametrize("pair", [("pro", "anti"), ("delay_pro", "delay_anti")])
def test_anti_is_pro_turned_by_pi(pair):
    pro, anti = (draw(variant=variant, jitter=2, noise=0.3) for variant in pair)
    torch.testing.assert_close(pro.inputs[..., :3], anti.inputs[..., :3], rtol=0, atol=0)
    response = torch.from_numpy(pro.epoch == "response")
    torch.testing.assert_close(anti.targets[..., 1:], -pro.targets[..., 1:], rtol=0, atol=1e-12)
    assert torch.equal(anti.targets[..., 0], pro.targets[..., 0])
    assert (anti.targets[response][:, 1:] != pro.targets[response][:, 1:]).any(dim=1).all()
    turn = (anti.trial["response_angle"] - pro.trial["response_angle"]) % (2 * math.pi)
    assert turn == pytest.approx(math.pi)


def test_delay_differs_from_memory_in_the_stimulus_alone():
    memory, delay = draw(variant="pro", rule=False), draw(variant="delay_pro", rule=False)
    torch.testing.assert_close(memory.targets, delay.targets, rtol=0, atol=0)
    differs = (memory.inputs != delay.inputs).any(dim=2).numpy()
    assert (differs == ((memory.epoch == "memory") | (memory.epoch == "response"))).all()


def test_angles_are_uniform_on_the_circle():
    angle = torch.from_numpy(draw(batch=4000).trial["angle"])
    assert 0 <= angle.min() < 0.01
    assert 2 * math.pi - 0.01 < angle.max() < 2 * math.pi
    assert abs(torch.polar(torch.ones_like(angle), angle).mean()) < 4 / math.sqrt(4000)


def test_noise_has_its_standard_deviation_and_leaves_padding_and_targets_alone():
    quiet, noisy = draw(jitter=3), draw(jitter=3, noise=0.2)
    difference = noisy.inputs - quiet.inputs
    assert (difference[~noisy.mask] == 0).all()
    inside = difference[noisy.mask]
    assert inside.std() == pytest.approx(0.2, rel=4 / math.sqrt(2 * inside.numel()))
    assert torch.equal(quiet.targets, noisy.targets)


def test_the_rule_input_is_optional():
    task = MemoryPro(rule=False)
    assert task.input_size == task.sample(1).inputs.shape[2] == 3
    assert MemoryPro().input_size == 7


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"variant": "memory"}, r"variant: expected one of 'pro', 'anti', .*, got 'memory'"),
        ({"fixation": 0}, r"fixation: expected int >= 1, got 0"),
        ({"memory": -1}, r"memory: expected int >= 1, got -1"),
        ({"jitter": -1}, r"jitter: expected int >= 0, got -1"),
        ({"response": 3, "grace": 3}, r"grace: expected from 0 to 2, below response, got 3"),
        ({"grace": -1}, r"grace: expected int >= 0, got -1"),
        ({"noise": -0.1}, r"noise: expected float >= 0 and < inf, got -0.1"),
        ({"noise": math.inf}, r"noise: expected float >= 0 and < inf, got inf"),
        ({"seed": -1}, r"seed: expected int >= 0, got -1"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ArgumentError, match=message):
        MemoryPro(**settings)
