"""Trials are checked when they are built; a task's draws depend on its seed and split alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from attrs import evolve

from kpframe.errors import ArgumentError, DtypeError, NonFiniteError, ShapeError
from kpframe.tasks._task import Task, Trials, seeded_generator


def make_trials(lengths=(4, 2, 3), classes=False) -> Trials:
    batch, steps = len(lengths), max(lengths)
    mask = torch.arange(steps) < torch.tensor(lengths)[:, None]
    values = torch.arange(batch * steps * 2, dtype=torch.float64).reshape(batch, steps, 2)
    return Trials(
        inputs=values,
        targets=torch.ones(batch, steps, dtype=torch.int64) if classes else values + 1,
        mask=mask,
        scored=mask & (torch.arange(steps) > 0),
        epoch=np.where(mask.numpy(), "go", "padding"),
        trial={"length": np.array(lengths), "name": np.array(list("abcdef")[:batch])},
    )


class Noise(Task):
    """Standard normal inputs; their running sum is the target."""

    def __init__(self, seed=0):
        super().__init__(input_size=2, output_size=2, loss="mse", seed=seed)

    def draw(self, batch_size, generator, split):
        x = torch.randn(batch_size, 5, 2, generator=generator, dtype=torch.float64)
        mask = torch.ones(batch_size, 5, dtype=torch.bool)
        return Trials(
            inputs=x, targets=x.cumsum(1), mask=mask, scored=mask, epoch=np.full((batch_size, 5), "go")
        )


def test_trials_count_their_steps_and_trials():
    trials = make_trials()
    assert trials.num_trials == 3
    assert trials.lengths.tolist() == [4, 2, 3]
    assert repr(trials) == "Trials(B=3, T=4, I=2, scored=6 of 12 steps)"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"inputs": torch.zeros(3, 4)},
            ShapeError,
            r"inputs: expected shape \[B, T, I\].*got shape \[3, 4\]",
        ),
        ({"inputs": [1.0]}, ShapeError, "inputs: expected a tensor, got list"),
        ({"inputs": torch.zeros(3, 4, 2, dtype=torch.int64)}, DtypeError, "inputs: .*got torch.int64"),
        ({"targets": torch.zeros(3, 4, 1)}, DtypeError, "targets: .*torch.float64, got torch.float32"),
        ({"targets": torch.zeros(3, 4).double()}, ShapeError, r"targets: expected shape \[3, 4\] \+ \[O\]"),
        ({"targets": torch.zeros(3, dtype=torch.int64)}, ShapeError, r"targets: .*got shape \[3\]"),
        ({"targets": torch.zeros(3, 4, dtype=torch.int32)}, DtypeError, "targets: .*got torch.int32"),
        ({"mask": torch.ones(3, 4)}, DtypeError, "mask: expected dtype torch.bool, got torch.float32"),
        (
            {"scored": torch.ones(3, 5).bool()},
            ShapeError,
            r"scored: expected shape \[3, 4\], got shape \[3, 5\]",
        ),
        ({"scored": torch.ones(3, 4).bool()}, ArgumentError, "scored: .*padded step at trial 1, step 2"),
        ({"epoch": np.zeros((3, 4))}, DtypeError, "epoch: expected a numpy array of strings, got float64"),
        ({"epoch": np.full((3, 3), "go")}, ShapeError, r"epoch: expected shape \[3, 4\], got shape \[3, 3\]"),
        (
            {"trial": {"angle": np.zeros(4)}},
            ShapeError,
            r"trial\['angle'\]: expected shape \[3\], got shape \[4\]",
        ),
    ],
)
def test_trials_name_what_is_wrong(change, error, message):
    with pytest.raises(error, match=message):
        evolve(make_trials(), **change)


def test_a_mask_is_padding_at_the_end_only():
    trials = make_trials()
    for bad in ([False, True, True, True], [True, False, True, False], [False] * 4):
        mask = trials.mask.clone()
        mask[1] = torch.tensor(bad)
        with pytest.raises(ArgumentError, match=r"mask: .*in trial 1"):
            evolve(trials, mask=mask)


def test_non_finite_values_are_located():
    trials = make_trials()
    inputs = trials.inputs.clone()
    inputs[0, 3, 1], inputs[2, 1, 0] = torch.inf, torch.nan
    with pytest.raises(NonFiniteError, match=r"inputs: .*from trial 2, step 1"):
        evolve(trials, inputs=inputs)
    targets = trials.targets.clone()
    targets[0, 0] = torch.nan  # not scored: of no effect
    evolve(trials, targets=targets)
    targets[0, 2] = torch.nan
    with pytest.raises(NonFiniteError, match=r"targets: .*from trial 0, step 2"):
        evolve(trials, targets=targets)


def test_to_casts_inputs_and_regression_targets_only():
    single = make_trials().to(dtype=torch.float32)
    assert single.inputs.dtype == single.targets.dtype == torch.float32
    classes = make_trials(classes=True).to(dtype=torch.float32)
    assert (classes.inputs.dtype, classes.targets.dtype) == (torch.float32, torch.int64)
    assert classes.mask.dtype == torch.bool
    with pytest.raises(DtypeError, match=r"dtype: expected a floating-point dtype, got torch.int64"):
        classes.to(dtype=torch.int64)


@pytest.mark.parametrize(
    "indices",
    [
        [2, 0],
        np.array([2, 0]),
        torch.tensor([2, 0]),
        slice(None, None, -2),
    ],
)
def test_select_takes_trials_in_order(indices):
    chosen = make_trials().select(indices)
    assert chosen.trial["name"].tolist() == ["c", "a"]
    assert chosen.lengths.tolist() == [3, 4]
    assert chosen.epoch.shape == (2, 4)
    for name in ("inputs", "targets", "mask", "scored"):
        assert torch.equal(getattr(chosen, name), getattr(make_trials(), name)[[2, 0]])


def test_select_by_condition_and_by_one_index():
    trials = make_trials()
    assert trials.select(trials.trial["length"] > 2).trial["name"].tolist() == ["a", "c"]
    assert trials.select(trials.lengths == 2).trial["name"].tolist() == ["b"]
    assert trials.select(-1).inputs.shape == (1, 4, 2)


@pytest.mark.parametrize("indices", [[3], [], np.zeros(3, dtype=bool), np.ones(2, dtype=bool)])
def test_select_refuses_what_is_not_there(indices):
    with pytest.raises(ArgumentError, match=r"indices: expected"):
        make_trials().select(indices)


def test_a_seed_fixes_the_trials_and_another_seed_changes_them():
    task = Noise()
    once, again = task.sample(4, generator=7), Noise(seed=3).sample(4, generator=7)
    assert torch.equal(once.inputs, again.inputs)
    assert not torch.equal(once.inputs, task.sample(4, generator=8).inputs)
    assert not torch.equal(once.inputs, task.sample(4, generator=7 + 2**32).inputs)


def test_one_seed_means_other_trials_in_each_split():
    task = Noise()
    train, test = (task.sample(4, generator=7, split=split) for split in ("train", "test"))
    assert not torch.equal(train.inputs, test.inputs)
    train, test = (Noise().sample(4, split=split) for split in ("train", "test"))
    assert not torch.equal(train.inputs, test.inputs)


def test_a_generator_advances_and_so_does_the_tasks_own():
    generator = torch.Generator().manual_seed(1)
    task = Noise(seed=5)
    assert not torch.equal(
        task.sample(2, generator=generator).inputs, task.sample(2, generator=generator).inputs
    )
    first, second = task.sample(2), task.sample(2)
    assert not torch.equal(first.inputs, second.inputs)
    twin = Noise(seed=5)
    assert torch.equal(first.inputs, twin.sample(2).inputs)
    assert not torch.equal(first.inputs, Noise(seed=6).sample(2).inputs)


def test_looking_at_test_trials_leaves_the_training_stream_alone():
    looked, plain = Noise(), Noise()
    looked.sample(9, split="test")
    assert torch.equal(looked.sample(2).inputs, plain.sample(2).inputs)


def test_the_global_random_state_is_neither_read_nor_written():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    numpy_before = np.random.get_state()[1].copy()  # noqa: NPY002
    one = Noise().sample(3)
    assert torch.equal(before, torch.get_rng_state())
    assert (numpy_before == np.random.get_state()[1]).all()  # noqa: NPY002
    torch.manual_seed(1)
    assert torch.equal(one.inputs, Noise().sample(3).inputs)


def test_the_dtype_does_not_change_the_draw():
    task = Noise()
    double = task.sample(3, generator=1, dtype=torch.float64)
    single = task.sample(3, generator=1)
    assert single.inputs.dtype == torch.get_default_dtype() == torch.float32
    assert torch.equal(double.inputs.float(), single.inputs)


def test_a_task_without_an_end():
    assert Noise().num_trials("train") is None
    with pytest.raises(ArgumentError, match=r"dataset: Noise has no end of trials"):
        Noise().dataset()


@pytest.mark.parametrize("batch_size", [0, -1, 2.0, True, None])
def test_batch_sizes_are_checked(batch_size):
    with pytest.raises(ArgumentError, match=r"batch_size: expected a whole number >= 1"):
        Noise().sample(batch_size)


def test_other_bad_arguments():
    with pytest.raises(ArgumentError, match=r"split: expected one of train, test, got 'valid'"):
        Noise().sample(1, split="valid")
    for seed in (-1, 1.5, True, "1"):
        with pytest.raises(ArgumentError, match=r"seed: expected a whole number >= 0"):
            Noise().sample(1, generator=seed)
        with pytest.raises(ArgumentError, match=r"seed: expected a whole number >= 0"):
            seeded_generator(seed)
    with pytest.raises(TypeError, match=r"abstract"):
        Task(input_size=1, output_size=1, loss="mse")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_size": 0}, "input_size: expected a whole number >= 1, got 0"),
        ({"output_size": 0}, "output_size: expected a whole number >= 1, got 0"),
        ({"loss": "hinge"}, "loss: expected one of cross_entropy, mse, got 'hinge'"),
        ({"seed": -2}, "seed: expected a whole number >= 0, got -2"),
    ],
)
def test_task_settings_are_checked(change, message):
    class Any(Noise):
        def __init__(self, **settings):
            Task.__init__(self, **settings)

    with pytest.raises(ArgumentError, match=message):
        Any(**({"input_size": 1, "output_size": 1, "loss": "mse"} | change))
