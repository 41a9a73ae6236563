"""The loss's descent and the trace of Phi in parts, against the roll-out's dense Jacobian, step by step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr

from kpframe.errors import ArgumentError
from kpframe.study._moment import Moment
from kpframe.study._quantities.contributions import Contributions

from ...toy_moments import H, I, dense_jacobian, jacobian_by_step, moment_of, reseeded, trials_of  # noqa: TID252

NAMES = ["W", "U", "b"]
SIZES = [H * H, H * I, H]
EPOCHS = ["stimulus", "delay", "response"]


@pytest.fixture(scope="module", params=["mse", "cross_entropy"])
def moment(request) -> Moment:
    return moment_of(trials_of(request.param), request.param, budget=200)


@pytest.fixture(scope="module")
def data(moment: Moment) -> xr.Dataset:
    return Contributions().measure(moment)


@pytest.fixture(scope="module")
def G(moment: Moment) -> torch.Tensor:  # [B, T, H, S, M]
    found = jacobian_by_step(moment.model, moment.trials)
    whole = dense_jacobian(moment.model, moment.trials)
    torch.testing.assert_close(found.sum(dim=3), whole, rtol=1e-10, atol=1e-12)
    return found


@pytest.fixture(scope="module")
def err(moment: Moment) -> torch.Tensor:  # [B, T, H]
    """Return the derivative of the loss by the states through the readout, by autograd."""
    trials, readout = moment.trials, moment.readout
    h = moment.model.rollout(trials.inputs, mask=trials.mask).states.detach().requires_grad_()
    outputs, targets = readout(h)[trials.scored], trials.targets[trials.scored]
    if moment.around.loss == "mse":
        loss = torch.nn.functional.mse_loss(outputs, targets)
    else:
        loss = torch.nn.functional.cross_entropy(outputs, targets)
    (found,) = torch.autograd.grad(loss, h)
    return found


def where(moment: Moment) -> torch.Tensor:  # [epoch, B, T]
    return torch.stack([torch.from_numpy(moment.trials.epoch == name) for name in EPOCHS]).double()


def close(found: xr.DataArray, right: torch.Tensor) -> None:
    scale = float(right.abs().max())
    np.testing.assert_allclose(found, right, rtol=1e-9, atol=1e-10 * scale)
    assert found.shape == tuple(right.shape)
    assert right.ndim == 0 or float(right.std()) > 1e-2 * scale  # the parts differ from each other


@pytest.mark.rows(2)
def test_rates_are_products_of_gradients_of_parts(moment, data, G, err) -> None:
    g = torch.einsum("bthsm,bth->m", G, err)
    close(data.descent_rate, g @ g)
    close(data.descent_rate_by_parameter, torch.stack([part @ part for part in g.split(SIZES)]))
    assert data.parameter.values.tolist() == NAMES
    trials = torch.einsum("bthsm,bth->bm", G, err)
    close(data.descent_rate_by_trial, trials @ trials.T)
    close(data.descent_rate_by_time, torch.einsum("bthsm,bth->tm", G, err) @ g)
    close(data.descent_rate_by_acting_time, torch.einsum("bthsm,bth->sm", G, err) @ g)
    epochs = where(moment)
    taught = torch.einsum("bthsm,bth,ebt->em", G, err, epochs)
    close(data.descent_rate_by_epoch, taught @ taught.T)
    assert data.epoch.values.tolist() == EPOCHS
    acting = torch.einsum("bthsm,bth,ebt,fbs,m->ef", G, err, epochs, epochs, g)
    close(data.descent_rate_by_acting_epoch, acting)
    assert float(data.descent_rate_by_epoch.sel(epoch="stimulus").max()) == 0  # nothing is scored there
    assert float(acting.triu(1)[:2].abs().max()) == 0  # parameters that act later are not reached
    later, earlier = acting[2, 1], acting[1, 2]
    assert abs(float(later)) > 1e-3 * float(g @ g)
    assert float(earlier) == 0


def test_parts_of_the_trace(moment, data, G) -> None:
    exists = moment.trials.mask.double()
    whole = G.sum(dim=3) * exists[..., None, None]
    close(data.tangent_trace, whole.square().sum())
    parts = [part.square().sum() for part in whole.split(SIZES, dim=3)]
    close(data.tangent_trace_by_parameter, torch.stack(parts))
    close(data.tangent_trace_by_trial, whole.square().sum(dim=(1, 2, 3)))
    close(data.tangent_trace_by_time, whole.square().sum(dim=(0, 2, 3)))
    close(data.tangent_trace_by_acting_time, torch.einsum("bthsm,bthm->s", G, whole))
    close(data.tangent_trace_by_epoch, torch.einsum("bthm,ebt->e", whole.square(), where(moment)))
    for name in data.data_vars:
        if str(name).endswith("_stderr"):
            assert float(abs(data[name]).max()) == 0, name  # a vector for each entry: exact
    padded = G.sum(dim=3).square().sum()
    assert float(padded) > 1.2 * float(data.tangent_trace)  # held states would have counted again


def test_parts_add_up_to_the_whole(data, moment) -> None:
    few = Contributions().measure(moment_of(moment.trials, moment.around.loss, budget=8))
    for one in (data, few):
        for name, variable in one.data_vars.items():
            if "_by_" in str(name) and not str(name).endswith("_stderr"):
                whole = float(one[str(name).split("_by_")[0]])
                assert float(variable.sum()) == pytest.approx(whole, rel=1e-12), name


def test_estimates_are_within_their_standard_errors() -> None:
    """Few vectors: unbiased, with errors that cover what they miss and are not zero."""
    moment = moment_of(trials_of(), budget=200)
    data = Contributions().measure(moment)
    runs = [Contributions().measure(reseeded(moment, 12, seed)) for seed in range(25)]
    for name in ("tangent_trace", "tangent_trace_by_trial", "tangent_trace_by_acting_time"):
        values = np.stack([run[name].values for run in runs])
        errors = np.stack([run[f"{name}_stderr"].values for run in runs])
        right = data[name].values
        assert np.all(errors > 0), name
        spread = values.std(axis=0, ddof=1)
        assert np.all(abs(values.mean(axis=0) - right) < 4 * spread / np.sqrt(len(runs))), name
        ratio = np.sqrt((errors**2).mean(axis=0)) / spread
        assert np.all((ratio > 0.6) & (ratio < 1.6)), (name, ratio)
    assert float(runs[0].tangent_trace_stderr) < 0.5 * float(data.tangent_trace)
    exact = runs[0].tangent_trace_by_parameter_stderr
    whole = float((exact**2).sum()) ** 0.5  # of independent draws
    assert float(runs[0].tangent_trace_stderr) == pytest.approx(whole, rel=1e-9)
    assert whole < 0.99 * float(exact.sum())
    assert float(exact.sel(parameter="b")) == 0  # four entries, four vectors
    assert float(exact.sel(parameter="W")) > 0


def test_figures_follow_the_seed_and_the_step_alone(moment) -> None:
    def trace(**keywords: object) -> float:
        one = moment_of(moment.trials, moment.around.loss, budget=8, **keywords)
        return float(Contributions().measure(one).tangent_trace)

    assert trace() == trace()
    assert trace() != trace(step=1)
    assert trace() != trace(seed=1)


def test_a_readout_and_targets_are_needed(moment) -> None:
    bare = moment_of(moment.trials, moment.around.loss)
    bare.readout = None
    with pytest.raises(ArgumentError, match="readout"):
        Contributions().measure(bare)


def test_every_variable_is_described(data, moment) -> None:
    for name, variable in data.variables.items():
        if not str(name).startswith("trial_") or name == "trial_other":
            assert set(variable.attrs) >= {"long_name", "units"}, name
    unit = {"mse": "1", "cross_entropy": "nat"}[moment.around.loss]
    assert data.descent_rate_by_trial.attrs["units"] == unit
