"""How a network changed, beside two predictions of it, against the dense Jacobian of its roll-out."""

from __future__ import annotations

import copy
import math
import warnings

import numpy as np
import pytest
import torch
import xarray as xr

from kpframe import Readout
from kpframe.errors import ArgumentError
from kpframe.study._moment import Moment
from kpframe.study._quantities.change import PredictedChange
from kpframe.tasks._task import Trials

from ...toy_moments import B, Cell, T, dense_jacobian, moment_of, trials_of  # noqa: TID252

ETA = 0.02


def loss_of(model: Cell, readout: Readout, trials: Trials, kind: str) -> torch.Tensor:
    outputs = readout(model.rollout(trials.inputs, mask=trials.mask).states)[trials.scored]
    targets = trials.targets[trials.scored]
    if kind == "mse":
        return (outputs - targets).square().mean()
    return -outputs.log_softmax(dim=1)[torch.arange(len(targets)), targets].mean()


def descended(before: Moment, trials: Trials, kind: str, updates: int, **keywords: object) -> Moment:
    """Return the moment after updates of plain gradient descent on the trials themselves."""
    model, readout = copy.deepcopy(before.model), copy.deepcopy(before.readout)
    parameters = [*model.parameters(), *readout.parameters()]
    for _ in range(updates):
        grads = torch.autograd.grad(loss_of(model, readout, trials, kind), parameters)
        with torch.no_grad():
            for parameter, grad in zip(parameters, grads, strict=True):
                parameter -= ETA * grad
    return moment_of(
        trials, kind, model=model, readout=readout, step=before.step + updates,
        previous=lambda: before, learning_rate=ETA, **keywords,
    )  # fmt: skip


@pytest.fixture(scope="module", params=["mse", "cross_entropy"])
def pair(request) -> tuple[Trials, Moment, Moment, xr.Dataset]:
    trials = trials_of(request.param)
    before = moment_of(trials, request.param, step=4, learning_rate=ETA)
    now = descended(before, trials, request.param, 3)
    return trials, before, now, PredictedChange().measure(now)


def references(trials: Trials, before: Moment, now: Moment) -> dict[str, dict[str, torch.Tensor]]:
    """Return the changes, actual and to first order, from dense matrices; 0 at padded steps."""
    G = dense_jacobian(before.model, trials)
    flat = [torch.cat([p.detach().reshape(-1) for p in one.model.parameters()]) for one in (before, now)]
    h, h_now = (one.model.rollout(trials.inputs, mask=trials.mask).states.detach() for one in (before, now))
    W, b, W_now, b_now = (p.detach() for one in (before, now) for p in one.readout.parameters())
    dh = G @ (flat[1] - flat[0])
    dy = dh @ W.T + h @ (W_now - W).T + b_now - b
    loss = loss_of(before.model, before.readout, trials, before.around.loss)
    grads = torch.autograd.grad(loss, [*before.model.parameters(), *before.readout.parameters()])
    down = G @ torch.cat([g.reshape(-1) for g in grads[:3]]) * (-3 * ETA)
    down_y = down @ W.T - 3 * ETA * (h @ grads[3].T + grads[4])
    mask = trials.mask[..., None]
    return {
        "actual": {"states": (h_now - h) * mask, "outputs": (h_now @ W_now.T + b_now - h @ W.T - b) * mask},
        "linearisation": {"states": dh * mask, "outputs": dy * mask},
        "gradient flow": {"states": down * mask, "outputs": down_y * mask},
    }


def rows(x: torch.Tensor, kept: str) -> torch.Tensor:
    if kept == "":
        return x.reshape(1, -1)
    return (x.transpose(0, 1) if kept == "_by_time" else x).flatten(1)


@pytest.mark.parametrize("of", ["states", "outputs"])
@pytest.mark.parametrize("kept", ["", "_by_time", "_by_trial"])
@pytest.mark.rows(4)
def test_changes_are_those_of_dense_matrices(pair, of: str, kept: str) -> None:
    trials, before, now, data = pair
    right = references(trials, before, now)
    actual = rows(right["actual"][of], kept)
    size = actual.norm(dim=1)
    one = data.sel(change_of=of)
    np.testing.assert_allclose(np.atleast_1d(one[f"change_norm{kept}"]), size, rtol=1e-9)
    for name in ("linearisation", "gradient flow"):
        predicted = rows(right[name][of], kept)
        there = one.sel(prediction=name)
        cosine = (predicted * actual).sum(1) / predicted.norm(dim=1) / size
        np.testing.assert_allclose(np.atleast_1d(there[f"change_cosine{kept}"]), cosine, rtol=1e-9)
        ratio = predicted.norm(dim=1) / size
        np.testing.assert_allclose(np.atleast_1d(there[f"change_norm_ratio{kept}"]), ratio, rtol=1e-9)
        error = (actual - predicted).norm(dim=1) / size
        np.testing.assert_allclose(np.atleast_1d(there[f"change_error{kept}"]), error, rtol=1e-7)
    apart = one.sel(prediction="gradient flow")[f"change_error{kept}"]
    assert not np.allclose(apart, one.sel(prediction="linearisation")[f"change_error{kept}"], rtol=1e-2)


def test_sizes_are_counted_at_steps_that_exist_alone() -> None:
    """The figures of a padded trial are those that it has without its padding."""
    trials = trials_of()
    before = moment_of(trials, step=4)
    now = descended(before, trials, "mse", 1)
    short = trials.select([1])
    cut = Trials(
        short.inputs[:, :4], short.targets[:, :4], short.mask[:, :4], short.scored[:, :4], short.epoch[:, :4]
    )
    then = moment_of(cut, model=before.model, readout=before.readout, step=4)
    alone = moment_of(cut, model=now.model, readout=now.readout, step=5, previous=lambda: then)
    one, other = PredictedChange().measure(now), PredictedChange().measure(alone)
    at = {"prediction": "linearisation"}
    for name in ("change_cosine", "change_error", "change_norm_ratio"):
        found = one[f"{name}_by_trial"].isel(trial=1).sel(at)
        np.testing.assert_allclose(found, other[name].sel(at), rtol=1e-9)
    np.testing.assert_allclose(one.change_norm_by_trial.isel(trial=1), other.change_norm, rtol=1e-9)
    held = one.change_norm_by_trial.isel(trial=1).sel(change_of="states")
    h = [m.flow.trajectory.states[1] for m in (before, now)]
    assert float(held) < 0.99 * float((h[1] - h[0]).norm())  # the held state would have counted again


def test_the_change_of_the_loss_to_first_order(pair) -> None:
    trials, before, now, data = pair
    kind = before.around.loss
    with torch.no_grad():
        losses = [float(loss_of(one.model, one.readout, trials, kind)) for one in (before, now)]
    assert float(data.loss_change) == pytest.approx(losses[1] - losses[0], rel=1e-9)
    assert losses[1] < losses[0]
    parameters = [*before.model.parameters(), *before.readout.parameters()]
    grads = torch.autograd.grad(loss_of(before.model, before.readout, trials, kind), parameters)
    moved = [
        n.detach() - p.detach()
        for n, p in zip([*now.model.parameters(), *now.readout.parameters()], parameters, strict=True)
    ]
    first = float(sum((g * d).sum() for g, d in zip(grads, moved, strict=True)))
    flow = -3 * ETA * float(sum(g.square().sum() for g in grads))
    predicted = data.loss_change_predicted
    assert float(predicted.sel(prediction="linearisation")) == pytest.approx(first, rel=1e-9)
    assert float(predicted.sel(prediction="gradient flow")) == pytest.approx(flow, rel=1e-9)
    assert abs(first - flow) > 1e-4 * abs(flow)
    assert float(data.parameter_change_norm) == pytest.approx(
        math.sqrt(sum(float(d.square().sum()) for d in moved[:3])), rel=1e-9
    )


def test_one_small_step_of_descent_is_both_predictions() -> None:
    """A small eta: both predictions are right to first order, in size and direction."""
    trials = trials_of()
    before = moment_of(trials, learning_rate=ETA)
    now = descended(before, trials, "mse", 1)
    data = PredictedChange().measure(now)
    one, other = (data.change_error.sel(prediction=name) for name in data.prediction.values)
    np.testing.assert_allclose(one, other, rtol=1e-6)  # the parameters moved along the gradient
    assert 1e-6 < float(one.max()) < 0.05
    ten = descended(before, trials, "mse", 10)
    assert float(PredictedChange().measure(ten).change_error.max()) > 3 * float(one.max())


def test_without_a_learning_rate_there_is_a_direction_alone(pair) -> None:
    trials, before, now, data = pair
    kind = before.around.loss
    bare = moment_of(trials, kind, model=before.model, readout=before.readout, step=4, learning_rate=None)
    later = moment_of(
        trials, kind, model=now.model, readout=now.readout, step=7, previous=lambda: bare, learning_rate=None
    )  # fmt: skip
    found = PredictedChange().measure(later)
    np.testing.assert_allclose(found.change_cosine, data.change_cosine, rtol=1e-12)
    assert found.change_reason.item() == "no size of the gradient flow, as the learning rate is not known"
    for name in ("change_norm_ratio", "change_error", "loss_change_predicted"):
        assert bool(found[name].sel(prediction="gradient flow").isnull().all()), name
        np.testing.assert_allclose(
            found[name].sel(prediction="linearisation"),
            data[name].sel(prediction="linearisation"),
            rtol=1e-12,
        )


def test_no_change_is_said_and_not_divided_by() -> None:
    trials = trials_of()
    before = moment_of(trials, step=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = PredictedChange().measure(moment_of(trials, step=3, previous=lambda: before))
        start = PredictedChange().measure(moment_of(trials))
    assert data.change_reason.item() == "no change of states and outputs since step 2"
    assert float(data.change_norm.max()) == 0
    assert float(data.parameter_change_norm) == 0
    for name in ("change_cosine", "change_norm_ratio", "change_error_by_time", "change_error_by_trial"):
        assert bool(data[name].isnull().all()), name
    assert start.change_reason.item() == "no step was recorded before"
    assert set(start.data_vars) == set(data.data_vars)
    assert start.sizes == data.sizes
    assert bool(start.change_norm.isnull().all())
    moved = copy.deepcopy(before.readout)
    with torch.no_grad():
        moved.bias += 0.1
    one = PredictedChange().measure(moment_of(trials, step=3, readout=moved, previous=lambda: before))
    assert one.change_reason.item() == "no change of states since step 2"
    assert float(one.change_error.sel(change_of="outputs", prediction="linearisation")) < 1e-12


def test_what_is_recorded_follows_what_is_known() -> None:
    trials = trials_of(lengths=None)
    bare = moment_of(trials, readout=None)
    bare.readout = None
    data = PredictedChange().measure(bare)
    assert data.change_of.values.tolist() == ["states"]
    assert data.prediction.values.tolist() == ["linearisation"]
    assert "loss_change" not in data
    assert dict(data.sizes) == {"change_of": 1, "prediction": 1, "time": T, "trial": B}


def test_other_parameters_are_refused() -> None:
    trials = trials_of()
    before = moment_of(trials)
    model = Cell()
    model.b.requires_grad_(False)
    with pytest.raises(ArgumentError, match=r"step 0 \(parameter=28\), got \(parameter=24\)"):
        PredictedChange().measure(moment_of(trials, model=model, step=1, previous=lambda: before))
    other = Cell()
    other.again = torch.nn.Parameter(other.W.detach())
    other.W.requires_grad_(False)
    with pytest.raises(ArgumentError, match=r"step 0 .*W, U, b.*, got .*U, b, again"):
        PredictedChange().measure(moment_of(trials, model=other, step=1, previous=lambda: before))


def test_every_variable_is_described(pair) -> None:
    for name, variable in pair[3].variables.items():
        if not str(name).startswith("trial_"):
            assert set(variable.attrs) >= {"long_name", "units"}, name
    assert pair[3].loss_change.attrs["units"] == {"mse": "1", "cross_entropy": "nat"}[pair[2].around.loss]
