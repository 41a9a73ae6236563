"""The digits against scikit-learn's own arrays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kpframe_tasks.digits import Digits
from sklearn.datasets import load_digits

from kpframe.errors import ArgumentError


@pytest.fixture(scope="module")
def data():
    return load_digits()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_inputs_are_the_images_rows(data, dtype):
    task = Digits()
    for trials in (
        task.dataset("train", dtype=dtype),
        task.sample(50, generator=3, split="test", dtype=dtype),
    ):
        index = trials.trial["index"]
        assert (trials.inputs.numpy() * 16 == data.images[index]).all()
        for t in range(8):  # row t from the top at step t
            assert (trials.inputs[:, t].numpy() * 16 == data.data[index][:, 8 * t : 8 * t + 8]).all()
        assert (trials.trial["label"] == data.target[index]).all()
        assert (trials.targets.numpy() == data.target[index][:, None]).all()
        assert 0 <= trials.inputs.min() < trials.inputs.max() == 1


def test_columns_are_not_rows(data):
    trials = Digits().dataset("train", dtype=torch.float64)
    assert not (trials.inputs.mT.numpy() * 16 == data.images[trials.trial["index"]]).all()


def test_only_the_last_step_is_scored():
    trials = Digits().sample(4)
    assert trials.mask.all()
    assert trials.scored.sum() == 4
    assert trials.scored[:, -1].all()
    assert trials.epoch[0].tolist() == ["reading"] * 7 + ["response"]


@pytest.mark.parametrize("fraction", [0.25, 0.1, 0.5])
def test_train_and_test_are_disjoint_and_together_everything(data, fraction):
    task = Digits(test_fraction=fraction)
    train, test = (task.dataset(split).trial["index"] for split in ("train", "test"))
    assert len(train) == task.num_trials("train")
    assert len(test) == task.num_trials("test")
    assert sorted([*train, *test]) == list(range(1797))
    counts, total = np.bincount(data.target[test]), np.bincount(data.target)
    assert (abs(counts - fraction * total) <= 0.5).all()


def test_the_seed_moves_the_split_and_draws_do_not():
    task = Digits()
    before = task.dataset("test").trial["index"]
    task.sample(10, split="test")
    assert (task.dataset("test").trial["index"] == before).all()
    assert (Digits().dataset("test").trial["index"] == before).all()
    assert set(Digits(seed=1).dataset("test").trial["index"]) != set(before)


@pytest.mark.parametrize("split", ["train", "test"])
def test_draws_are_without_replacement_and_stay_in_their_split(split):
    task = Digits()
    everything = task.dataset(split).trial["index"].tolist()
    drawn = task.sample(len(everything), split=split).trial["index"].tolist()
    assert sorted(drawn) == everything
    assert drawn != everything
    with pytest.raises(ArgumentError, match=f"batch_size: expected at most {len(everything)}"):
        task.sample(len(everything) + 1, split=split)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan"), 0.999])
def test_a_bad_fraction_is_refused(fraction):
    with pytest.raises(ArgumentError, match=r"test_fraction: expected"):
        Digits(test_fraction=fraction)


def test_a_bad_split_is_refused():
    for call in (Digits().dataset, Digits().num_trials):
        with pytest.raises(ArgumentError, match=r"split: expected one of train, test, got 'valid'"):
            call("valid")


def test_the_digits_can_be_told_apart():
    """A linear classifier on all pixels, fitted on the training split, reads the test split."""
    task = Digits()
    train, test = (task.dataset(split, dtype=torch.float64) for split in ("train", "test"))
    design = torch.nn.functional.pad(train.inputs.flatten(1), (0, 1), value=1)
    weights = torch.linalg.lstsq(
        design, torch.eye(10).double()[train.targets[:, -1]], driver="gelsd"
    ).solution
    guess = (torch.nn.functional.pad(test.inputs.flatten(1), (0, 1), value=1) @ weights).argmax(1)
    assert (guess == test.targets[:, -1]).double().mean() > 0.9
