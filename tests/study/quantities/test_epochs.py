"""Loss and accuracy, or R^2, of parts of the trials, against sums written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from attrs import evolve

from kpframe.errors import ArgumentError
from kpframe.study._moment import Moment
from kpframe.study._quantities.epochs import LossByEpoch
from kpframe.tasks._error import accuracy, task_loss

from ...toy_moments import LENGTHS, T, moment_of, trials_of  # noqa: TID252

SCORES = {"mse": "r2", "cross_entropy": "accuracy"}


@pytest.fixture(scope="module", params=list(SCORES))
def moment(request) -> Moment:
    return moment_of(trials_of(request.param), request.param)


def loops(moment: Moment, chosen: np.ndarray) -> tuple[float, float, int]:
    """Return loss, score and number of the chosen steps, one by one."""
    trials = moment.trials
    outputs = moment.readout(moment.model.rollout(trials.inputs, mask=trials.mask).states).detach().numpy()
    targets, losses, hits, wanted, found = trials.targets.numpy(), [], [], [], []
    for b, t in np.argwhere(chosen & trials.scored.numpy()):
        y, target = outputs[b, t], targets[b, t]
        if moment.around.loss == "mse":
            losses.append(np.mean((y - target) ** 2))
            wanted.append(target)
            found.append(y)
        else:
            losses.append(np.log(np.exp(y).sum()) - y[target])
            hits.append(y.argmax() == target)
    if moment.around.loss == "mse":
        wanted, found = np.array(wanted), np.array(found)
        score = 1 - ((found - wanted) ** 2).sum() / ((wanted - wanted.mean(axis=0)) ** 2).sum()
    else:
        score = np.mean(hits)
    return float(np.mean(losses)), float(score), len(losses)


def test_figures_by_epoch_and_by_time(moment) -> None:
    data, score = LossByEpoch().measure(moment), SCORES[moment.around.loss]
    assert data.epoch.values.tolist() == ["stimulus", "delay", "response"]  # padding is no epoch
    for name in ("delay", "response"):
        one = data.sel(epoch=name)
        found = (one.loss_by_epoch, one[f"{score}_by_epoch"], one.scored_by_epoch)
        np.testing.assert_allclose([float(x) for x in found], loops(moment, moment.trials.epoch == name))
    for t in range(1, T):
        one = data.isel(time=t)
        found = (one.loss_by_time, one[f"{score}_by_time"], one.scored_by_time)
        chosen = np.broadcast_to(np.arange(T) == t, moment.trials.mask.shape)
        np.testing.assert_allclose([float(x) for x in found], loops(moment, chosen))
    assert data.scored_by_time.values.tolist() == [0, 6, 6, 5, 4, 3, 2]
    assert float(abs(data.loss_by_epoch[1] - data.loss_by_epoch[2])) > 1e-3


def test_what_is_not_scored_has_no_figures(moment) -> None:
    data, score = LossByEpoch().measure(moment), SCORES[moment.around.loss]
    for one in (data.sel(epoch="stimulus"), data.isel(time=0)):
        for name in one.data_vars:
            if "time" not in one.coords or one[name].ndim == 0:
                assert float(one[name]) == 0 if "scored" in str(name) else np.isnan(float(one[name])), name
    assert int(data.scored_by_epoch.sum()) == sum(LENGTHS) - len(LENGTHS)
    assert bool(data[f"{score}_by_epoch"][1:].notnull().all())


def test_losses_times_steps_add_up_to_the_whole(moment) -> None:
    data = LossByEpoch().measure(moment)
    trials = moment.trials
    outputs = moment.readout(moment.flow.trajectory.states).detach()
    whole = float(task_loss(outputs, trials, moment.around.loss))
    for dim in ("epoch", "time"):
        counts = data[f"scored_by_{dim}"]
        mean = float((data[f"loss_by_{dim}"] * counts).sum() / counts.sum())
        assert mean == pytest.approx(whole, rel=1e-12)
    one = evolve(trials, scored=trials.mask & torch.from_numpy(trials.epoch == "delay"))
    score = SCORES[moment.around.loss]
    right = accuracy(outputs, one)
    assert float(data[f"{score}_by_epoch"].sel(epoch="delay")) == pytest.approx(right, rel=1e-12)


def test_targets_that_do_not_vary_have_no_r2() -> None:
    """The mean of many equal numbers need not be exactly equal to them."""
    trials = trials_of()
    targets = trials.targets.clone()
    chosen = torch.from_numpy(trials.epoch == "delay")
    targets[chosen] = torch.tensor([0.3, 0.9, 3.7], dtype=torch.float64)
    assert float((targets[chosen] - targets[chosen].mean(dim=0)).abs().max()) > 0
    data = LossByEpoch().measure(moment_of(evolve(trials, targets=targets)))
    assert np.isnan(float(data.r2_by_epoch.sel(epoch="delay")))
    assert float(data.loss_by_epoch.sel(epoch="delay")) > 0
    assert not np.isnan(float(data.r2_by_epoch.sel(epoch="response")))


def test_a_readout_and_targets_are_needed(moment) -> None:
    bare = moment_of(moment.trials, moment.around.loss)
    bare.readout = None
    with pytest.raises(ArgumentError, match="readout"):
        LossByEpoch().measure(bare)


def test_every_variable_is_described(moment) -> None:
    data = LossByEpoch().measure(moment)
    for name, variable in data.variables.items():
        assert set(variable.attrs) >= {"long_name", "units"}, name
    unit = {"mse": "1", "cross_entropy": "nat"}[moment.around.loss]
    assert data.loss_by_epoch.attrs["units"] == unit
