"""Trials and tasks of one's own tensors and arrays: what is read how, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from kpframe.errors import (
    ArgumentError,
    DeviceError,
    DtypeError,
    KpframeError,
    NonFiniteError,
    ShapeError,
)
from kpframe.models import WrappedCell, wrap
from kpframe.tasks import Trials, TrialsTask
from kpframe.tasks._error import output_error, task_loss
from kpframe.tasks._readout import Readout

B, T, WIDTH, OUT = 4, 5, 3, 2
LENGTHS = torch.tensor([5, 2, 1, 4])
EXISTS = torch.arange(T) < LENGTHS[:, None]
LAST = torch.arange(T) == LENGTHS[:, None] - 1


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


X, Y = randn(B, T, WIDTH), randn(B, T, OUT, seed=1)
CLASSES = torch.tensor([[0, 1, 2, 1, 0], [2, 2, 0, 0, 1], [1, 0, 0, 2, 2], [0, 0, 1, 1, 2]])
LABELS = torch.tensor([2, 0, 1, 1])


def test_numbers_for_each_step() -> None:
    trials = Trials.from_tensors(X, Y)
    assert torch.equal(trials.inputs, X)
    assert torch.equal(trials.targets, Y)
    assert bool(trials.mask.all())
    assert bool(trials.scored.all())
    assert set(trials.epoch.ravel()) == {"response"}
    assert trials.trial == {}


@pytest.mark.parametrize("mask", [EXISTS, LENGTHS, LENGTHS.to(torch.int16), EXISTS.numpy(), LENGTHS.numpy()])
def test_steps_that_exist(mask) -> None:
    trials = Trials.from_tensors(X, Y, mask)
    assert torch.equal(trials.mask, EXISTS)
    assert torch.equal(trials.scored, EXISTS)
    assert trials.lengths.tolist() == LENGTHS.tolist()
    assert torch.equal(trials.inputs[EXISTS], X[EXISTS])
    assert not trials.inputs[~EXISTS].any()
    assert trials.epoch[1].tolist() == ["response"] * 2 + ["padding"] * 3


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.int64])
def test_classes_of_each_step_and_of_each_trial(dtype) -> None:
    each = Trials.from_tensors(X, CLASSES.to(dtype), LENGTHS)
    assert each.targets.dtype == torch.int64
    assert torch.equal(each.targets, CLASSES)
    assert torch.equal(each.scored, EXISTS)
    one = Trials.from_tensors(X, LABELS.to(dtype), LENGTHS)
    assert torch.equal(one.targets, LABELS[:, None].expand(-1, T))
    assert torch.equal(one.scored, LAST)
    assert one.trial["label"].tolist() == LABELS.tolist()
    assert one.epoch[1].tolist() == ["trial", "response", "padding", "padding", "padding"]
    outputs = randn(B, T, 3, seed=3)
    expected = torch.nn.functional.cross_entropy(outputs[LAST], LABELS)
    assert float(task_loss(outputs, one, "cross_entropy")) == pytest.approx(float(expected), rel=1e-14)
    assert float(task_loss(outputs, each, "cross_entropy")) != pytest.approx(float(expected), rel=1e-2)


def test_numbers_of_each_trial() -> None:
    y = randn(B, OUT, seed=2)
    trials = Trials.from_tensors(X, y, LENGTHS)
    assert torch.equal(trials.scored, LAST)
    outputs = randn(B, T, OUT, seed=3)
    expected = (outputs[torch.arange(B), LENGTHS - 1] - y).square().mean()
    assert float(task_loss(outputs, trials, "mse")) == pytest.approx(float(expected), rel=1e-14)
    slope = output_error(outputs, trials, "mse")
    assert bool((slope != 0).any(dim=2).eq(LAST).all())
    whole = Trials.from_tensors(X, y)
    assert torch.equal(whole.scored, (torch.arange(T) == T - 1).expand(B, T))
    assert float(task_loss(outputs, whole, "mse")) != pytest.approx(float(expected), rel=1e-2)


def test_scored_steps_of_ones_own() -> None:
    scored = torch.zeros(B, T, dtype=torch.bool)
    scored[:, 0] = True
    for y in (Y, CLASSES, LABELS, randn(B, OUT)):
        for given in (scored, scored.numpy()):
            trials = Trials.from_tensors(X, y, LENGTHS, given)
            assert torch.equal(trials.scored, scored)
            assert trials.epoch[0].tolist() == ["response"] + ["trial"] * 4
    ignored = CLASSES.clone()
    ignored[0, 1] = -100  # what torch.nn.functional.cross_entropy ignores
    assert Trials.from_tensors(X, ignored, scored=ignored >= 0).scored.sum() == B * T - 1


@pytest.mark.parametrize("dtype", [np.float64, np.float32, ">f8"])
def test_arrays_keep_their_dtype(dtype) -> None:
    x, y = X.numpy().astype(dtype), Y.numpy().astype(dtype)
    x.flags.writeable = False
    trials = Trials.from_tensors(x, y[:, ::-1])
    assert trials.inputs.dtype == trials.targets.dtype
    assert trials.inputs.dtype == (torch.float32 if dtype == np.float32 else torch.float64)
    assert torch.equal(trials.inputs, X.to(trials.inputs.dtype))
    assert torch.equal(trials.targets, Y.flip(1).to(trials.inputs.dtype))


def test_nothing_is_shared_and_no_graph_goes_in() -> None:
    x, y, mask = X.clone().requires_grad_(), Y.clone(), EXISTS.clone()
    trials = Trials.from_tensors(x, y, mask, mask)
    assert not trials.inputs.requires_grad
    with torch.no_grad():
        x.zero_(), y.zero_(), mask.zero_()
    assert torch.equal(trials.inputs[EXISTS], X[EXISTS])
    assert torch.equal(trials.targets, Y)
    assert torch.equal(trials.mask, EXISTS)
    assert torch.equal(trials.scored, EXISTS)


def test_padding_may_hold_nan() -> None:
    x, y = X.masked_fill(~EXISTS[..., None], torch.nan), Y.masked_fill(~EXISTS[..., None], torch.nan)
    trials = Trials.from_tensors(x, y, LENGTHS)
    assert torch.equal(trials.inputs, X.masked_fill(~EXISTS[..., None], 0))
    loss = task_loss(trials.targets.nan_to_num() + 1, trials, "mse")
    assert float(loss) == 1.0
    with pytest.raises(NonFiniteError, match=r"^x: expected finite values .*, got NaN .* trial 2, step 1$"):
        Trials.from_tensors(x, Y)
    with pytest.raises(NonFiniteError, match=r"^y: expected finite values at scored .* trial 2, step 1; sco"):
        Trials.from_tensors(X, y)


def test_coordinates() -> None:
    angle = np.arange(B)
    assert list(Trials.from_tensors(X, LABELS, trial={"angle": angle}).trial) == ["label", "angle"]
    own = Trials.from_tensors(X, LABELS, trial={"label": np.array(list("abca"))})
    assert own.trial["label"].tolist() == list("abca")
    with pytest.raises(ShapeError, match=r"^trial\['angle'\]: "):
        Trials.from_tensors(X, Y, trial={"angle": angle[1:]})


def test_one_step_of_one_output_has_one_reading() -> None:
    x, y = X[:, :1], Y[:, :1, 0]
    for same in (y, y[..., None]):
        trials = Trials.from_tensors(x, same)
        assert trials.targets.shape == (B, 1, 1)
        assert bool(trials.scored.all())


class Table:
    """Something that is no array, but can become one."""

    def to_numpy(self) -> np.ndarray:
        return X.numpy()


@pytest.mark.parametrize(
    ("x", "y", "rest", "error", "message"),
    [
        (X[:, 0], Y, {}, ShapeError, r"^x: expected shape \[B, T, I\], got .*; x\[:, None\] is one step of"),
        (
            X[:0],
            Y[:0],
            {},
            ShapeError,
            r"^x: expected shape \[B, T, I\], none of them 0, got shape \[0, 5, 3",
        ),
        (
            CLASSES[..., None],
            Y,
            {},
            DtypeError,
            r"^x: expected a floating-point dtype \(x.float\(\) or .*int64",
        ),
        (X.to(torch.complex128), Y, {}, DtypeError, r"^x: .*, got torch.complex128$"),
        (
            X.tolist(),
            Y,
            {},
            ArgumentError,
            r"^x: expected a tensor or a NumPy array \(.*pad_sequence.*got list",
        ),
        (Table(), Y, {}, ArgumentError, r"^x: .* \(x.to_numpy\(\) is one\), got Table$"),
        (
            np.ma.masked_array(X.numpy()),
            Y,
            {},
            ArgumentError,
            r"^x: expected a plain array, its mask .*masked",
        ),
        (
            X.numpy().astype(object),
            Y,
            {},
            DtypeError,
            r"^x: expected a dtype that torch has, too, got object$",
        ),
        (X.to_sparse(), Y, {}, ArgumentError, r"^x: expected a dense tensor, got layout torch.sparse_coo$"),
        (X, None, {}, ArgumentError, r"^y: expected a tensor or a NumPy array, got NoneType$"),
        (X, Y.float(), {}, DtypeError, r"^y: expected the dtype torch.float64 of x, got .*; y.to\(x.dtype\)"),
        (
            X,
            Y[:, :, :0],
            {},
            ShapeError,
            r"^y: expected shape \[4, 5, O\] .* or \[4, O\] .* shape \[4, 5, 0\]",
        ),
        (X, Y[1:], {}, ShapeError, r"^y: .*, got shape \[3, 5, 2\]$"),
        (
            X,
            Y[..., 0],
            {},
            ShapeError,
            r"^y: .*could be either; y\[..., None\] is one output at each step, y",
        ),
        (X, Y[:, 0, 0], {}, ShapeError, r"^y: .*; y\[:, None\] is one output of each trial, y.long\(\) cl"),
        (X, Y[:, :3, 0][1:], {}, ShapeError, r"^y: .*, got shape \[3, 3\]$"),
        (X, CLASSES > 0, {}, DtypeError, r"^y: .* for classes \(y.long\(\)\), got torch.bool$"),
        (
            X,
            CLASSES[..., None],
            {},
            ShapeError,
            r"^y: expected classes \[4, 5\] for .*one-hot.*y.argmax\(-1\)$",
        ),
        (
            X,
            CLASSES[:, :3],
            {},
            ShapeError,
            r"^y: expected classes .*, got shape \[4, 3\]; one-hot classes ar",
        ),
        (X, LABELS[1:], {}, ShapeError, r"^y: expected classes \[4, 5\] .*, or \[4\] .*, got shape \[3\]$"),
        (
            X,
            CLASSES - 1,
            {},
            ArgumentError,
            r"^y: expected classes from 0 on .*-1 in trial 0, step 0; scored=",
        ),
        (
            X,
            Y,
            {"mask": EXISTS.long()},
            ShapeError,
            r"^mask: expected bool \[4, 5\], or .*; mask.bool\(\) if",
        ),
        (
            X,
            Y,
            {"mask": EXISTS.double()},
            DtypeError,
            r"^mask: expected bool \[4, 5\], or lengths \[4\] of an",
        ),
        (X, Y, {"mask": EXISTS[:, 0]}, ShapeError, r"^mask: .*, got torch.bool \[4\]$"),
        (
            X,
            Y,
            {"mask": LENGTHS - 1},
            ArgumentError,
            r"^mask: expected lengths from 1 to 5, got 0 in trial 2$",
        ),
        (
            X,
            Y,
            {"mask": LENGTHS + 1},
            ArgumentError,
            r"^mask: expected lengths from 1 to 5, got 6 in trial 0$",
        ),
        (X, Y, {"mask": EXISTS.flip(1)}, ArgumentError, r"^mask: expected True from step 0 to a trial's end"),
        (X, Y, {"mask": [5, 2, 1, 4]}, ArgumentError, r"^mask: expected a tensor or a NumPy array"),
        (X, Y, {"scored": EXISTS.long()}, DtypeError, r"^scored: expected a bool dtype, got torch.int64$"),
        (
            X,
            Y,
            {"scored": EXISTS[:, 1:]},
            ShapeError,
            r"^scored: expected shape \[4, 5\], got shape \[4, 4\]$",
        ),
        (
            X,
            Y,
            {"mask": LENGTHS, "scored": EXISTS | True},
            ArgumentError,
            r"^scored: expected a subset of mask",
        ),
        (X, Y.to("meta"), {}, DeviceError, r"^y: expected the device cpu of x, got meta$"),
        (X, Y, {"mask": EXISTS.to("meta")}, DeviceError, r"^mask: expected the device cpu of x, got meta$"),
    ],
)
def test_what_is_refused(x, y, rest, error, message) -> None:
    with pytest.raises(error, match=message):
        Trials.from_tensors(x, y, **rest)


def task(**settings: object) -> TrialsTask:
    x = randn(40, T, WIDTH, seed=5)
    labels = torch.arange(40) % 4
    return TrialsTask(Trials.from_tensors(x, labels, trial={"index": np.arange(40)}), 0.25, **settings)


def test_a_share_is_held_out() -> None:
    made = task(seed=3)
    train, test = made.dataset("train", dtype=torch.float64), made.dataset("test", dtype=torch.float64)
    assert (made.num_trials(), made.num_trials("test")) == (30, 10)
    index = np.concatenate([train.trial["index"], test.trial["index"]])
    assert sorted(index) == list(range(40))
    assert torch.equal(torch.cat([train.inputs, test.inputs]), randn(40, T, WIDTH, seed=5)[index])
    assert task(seed=3).dataset("test").trial["index"].tolist() == test.trial["index"].tolist()
    assert task(seed=4).dataset("test").trial["index"].tolist() != test.trial["index"].tolist()
    assert (made.loss, made.input_size, made.output_size) == ("cross_entropy", WIDTH, 4)
    assert repr(made) == "TrialsTask(train=30, test=10, loss='cross_entropy', I=3, O=4)"


def test_samples_are_different_trials_of_a_split() -> None:
    made = task()
    drawn = made.sample(30, generator=1)
    train = made.dataset("train").trial["index"]
    assert sorted(drawn.trial["index"]) == sorted(train)
    assert drawn.trial["index"].tolist() != train.tolist()
    assert made.sample(30, generator=1).trial["index"].tolist() == drawn.trial["index"].tolist()
    assert drawn.inputs.dtype == torch.get_default_dtype()
    with pytest.raises(
        ArgumentError, match=r"^batch_size: expected at most 30, the trials of the train spli"
    ):
        made.sample(31)


def test_test_trials_of_ones_own_may_be_longer() -> None:
    train, test = Trials.from_tensors(X, Y), Trials.from_tensors(randn(2, 9, WIDTH), randn(2, 9, OUT))
    made = TrialsTask(train, test)
    assert (made.loss, made.output_size, made.num_trials("test")) == ("mse", OUT, 2)
    assert made.dataset("test", dtype=torch.float64).inputs.equal(test.inputs)
    assert made.dataset("train", dtype=torch.float64).targets.equal(Y)


def test_the_number_of_classes() -> None:
    train, test = Trials.from_tensors(X, LABELS), Trials.from_tensors(X, LABELS + 3)
    assert TrialsTask(train, test).output_size == 6
    assert TrialsTask(train, train).output_size == 3
    assert TrialsTask(train, train, output_size=10).output_size == 10
    with pytest.raises(ArgumentError, match=r"^output_size: expected a whole number >= 6, the classes .* 5$"):
        TrialsTask(train, test, output_size=5)
    with pytest.raises(ArgumentError, match=r"^output_size: expected 2, the width of the targets, got 3$"):
        TrialsTask(Trials.from_tensors(X, Y), 0.5, output_size=3)


NONE = torch.zeros(B, T, dtype=torch.bool)


@pytest.mark.parametrize(
    ("train", "test", "error", "message"),
    [
        (
            (X, Y),
            (X.float(), Y.float()),
            DtypeError,
            r"^test: inputs: expected torch.float64, as of train, go",
        ),
        ((X, Y), (X[..., 1:], Y), ShapeError, r"^test: inputs: expected width 3, as of train, got 2$"),
        (
            (X, Y),
            (X, CLASSES),
            DtypeError,
            r"^test: targets: expected torch.float64, as of train, got .*int64",
        ),
        ((X, Y), (X, Y[..., 1:]), ShapeError, r"^test: targets: expected width 2, as of train, got 1$"),
        (
            (X, Y),
            0.9,
            ArgumentError,
            r"^test: expected a share that leaves some of 4 trials to learn from, go",
        ),
        (
            (X, Y),
            1.0,
            ArgumentError,
            r"^test: expected Trials, or a share in \(0, 1\) .*, got 1.0 \(float\)$",
        ),
        ((X, Y), 1, ArgumentError, r"^test: expected Trials, or a share in \(0, 1\) .*, got 1 \(int\)$"),
        (
            (X, Y),
            None,
            ArgumentError,
            r"^test: expected Trials, or a share in \(0, 1\) .*, got None \(NoneTyp",
        ),
        (
            (X, CLASSES),
            (X, CLASSES, None, NONE),
            ArgumentError,
            r"^test trials: expected at least one scored",
        ),
    ],
)
def test_splits_that_are_refused(train, test, error, message) -> None:
    with pytest.raises(error, match=message):
        TrialsTask(
            Trials.from_tensors(*train), Trials.from_tensors(*test) if isinstance(test, tuple) else test
        )


def test_what_is_no_trials_is_told_how_to_become_some() -> None:
    with pytest.raises(ArgumentError, match=r"^train: expected Trials, as Trials.from_tensors\(x, y\) makes"):
        TrialsTask(X, 0.2)


def test_a_model_learns_ones_own_trials() -> None:
    from kpframe.training import Trainer, TrainingSettings

    x = randn(200, T, WIDTH, seed=6)
    made = TrialsTask(Trials.from_tensors(x, (x[:, :, 0].sum(dim=1) > 0).long()), 0.25)
    torch.manual_seed(0)
    model: WrappedCell = wrap(torch.nn.GRUCell(WIDTH, 8))
    readout = Readout(model.width, made.output_size, generator=0)
    trainer = Trainer(
        model, readout, made, TrainingSettings(steps=60, batch_size=50, learning_rate=0.03), seed=1
    )
    before, _ = trainer.evaluate(made.dataset("test"))
    losses = [progress.loss for progress in trainer.run()]
    after, accuracy = trainer.evaluate(made.dataset("test"))
    assert len(losses) == 60
    assert before > 0.6
    assert after < 0.4
    assert accuracy > 0.85


@pytest.mark.slow
def test_the_example_of_the_front_page(capsys) -> None:
    page = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    code = re.search(r"## Your own data\n.*?```python\n(.*?)```", page, flags=re.DOTALL)[1]
    if "from kpframe-rules" in code:
        pytest.importorskip("kpframe_rules")
    torch.manual_seed(0)
    exec(compile(code, "README.md", "exec"), {})
    told = capsys.readouterr().out
    assert told.startswith("1 1.")
    assert "\nloss and accuracy: (" in told
    assert "rule" in told.partition("accuracy")[2]


def test_errors_are_ours() -> None:
    for value in (3, "x", [], {}, np.float64(1), torch.tensor(1.0)):
        for arguments in ((value, Y), (X, value), (X, Y, value), (X, Y, None, value)):
            with pytest.raises(KpframeError):
                Trials.from_tensors(*arguments)
