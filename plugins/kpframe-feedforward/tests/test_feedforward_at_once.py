"""The task ``at_once``: trials of another task, whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kpframe import create_task
from kpframe.errors import ArgumentError, SettingsError, UnknownNameError


@pytest.mark.parametrize("split", ["train", "test"])
def test_digits_are_whole_images(split) -> None:
    rows, whole = create_task("digits", seed=3), create_task("at_once", steps=4, seed=3)
    assert (whole.input_size, whole.output_size, whole.loss) == (64, 10, "cross_entropy")
    assert whole.num_trials(split) == rows.num_trials(split)
    for theirs, ours in (
        (rows.dataset(split), whole.dataset(split)),
        (rows.sample(20, generator=5, split=split), whole.sample(20, generator=5, split=split)),
    ):
        assert list(ours.inputs.shape) == [len(theirs.inputs), 4, 64]
        assert torch.equal(ours.inputs[:, 0].reshape(-1, 8, 8), theirs.inputs)
        assert not ours.inputs[:, 1:].any()
        assert torch.equal(ours.targets, theirs.targets[:, -1:].expand(-1, 4))
        assert ours.scored.sum(1).unique().tolist() == [1]
        assert bool(ours.scored[:, -1].all())
        assert bool(ours.mask.all())
        assert np.array_equal(ours.trial["index"], theirs.trial["index"])
        assert set(ours.epoch.reshape(-1)) == {"response"}
    first, second = (whole.sample(20, generator=seed, split=split).inputs for seed in (5, 6))
    assert not torch.equal(first, second)


def test_regression_targets_are_those_of_the_last_step() -> None:
    steps, whole = create_task("flip_flop"), create_task("at_once", task="flip_flop", steps=1)
    theirs, ours = (task.sample(5, generator=1, dtype=torch.float64) for task in (steps, whole))
    assert torch.equal(ours.inputs[:, 0], theirs.inputs.flatten(1))
    assert torch.equal(ours.targets, theirs.targets[:, -1:])
    assert not torch.equal(ours.targets, theirs.targets[:, :1])
    assert whole.num_trials() is None
    with pytest.raises(ArgumentError, match="no end of trials"):
        whole.dataset()


def test_refusals() -> None:
    with pytest.raises(SettingsError, match=r"steps: expected .* >= 1, got 0"):
        create_task("at_once", steps=0)
    with pytest.raises(UnknownNameError, match="digit"):
        create_task("at_once", steps=2, task="digit")
    assert create_task("at_once", steps=2, task="memory_pro").input_size % 7 == 0
