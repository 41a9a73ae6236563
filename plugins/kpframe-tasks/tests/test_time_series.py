"""Recorded series against the text of the files that sktime ships."""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from kpframe_tasks.time_series import TimeSeries

from kpframe import create_task
from kpframe.errors import ArgumentError, MissingDependencyError

FILES = {"japanese_vowels": "JapaneseVowels", "basic_motions": "BasicMotions"}


@pytest.fixture
def folder():
    package = pytest.importorskip("sktime", reason="sktime is not installed", exc_type=ImportError)
    return Path(package.__file__).parent / "datasets" / "data"


def lines(folder, name, split):
    path = folder / FILES[name] / f"{FILES[name]}_{split.upper()}.ts"
    return re.split(r"@data\s*\n", path.read_text(), flags=re.IGNORECASE)[1].split("\n")


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", FILES)
def test_trials_are_the_lines_of_the_file(folder, name, split):
    trials = TimeSeries(dataset=name, standardize=False).dataset(split, dtype=torch.float64)
    text = [line for line in lines(folder, name, split) if line]
    assert trials.num_trials == len(text)
    for b, line in enumerate(text):
        *channels, label = line.split(":")
        length = channels[0].count(",") + 1
        assert trials.lengths[b] == length
        for i, channel in enumerate(channels):
            assert trials.inputs[b, :length, i].tolist() == [float(x) for x in channel.split(",")]
        assert (trials.inputs[b, length:] == 0).all()
        assert trials.trial["label"][b] == label.strip()
        assert trials.scored[b].nonzero()[:, 0].tolist() == [length - 1]
        named = ["reading"] * (length - 1) + ["response"]
        assert trials.epoch[b].tolist() == named + ["padding"] * (trials.inputs.shape[1] - length)


@pytest.mark.parametrize(
    ("name", "shapes", "lengths", "each"),
    [
        ("japanese_vowels", ([270, 29, 12], [370, 29, 12]), (7, 29), {30}),
        ("basic_motions", ([40, 100, 6], [40, 100, 6]), (100, 100), {10}),
    ],
)
def test_the_sets_have_their_published_sizes_and_classes(folder, name, shapes, lengths, each):
    task = TimeSeries(dataset=name)
    train, test = task.dataset("train"), task.dataset("test")
    assert (list(train.inputs.shape), list(test.inputs.shape)) == shapes
    both = torch.cat((train.lengths, test.lengths))
    assert (int(both.min()), int(both.max())) == lengths
    counts = Counter(train.trial["label"].tolist())
    assert set(counts.values()) == each
    assert len(counts) == task.output_size == len(task.classes)
    for trials in (train, test):
        assert [task.classes[k] for k in trials.targets[:, 0]] == trials.trial["label"].tolist()
        assert (trials.targets == trials.targets[:, :1]).all()


@pytest.mark.parametrize("name", FILES)
def test_standardized_training_series_have_mean_0_and_deviation_1(folder, name):
    task = TimeSeries(dataset=name)
    train, test = (task.dataset(split, dtype=torch.float64) for split in ("train", "test"))
    steps = train.inputs[train.mask]
    torch.testing.assert_close(steps.mean(dim=0), torch.zeros_like(steps[0]), rtol=0, atol=1e-12)
    torch.testing.assert_close(steps.std(dim=0, correction=0), torch.ones_like(steps[0]), rtol=1e-12, atol=0)
    other = test.inputs[test.mask]
    assert (other.mean(dim=0).abs() > 1e-6).all()  # shifted by the training series' mean, not by its own
    raw = TimeSeries(dataset=name, standardize=False).dataset("train", dtype=torch.float64)
    assert not torch.allclose(raw.inputs, train.inputs)


@pytest.mark.parametrize("split", ["train", "test"])
def test_draws_are_seeded_without_replacement_and_stay_in_their_split(folder, split):
    task = TimeSeries()
    number = task.num_trials(split)
    drawn, again, other = (task.sample(number, generator=seed, split=split) for seed in (0, 0, 1))
    assert sorted(drawn.trial["index"].tolist()) == list(range(number))
    assert torch.equal(drawn.inputs, again.inputs)
    assert drawn.trial["index"].tolist() != other.trial["index"].tolist()
    whole = task.dataset(split)
    assert torch.equal(drawn.inputs, whole.select(drawn.trial["index"]).inputs)
    with pytest.raises(ArgumentError, match=f"batch_size: expected at most {number}, the series of the"):
        task.sample(number + 1, split=split)


def test_another_set_is_refused():
    with pytest.raises(ArgumentError, match=r"dataset: expected one of 'japanese_vowels', 'basic_motions'"):
        TimeSeries(dataset="vowels")


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sktime", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'kpframe-tasks\[sktime\]'"):
        create_task("time_series")
