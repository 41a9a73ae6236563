"""The environments of neurogym: trials against those that the package itself makes."""

from __future__ import annotations

import random
import sys
import warnings

import numpy as np
import pytest
import torch
from kpframe_tasks.neurogym import Neurogym

from kpframe import create_task
from kpframe.errors import ArgumentError, MissingDependencyError

ENVIRONMENTS = [
    "PerceptualDecisionMaking-v0",
    "ContextDecisionMaking-v0",  # trials of several lengths
    "ReachingDelayResponse-v0",  # a box of actions
    "PulseDecisionMaking-v0",
    "yang19.dlygo-v0",
]


@pytest.fixture
def package():
    return pytest.importorskip("neurogym", reason="neurogym is not installed", exc_type=ImportError)


def own(package, name, seed, count, **settings):
    """Return the trials that the package's own environment makes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        environment = package.make(name, **settings).unwrapped
    environment.seed(seed)
    for _ in range(count):
        said = environment.new_trial()
        periods = {key: (environment.start_ind[key], environment.end_ind[key]) for key in environment.timing}
        yield environment.ob.copy(), environment.gt.copy(), said, periods


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_trials_are_those_of_the_package_whole_and_in_order(package, name):
    task = Neurogym(environment=name)
    generator = torch.Generator().manual_seed(3)
    seed = int(torch.randint(2**31, (1,), generator=generator))
    trials = task.sample(12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    lengths = []
    for b, (ob, gt, said, periods) in enumerate(own(package, name, seed, 12)):
        lengths.append(len(ob))
        assert (trials.inputs[b, : len(ob)].numpy() == ob).all()
        assert (trials.targets[b, : len(ob)].numpy() == gt).all()
        assert (trials.inputs[b, len(ob) :] == 0).all()
        assert (trials.epoch[b, len(ob) :] == "padding").all()
        assert trials.trial["ground_truth"][b] == said["ground_truth"]
        if name != "PulseDecisionMaking-v0":  # the others have no periods that overlap
            for period, (start, end) in periods.items():
                assert (trials.epoch[b, start:end] == period).all()
    assert trials.lengths.tolist() == lengths
    assert torch.equal(trials.scored, trials.mask)
    assert trials.inputs.shape[1] == max(lengths)
    assert task.loss == ("mse" if name == "ReachingDelayResponse-v0" else "cross_entropy")
    assert (len(set(lengths)) > 1) == (name in ENVIRONMENTS[1:3])
    other = task.sample(12, generator=4, dtype=torch.float64)
    assert (other.trial["ground_truth"] != trials.trial["ground_truth"]).any()


def test_the_same_seed_gives_the_same_trials_and_splits_differ(package):
    task = Neurogym()
    one, same, other, test = (
        made.sample(5, generator=seed, split=split)
        for made, seed, split in (
            (task, 1, "train"),
            (Neurogym(), 1, "train"),
            (task, 2, "train"),
            (task, 1, "test"),
        )
    )
    assert torch.equal(one.inputs, same.inputs)
    assert not torch.equal(one.inputs, other.inputs)
    assert not torch.equal(one.inputs, test.inputs)


def test_the_global_random_states_stay_as_they_are(package):
    task = Neurogym()
    before = np.random.get_state()[1].copy(), random.getstate(), torch.get_rng_state()  # noqa: NPY002
    one = task.sample(4, generator=0)
    assert (np.random.get_state()[1] == before[0]).all()  # noqa: NPY002
    assert random.getstate() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
    np.random.seed(1)  # noqa: NPY002
    random.seed(1)
    assert torch.equal(task.sample(4, generator=0).inputs, one.inputs)


def test_a_shorter_step_makes_longer_trials(package):
    coarse, fine = (Neurogym(dt=dt).sample(2, generator=0) for dt in (100, 20))
    assert fine.inputs.shape[1] == 5 * coarse.inputs.shape[1]


def test_steps_pad_and_never_cut(package):
    longest = Neurogym(environment=ENVIRONMENTS[1]).sample(12, generator=0).inputs.shape[1]
    padded = Neurogym(environment=ENVIRONMENTS[1], steps=longest + 5).sample(12, generator=0)
    assert padded.inputs.shape[1] == longest + 5
    assert int(padded.lengths.max()) == longest
    with pytest.raises(ArgumentError, match=f"steps: expected at least the longest trial .*, {longest}"):
        Neurogym(environment=ENVIRONMENTS[1], steps=longest - 1).sample(12, generator=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"environment": "PerceptualDecisionMaking"},
            r"environment: expected an environment of neurogym .*did you mean 'PerceptualDecisionMaking-v0'",
        ),
        ({"environment": "Bandit-v0"}, r"environment: expected an environment with observations and ground"),
        ({"environment": "AnnubesEnv-v0"}, r"environment: expected an environment that can be made with dt"),
        ({"environment": "ToneDetection-v0", "dt": 100}, r"expected an environment .*must be smaller"),
    ],
)
def test_what_is_no_task_is_refused(package, settings, message):
    with pytest.raises(ArgumentError, match=message):
        Neurogym(**settings)


def test_settings_out_of_bounds_are_refused():
    for settings, message in (({"dt": 0}, r"dt: expected"), ({"steps": -1}, r"steps: expected int >= 0")):
        with pytest.raises(ArgumentError, match=message):
            Neurogym(**settings)


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "neurogym", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'kpframe-tasks\[neurogym\]'"):
        create_task("neurogym")
