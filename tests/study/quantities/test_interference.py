"""Groups of trials in pairs, against the dense Jacobian of the roll-out and losses of one group alone."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import xarray as xr
from attrs import evolve

from kpframe.errors import ArgumentError, SettingsError
from kpframe.study._moment import Moment
from kpframe.study._quantities.interference import Interference

from ...toy_moments import Cell, dense_jacobian, moment_of, reseeded, trials_of  # noqa: TID252

GROUPS = {"a": [0, 2, 4], "b": [1, 5], "c": [3]}


@pytest.fixture(scope="module", params=["mse", "cross_entropy"])
def moment(request) -> Moment:
    return moment_of(trials_of(request.param), request.param, budget=200)


@pytest.fixture(scope="module")
def data(moment: Moment) -> xr.Dataset:
    return Interference(by="task").measure(moment)


def group_loss(moment: Moment, model: Cell, rows: list[int]) -> torch.Tensor:
    trials = moment.trials.select(rows)
    outputs = moment.readout(model.rollout(trials.inputs, mask=trials.mask).states)[trials.scored]
    targets = trials.targets[trials.scored]
    if moment.around.loss == "mse":
        return torch.nn.functional.mse_loss(outputs, targets)
    return torch.nn.functional.cross_entropy(outputs, targets)


@pytest.fixture(scope="module")
def gradients(moment: Moment) -> torch.Tensor:  # [group, M]
    found = []
    for rows in GROUPS.values():
        parts = torch.autograd.grad(group_loss(moment, moment.model, rows), list(moment.model.parameters()))
        found.append(torch.cat([part.reshape(-1) for part in parts]))
    return torch.stack(found)


def test_gradients_and_losses_are_those_of_each_group_alone(moment, data, gradients) -> None:
    assert data.group.values.tolist() == ["a", "b", "c"]
    assert data.group_trials.values.tolist() == [3, 2, 1]
    assert data.group_scored.values.tolist() == [13, 7, 6]  # a step less than each trial has
    losses = [float(group_loss(moment, moment.model, rows).detach()) for rows in GROUPS.values()]
    np.testing.assert_allclose(data.group_loss, losses, rtol=1e-10)
    sizes = gradients.norm(dim=1)
    np.testing.assert_allclose(data.group_gradient_norm, sizes, rtol=1e-9)
    products = gradients @ gradients.T
    np.testing.assert_allclose(data.group_gradient_cosine, products / torch.outer(sizes, sizes), rtol=1e-9)
    np.testing.assert_allclose(data.group_loss_change, -products, rtol=1e-9)
    np.testing.assert_allclose(data.group_loss_change_per_length, -products / sizes[:, None], rtol=1e-9)
    apart = data.group_gradient_cosine.values[np.triu_indices(3, 1)]
    assert np.ptp(apart) > 0.05
    assert np.all(abs(apart) < 0.999)


def test_a_small_step_on_one_group_changes_the_losses_as_said(moment, data, gradients) -> None:
    """Finite differences: a step of length eps down the gradient of each group."""
    eps = 1e-6
    for row, name in enumerate(GROUPS):
        moved = [copy.deepcopy(moment.model) for _ in range(2)]
        for sign, model in zip((1, -1), moved, strict=True):
            start = 0
            with torch.no_grad():
                for parameter in model.parameters():
                    step = gradients[row, start : start + parameter.numel()].reshape(parameter.shape)
                    parameter -= sign * eps * step / gradients[row].norm()
                    start += parameter.numel()
        for other, rows in GROUPS.items():
            there, back = (float(group_loss(moment, model, rows).detach()) for model in moved)
            said = float(data.group_loss_change_per_length.sel(group=name, group_other=other))
            assert said == pytest.approx((there - back) / (2 * eps), rel=1e-5)
    one = data.group_loss_change_per_length
    assert not np.allclose(one, one.values.T, rtol=1e-2)  # group and group_other are not the same


def right_kernels(moment: Moment) -> tuple[torch.Tensor, torch.Tensor]:
    G = dense_jacobian(moment.model, moment.trials)
    mask = moment.trials.mask
    blocks = [G[rows][mask[rows]].flatten(0, 1) for rows in GROUPS.values()]
    norms = torch.stack([torch.stack([(a @ b.T).norm() for b in blocks]) for a in blocks])
    overlap = norms**2 / torch.outer(norms.diagonal(), norms.diagonal())
    means = torch.stack(
        [
            ((G[rows] * mask[rows][..., None, None]).sum(0) / mask[rows].sum(0).clamp(min=1)[:, None, None])
            for rows in GROUPS.values()
        ]
    ).flatten(1)
    unit = means / means.norm(dim=1, keepdim=True)
    return overlap, unit @ unit.T


@pytest.mark.rows(2)
def test_kernels_are_those_of_dense_blocks(moment, data) -> None:
    overlap, cosines = right_kernels(moment)
    np.testing.assert_allclose(data.group_overlap, overlap, rtol=1e-9)
    np.testing.assert_allclose(data.group_jacobian_cosine, cosines, rtol=1e-9)
    for name in ("group_overlap", "group_jacobian_cosine"):
        assert float(data[f"{name}_stderr"].max()) == 0
        apart = data[name].values[np.triu_indices(3, 1)]
        assert np.all(apart < 0.98), name
        assert np.ptp(apart) > 0.02, name


def test_estimated_kernels_are_within_their_standard_errors() -> None:
    moment = moment_of(trials_of())
    runs = [Interference(by="task").measure(reseeded(moment, 20, seed)) for seed in range(25)]
    upper = np.triu_indices(3, 1)
    for name, right in zip(("group_overlap", "group_jacobian_cosine"), right_kernels(moment), strict=True):
        values = np.stack([run[name].values[upper] for run in runs])
        errors = np.stack([run[f"{name}_stderr"].values[upper] for run in runs])
        apart = np.abs(values - right.numpy()[upper])
        assert np.all(errors > 0), name
        assert 0.8 <= float((apart <= 2 * errors).mean()) < 1, name
        spread = values.std(axis=0, ddof=1)
        ratio = np.sqrt((errors**2).mean(axis=0)) / spread
        assert np.all((ratio > 0.5) & (ratio < 2)), (name, ratio)
        assert np.all(np.abs(values.mean(axis=0) - right.numpy()[upper]) < 0.1), name
    diagonal = runs[0].group_overlap.values.diagonal()
    np.testing.assert_allclose(diagonal, 1, rtol=1e-12)


def test_the_first_coordinate_that_makes_groups_is_taken(moment, data) -> None:
    """``angle`` comes first and has a value for each trial."""
    xr.testing.assert_equal(Interference().measure(moment), data)
    every = Interference(by="angle").measure(moment)
    assert every.group.values.tolist() == ["0.0", "0.1", "0.2", "0.30000000000000004", "0.4", "0.5"]
    assert every.sizes["group"] == 6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"by": "tasks"}, r"by: expected a coordinate of the trials \(angle \(6 values\), task \(3 values\)\)"
                          r", got 'tasks'; did you mean 'task'\?"),
        ({"by": "angle", "most": 5}, r"2 to 5 groups \(most = 5\), got 'angle' with 6; the trials have"),
        ({"most": 2}, r"by: expected a coordinate that puts the trials into 2 to 2 groups .* got none such"),
    ],
)  # fmt: skip
def test_what_makes_no_groups_is_refused_before_training(moment, settings, message) -> None:
    for call in (Interference(**settings).check, Interference(**settings).measure):
        with pytest.raises(ArgumentError, match=message):
            call(moment)
    Interference(by="task").check(moment)


def test_settings_are_checked() -> None:
    with pytest.raises(SettingsError, match="most"):
        Interference(most=1)


def test_a_group_without_a_scored_step_has_no_gradient(moment) -> None:
    trials = moment.trials
    scored = trials.scored.clone()
    scored[3] = False
    found = Interference(by="task").measure(
        moment_of(evolve(trials, scored=scored), moment.around.loss, budget=200)
    )
    last = found.sel(group="c")
    assert float(last.group_gradient_norm) == 0
    assert bool(last.group_gradient_cosine.isnull().all())
    assert bool(last.group_loss.isnull())
    assert int(last.group_scored) == 0
    np.testing.assert_allclose(found.group_overlap, right_kernels(moment)[0], rtol=1e-9)
    rest = found.group_gradient_cosine.sel(group=["a", "b"], group_other=["a", "b"])
    assert bool(rest.notnull().all())


def test_every_variable_is_described(data) -> None:
    for name, variable in data.variables.items():
        assert set(variable.attrs) >= {"long_name", "units"}, name
    assert data.group.attrs["long_name"] == "trials of one task"
