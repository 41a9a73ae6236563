"""The memory tasks against trials built step by step from their coordinates."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
import torch
from kpframe_tasks.memory_pro import MemoryPro

from kpframe.errors import ArgumentError

VARIANTS = ("pro", "anti", "delay_pro", "delay_anti")
#: The settings of the reference code of arXiv 2507.06381, with shorter epochs.
MIXED = {"variant": VARIANTS, "cue": 3, "fixation": 0, "grace": 0}


def draw(batch=40, seed=1, **settings):
    return MemoryPro(**settings).sample(batch, generator=seed, dtype=torch.float64)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("jitter", [0, 3])
@pytest.mark.rows(4)
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


def naive(task, trials, b):
    """Return inputs and targets of trial b, step by step from its coordinates."""
    name, trial = str(trials.trial["task"][b]), {key: values[b] for key, values in trials.trial.items()}

    def code(angle):
        if task.encoding == "circle":
            return [task.amplitude * math.cos(angle), task.amplitude * math.sin(angle)]
        here = [abs(angle - 2 * math.pi * k / task.directions) < 1e-9 for k in range(task.directions)]
        assert sum(here) == 1
        return [task.amplitude * yes for yes in here]

    for t, epoch in enumerate(trials.epoch[b]):
        before = float(epoch not in ("response", "padding"))
        seen = epoch == "stimulus" or ("delay" in name and epoch in ("memory", "response"))
        shown = [seen * value for value in code(trial["angle"])]
        if task.distractor and 0 <= t - trial["distractor_onset"] < task.distractor:
            assert epoch == "memory"
            shown = [one + other for one, other in zip(shown, code(trial["distractor_angle"]), strict=True)]
        told = epoch == "cue" if task.cue else epoch != "padding"
        rule = [float(told and name == variant) for variant in VARIANTS]
        wanted = [(epoch == "response") * value for value in code(trial["response_angle"])]
        yield [before, *shown, *rule], [before, *wanted]


@pytest.mark.parametrize(
    "settings",
    [
        MIXED,
        MIXED | {"jitter": 2, "distractor": 4, "amplitude": 0.7},
        {"variant": ("pro", "delay_anti"), "distractor": 10, "directions": 6, "encoding": "one_hot"},
        {"variant": "delay_pro", "distractor": 3, "directions": 5, "jitter": 1},
    ],
)
def test_mixtures_cues_and_distractors_equal_a_naive_loop(settings):
    task = MemoryPro(**settings)
    trials = task.sample(24, generator=4, dtype=torch.float64)
    for b in range(trials.num_trials):
        steps = list(naive(task, trials, b))
        for found, expected in ((trials.inputs, 0), (trials.targets, 1)):
            wanted = torch.tensor([step[expected] for step in steps], dtype=torch.float64)
            torch.testing.assert_close(found[b], wanted, rtol=0, atol=1e-12)
        turn = trials.trial["response_angle"][b] - trials.trial["angle"][b]
        assert math.cos(turn) == pytest.approx(-1 if "anti" in trials.trial["task"][b] else 1)


@pytest.mark.parametrize("batch", [4, 10, 203])
def test_a_mixture_is_balanced_in_random_order_and_tells_no_variant_more_often(batch):
    task = MemoryPro(**MIXED)
    more, orders = Counter(), set()
    for seed in range(40):
        names = task.sample(batch, generator=seed).trial["task"].tolist()
        counts = Counter(names)
        assert set(counts) == set(VARIANTS)
        assert max(counts.values()) - min(counts.values()) == (batch % 4 > 0)
        more.update(name for name in VARIANTS if counts[name] == max(counts.values()))
        orders.add(tuple(names[:4]))
    assert len(orders) > 10
    assert min(more.values()) > 5  # with batch % 4 of 4 variants: 40 of 40, 20 +- 3 or 30 +- 3


def test_each_trial_of_a_mixture_is_that_of_its_variant_alone():
    mixed = draw(**MIXED | {"jitter": 2, "noise": 0.1})
    alone = {variant: draw(**MIXED | {"variant": variant, "jitter": 2, "noise": 0.1}) for variant in VARIANTS}
    for b, name in enumerate(mixed.trial["task"]):
        assert torch.equal(mixed.inputs[b], alone[name].inputs[b])
        assert torch.equal(mixed.targets[b], alone[name].targets[b])
        other = VARIANTS[VARIANTS.index(name) - 1]
        assert not torch.equal(mixed.inputs[b], alone[other].inputs[b])


def test_after_the_cue_the_inputs_of_pro_and_anti_are_the_same():
    pro, anti = (draw(**MIXED | {"variant": variant}) for variant in ("pro", "anti"))
    told = torch.from_numpy(pro.epoch == "cue")
    assert told.sum(dim=1).tolist() == [3] * 40
    assert torch.equal(pro.inputs[~told], anti.inputs[~told])
    assert (pro.inputs[told] != anti.inputs[told]).any(dim=1).all()
    assert (pro.inputs[~told][:, 3:] == 0).all()


def test_the_reference_layout_has_its_epochs_and_no_others():
    settings = {"fixation": 0, "stimulus": 30, "memory": 30, "response": 30, "grace": 0}
    single, mixed = draw(rule=False, **settings), draw(variant=VARIANTS, cue=30, **settings)
    assert single.inputs.shape == (40, 90, 3)
    assert mixed.inputs.shape == (40, 120, 7)
    assert single.scored.all()
    assert mixed.scored.all()
    assert single.epoch[0].tolist() == ["stimulus"] * 30 + ["memory"] * 30 + ["response"] * 30
    assert (mixed.epoch[:, :30] == "cue").all()
    assert (mixed.epoch[:, 30:] == single.epoch).all()


def test_a_distractor_moves_the_memory_inputs_alone_and_starts_anywhere_in_it():
    plain, moved = draw(batch=400, memory=6), draw(batch=400, memory=6, distractor=2)
    assert torch.equal(plain.targets, moved.targets)
    differs = (plain.inputs != moved.inputs).any(dim=2)
    assert (differs.sum(dim=1) == 2).all()
    assert (moved.epoch[differs.numpy()] == "memory").all()
    found = Counter((moved.trial["distractor_onset"] - 10).tolist())
    assert set(found) == set(range(5))
    assert all(abs(count - 80) < 4 * math.sqrt(80 * 0.8) for count in found.values())
    angle, other = (torch.from_numpy(moved.trial[name]) for name in ("angle", "distractor_angle"))
    assert abs(torch.polar(torch.ones_like(angle), angle - other).mean()) < 4 / math.sqrt(400)


@pytest.mark.parametrize("encoding", ["circle", "one_hot"])
def test_directions_are_equally_spaced_and_equally_frequent(encoding):
    trials = draw(batch=3000, directions=6, encoding=encoding, variant="anti")
    place = trials.trial["angle"] * 6 / (2 * math.pi)
    assert place == pytest.approx(place.round(), abs=1e-9)
    counts = Counter(place.round().astype(int).tolist())
    assert set(counts) == set(range(6))
    assert all(abs(count - 500) < 4 * math.sqrt(500 * 5 / 6) for count in counts.values())
    turn = (trials.trial["response_angle"] - trials.trial["angle"]) % (2 * math.pi)
    assert turn == pytest.approx(math.pi)
    assert trials.inputs.shape[2] == 5 + (6 if encoding == "one_hot" else 2)


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
        ({"fixation": -1}, r"fixation: expected int >= 0, got -1"),
        ({"memory": -1}, r"memory: expected int >= 1, got -1"),
        ({"jitter": -1}, r"jitter: expected int >= 0, got -1"),
        ({"response": 3, "grace": 3}, r"grace: expected from 0 to 2, below response, got 3"),
        ({"grace": -1}, r"grace: expected int >= 0, got -1"),
        ({"noise": -0.1}, r"noise: expected float >= 0 and < inf, got -0.1"),
        ({"noise": math.inf}, r"noise: expected float >= 0 and < inf, got inf"),
        ({"seed": -1}, r"seed: expected int >= 0, got -1"),
        (
            {"variant": ["pro", "memory"]},
            r"variant: expected one of 'pro', 'anti', .*, got \['pro', 'memory'\]",
        ),
        ({"variant": []}, r"variant: expected different names, at least one, got \[\]"),
        ({"variant": ["pro", "pro"]}, r"variant: expected different names, .*, got \['pro', 'pro'\]"),
        ({"variant": ["pro", "anti"], "rule": False}, r"rule: expected True where pro and anti are mixed"),
        ({"cue": 2, "rule": False}, r"cue: expected 0 without rule channels \(rule=False\), got 2"),
        ({"cue": -1}, r"cue: expected int >= 0, got -1"),
        ({"distractor": 11}, r"distractor: expected at most memory, 10, got 11"),
        ({"directions": -1}, r"directions: expected int >= 0, got -1"),
        ({"encoding": "onehot"}, r"encoding: expected one of 'circle', 'one_hot', got 'onehot'"),
        ({"encoding": "one_hot"}, r"directions: expected at least 2, one channel for each, .*, got 0"),
        (
            {"encoding": "one_hot", "directions": 5, "variant": "anti"},
            r"directions: expected an even number, so that each direction has an opposite, got 5",
        ),
        ({"amplitude": 0}, r"amplitude: expected float > 0 and < inf, got 0"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ArgumentError, match=message):
        MemoryPro(**settings)
