"""Losses and Err against formulas written by hand and against autograd, in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from attrs import evolve

from kpframe.errors import ArgumentError, DtypeError, NonFiniteError, ShapeError
from kpframe.tasks._error import accuracy, error, output_error, task_loss
from kpframe.tasks._readout import Readout
from kpframe.tasks._task import Trials

BATCH, STEPS, HIDDEN, OUTPUT = 3, 5, 6, 4
KINDS = ("cross_entropy", "mse")


def make_trials(kind: str, dtype=torch.float64) -> Trials:
    generator = torch.Generator().manual_seed(3)
    mask = torch.arange(STEPS) < torch.tensor([[5], [3], [4]])
    scored = mask & (torch.arange(STEPS) % 2 == 0)
    if kind == "mse":
        targets = torch.randn(BATCH, STEPS, OUTPUT, generator=generator, dtype=torch.float64).to(dtype)
    else:
        targets = torch.randint(OUTPUT, (BATCH, STEPS), generator=generator)
        targets[~scored] = -7  # what stands at unscored steps must not matter
    return Trials(
        inputs=torch.zeros(BATCH, STEPS, 1, dtype=dtype),
        targets=targets,
        mask=mask,
        scored=scored,
        epoch=np.full((BATCH, STEPS), "go"),
    )


def make_states(dtype=torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randn(BATCH, STEPS, HIDDEN, generator=generator, dtype=torch.float64).to(dtype)


def make_readout(hidden: slice | None = None, dtype=torch.float64) -> Readout:
    return Readout(HIDDEN, OUTPUT, hidden=hidden, generator=5, dtype=dtype)


def loss_by_hand(readout: Readout, states: torch.Tensor, trials: Trials, kind: str) -> float:
    """Return the loss by plain loops over Python floats."""
    total, count = 0.0, 0
    weight, bias = readout.full_weight().tolist(), readout.bias.tolist()
    for b, t in trials.scored.nonzero().tolist():
        h = states[b, t].tolist()
        y = [sum(w * v for w, v in zip(row, h, strict=True)) + c for row, c in zip(weight, bias, strict=True)]
        if kind == "mse":
            total += sum((a - d) ** 2 for a, d in zip(y, trials.targets[b, t].tolist(), strict=True))
            count += OUTPUT
        else:
            total += math.log(sum(math.exp(a) for a in y)) - y[int(trials.targets[b, t])]
            count += 1
    return total / count


def err_by_hand(readout: Readout, states: torch.Tensor, trials: Trials, kind: str) -> torch.Tensor:
    """Return (softmax - onehot) W / n, or 2 (y - target) W / (n O), at the scored steps."""
    weight = readout.full_weight().detach()
    y = torch.einsum("oh,bth->bto", weight, states) + readout.bias.detach()
    n = int(trials.scored.sum())
    if kind == "mse":
        slope = 2 * (y - trials.targets) / (n * OUTPUT)
    else:
        classes = torch.arange(OUTPUT) == trials.targets[..., None]
        slope = (y.exp() / y.exp().sum(-1, keepdim=True) - classes.double()) / n
    return torch.einsum("bto,oh->bth", slope, weight) * trials.scored[..., None]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hidden", [None, slice(2, 5)])
def test_loss_equals_the_loop(kind, hidden):
    readout, states, trials = make_readout(hidden), make_states(), make_trials(kind)
    loss = task_loss(readout(states), trials, kind)
    assert loss.shape == ()
    assert float(loss.detach()) == pytest.approx(loss_by_hand(readout, states, trials, kind), rel=1e-14)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hidden", [None, slice(2, 5)])
def test_err_equals_autograd_and_the_hand_formula(kind, hidden):
    readout, trials = make_readout(hidden), make_trials(kind)
    states = make_states().requires_grad_()
    (expected,) = torch.autograd.grad(task_loss(readout(states), trials, kind), states)
    found = error(readout, states, trials, kind)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-16)
    by_hand = err_by_hand(readout, states.detach(), trials, kind)
    torch.testing.assert_close(found, by_hand, rtol=1e-12, atol=1e-16)
    assert not found.requires_grad
    assert found.abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_output_error_equals_autograd(kind):
    trials = make_trials(kind)
    outputs = make_readout()(make_states()).detach().requires_grad_()
    (expected,) = torch.autograd.grad(task_loss(outputs, trials, kind), outputs)
    torch.testing.assert_close(output_error(outputs, trials, kind), expected, rtol=1e-13, atol=1e-16)


@pytest.mark.parametrize("kind", KINDS)
def test_err_is_exactly_zero_where_nothing_is_scored(kind):
    trials = make_trials(kind)
    found = error(make_readout(slice(2, 5)), make_states(), trials, kind)
    assert (found[~trials.scored] == 0).all()
    assert (found[..., :2] == 0).all()
    assert (found[..., 5:] == 0).all()
    assert (found[trials.scored][:, 2:5] != 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_unscored_targets_and_states_have_no_effect_and_scored_ones_do(kind):
    readout, states, trials = make_readout(), make_states(), make_trials(kind)
    found = error(readout, states, trials, kind)
    loss = task_loss(readout(states), trials, kind)
    other = states.clone()
    other[~trials.scored] += 3
    targets = trials.targets.clone()
    targets[~trials.scored] = 2
    changed = evolve(trials, targets=targets)
    assert torch.equal(found, error(readout, other, changed, kind))
    assert torch.equal(loss, task_loss(readout(other), changed, kind))
    scored = states.clone()
    scored[0, 2] += 0.1
    assert not torch.equal(found, error(readout, scored, trials, kind))


def test_the_two_losses_differ_in_err():
    readout, states = make_readout(), make_states()
    classes, regression = make_trials("cross_entropy"), make_trials("mse")
    assert not torch.allclose(
        error(readout, states, classes, "cross_entropy"), error(readout, states, regression, "mse")
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_err_keeps_the_dtype_and_changes_nothing(kind, dtype):
    readout, states, trials = make_readout(dtype=dtype), make_states(dtype), make_trials(kind, dtype)
    before = states.clone()
    assert error(readout, states, trials, kind).dtype == dtype
    assert torch.equal(states, before)
    assert readout.weight.grad is None


def test_err_does_not_follow_a_half_factor_or_a_per_trial_mean():
    """The conventions that a reader might expect instead give other numbers."""
    readout, states, trials = make_readout(), make_states(), make_trials("mse")
    found = error(readout, states, trials, "mse")
    squares = (readout(states) - trials.targets).square().mean(dim=2) * trials.scored
    per_trial = (squares.sum(dim=1) / trials.scored.sum(dim=1)).mean()
    loss = task_loss(readout(states), trials, "mse")
    assert not torch.allclose(loss, per_trial)
    assert not torch.allclose(found, err_by_hand(readout, states, trials, "mse") / 2)


def test_accuracy_counts_right_classes():
    trials = make_trials("cross_entropy")
    right = torch.nn.functional.one_hot(trials.targets.clamp(min=0), OUTPUT).double()
    assert accuracy(right, trials) == 1
    b, t = trials.scored.nonzero()[0].tolist()
    wrong = right.clone()
    wrong[b, t] = wrong[b, t].roll(1)
    n = int(trials.scored.sum())
    assert accuracy(wrong, trials) == pytest.approx((n - 1) / n)
    assert accuracy(-right, trials) == 0


def test_accuracy_of_regression_is_r_squared():
    trials = make_trials("mse")
    targets = trials.targets
    assert accuracy(targets, trials) == 1
    mean = targets[trials.scored].mean(dim=0).expand_as(targets)
    assert accuracy(mean, trials) == pytest.approx(0, abs=1e-12)
    outputs = targets + make_readout()(make_states()).detach()
    flat, wanted = outputs[trials.scored].numpy(), targets[trials.scored].numpy()
    expected = 1 - ((flat - wanted) ** 2).sum() / ((wanted - wanted.mean(axis=0)) ** 2).sum()
    assert accuracy(outputs, trials) == pytest.approx(expected, rel=1e-12)
    assert accuracy(outputs, trials) < 1
    with pytest.raises(ArgumentError, match=r"targets: expected values that vary"):
        accuracy(outputs, evolve(trials, targets=torch.ones_like(targets)))
    rounded = torch.tensor([0.3, 0.9, 3.7, 2.3], dtype=torch.float64).expand_as(targets).clone()
    counted = rounded[trials.scored]
    while not bool((counted != counted.mean(dim=0)).any()):  # until the mean of equal numbers is another
        rounded *= 1.1
        counted = rounded[trials.scored]
    with pytest.raises(ArgumentError, match=r"targets: expected values that vary"):
        accuracy(outputs, evolve(trials, targets=rounded))


def test_the_readout_is_linear_with_torch_names_and_bounds():
    readout = make_readout()
    states = make_states()
    linear = torch.nn.Linear(HIDDEN, OUTPUT, dtype=torch.float64)
    linear.load_state_dict(readout.state_dict())
    assert torch.equal(readout(states), linear(states))
    assert readout(states[0, 0]).shape == (OUTPUT,)
    assert readout.weight.abs().max() <= 1 / math.sqrt(HIDDEN)
    assert readout.weight.std() > 0.1


def test_a_part_of_the_state_is_read():
    readout, states = make_readout(slice(2, 5)), make_states()
    assert readout.weight.shape == (OUTPUT, 3)
    assert readout.full_weight().shape == (OUTPUT, HIDDEN)
    torch.testing.assert_close(readout(states), states @ readout.full_weight().T + readout.bias)
    other = states.clone()
    other[..., :2] += 1
    other[..., 5:] += 1
    assert torch.equal(readout(states), readout(other))
    other[..., 3] += 1
    assert not torch.equal(readout(states), readout(other))
    assert "hidden=2:5" in repr(readout)
    assert "hidden=" not in repr(make_readout())


def test_initial_values_follow_the_generator():
    first, again = make_readout(), make_readout()
    assert torch.equal(first.weight, again.weight)
    assert torch.equal(first.bias, again.bias)
    assert not torch.equal(first.weight, Readout(HIDDEN, OUTPUT, generator=6, dtype=torch.float64).weight)
    assert torch.equal(first.weight.float(), make_readout(dtype=torch.float32).weight)
    before = torch.get_rng_state()
    generator = torch.Generator().manual_seed(1)
    one, two = (Readout(HIDDEN, OUTPUT, generator=generator) for _ in range(2))
    assert not torch.equal(one.weight, two.weight)
    assert torch.equal(before, torch.get_rng_state())


def test_initial_values_follow_torch_without_a_generator():
    weights = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        weights.append(Readout(HIDDEN, OUTPUT).weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(
    "hidden", [slice(0, 7), slice(3, 3), slice(-2, None), slice(0, 6, 2), slice(6, None), slice(4, 2)]
)
def test_a_stretch_outside_the_state_is_refused(hidden):
    with pytest.raises(ArgumentError, match=r"hidden: expected a slice inside 0:6 with step 1, got slice"):
        Readout(HIDDEN, OUTPUT, hidden=hidden)


def test_sizes_are_checked():
    with pytest.raises(ArgumentError, match=r"hidden_size: expected a whole number >= 1, got 0"):
        Readout(0, 2)
    with pytest.raises(ArgumentError, match=r"output_size: expected a whole number >= 1, got 0"):
        Readout(2, 0)


def test_states_that_do_not_fit_are_refused():
    readout, states, trials = make_readout(), make_states(), make_trials("mse")
    with pytest.raises(ShapeError, match=r"states: expected shape \[..., 6\], got shape \[3, 5, 5\]"):
        readout(states[..., :5])
    with pytest.raises(ShapeError, match=r"states: expected shape \[3, 5, 6\], got shape \[3, 5, 5\]"):
        error(readout, states[..., :5], trials, "mse")
    with pytest.raises(ShapeError, match=r"states: expected shape \[3, 5, 6\], got shape \[2, 5, 6\]"):
        error(readout, states[:2], trials, "mse")
    with pytest.raises(
        DtypeError, match=r"states: expected the readout's dtype torch.float64, got torch.float32"
    ):
        readout(states.float())
    states[2, 1, 3], states[0, 3, 0] = torch.nan, torch.inf
    with pytest.raises(NonFiniteError, match=r"states: .*from trial 2, step 1"):
        error(readout, states, trials, "mse")


def test_targets_outside_the_classes_are_refused():
    readout, states, trials = make_readout(), make_states(), make_trials("cross_entropy")
    for bad in (OUTPUT, -1):
        targets = trials.targets.clone()
        targets[0, 0] = bad
        changed = evolve(trials, targets=targets)
        for call in (
            lambda t: error(readout, states, t, "cross_entropy"),
            lambda t: task_loss(readout(states), t, "cross_entropy"),
            lambda t: accuracy(readout(states), t),
        ):
            with pytest.raises(ArgumentError, match=r"targets: expected classes 0 to 3 at scored steps, got"):
                call(changed)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_without_a_scored_step_is_refused(kind):
    trials = make_trials(kind)
    empty = evolve(trials, scored=torch.zeros_like(trials.scored))
    for call in (
        lambda: error(make_readout(), make_states(), empty, kind),
        lambda: task_loss(make_readout()(make_states()), empty, kind),
        lambda: accuracy(make_readout()(make_states()), empty),
    ):
        with pytest.raises(
            ArgumentError, match=r"scored: expected at least one scored step in the batch, got none"
        ):
            call()


def test_losses_refuse_the_wrong_kind_shape_and_dtype():
    outputs = make_readout()(make_states()).detach()
    classes, regression = make_trials("cross_entropy"), make_trials("mse")
    with pytest.raises(ArgumentError, match=r"kind: expected one of cross_entropy, mse, got 'hinge'"):
        task_loss(outputs, classes, "hinge")
    with pytest.raises(DtypeError, match=r"targets: expected torch.int64 classes for cross_entropy"):
        task_loss(outputs, regression, "cross_entropy")
    with pytest.raises(DtypeError, match=r"targets: expected the outputs' dtype torch.float64 for mse"):
        task_loss(outputs, classes, "mse")
    with pytest.raises(ShapeError, match=r"outputs: expected shape \[3, 5, 4\], got shape \[3, 5, 3\]"):
        task_loss(outputs[..., :3], regression, "mse")
    with pytest.raises(ShapeError, match=r"outputs: expected shape \[3, 5\] \+ \[O\], got shape \[3, 4, 4\]"):
        task_loss(outputs[:, :4], classes, "cross_entropy")
    outputs[0, 1] = torch.nan  # not scored
    task_loss(outputs, regression, "mse")
    outputs[1, 2] = torch.nan
    with pytest.raises(NonFiniteError, match=r"outputs: .*from trial 1, step 2"):
        task_loss(outputs, regression, "mse")
