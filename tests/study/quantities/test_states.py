"""Principal components of states, against the singular value decomposition of the states themselves."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from kpframe import Readout
from kpframe.errors import SettingsError
from kpframe.study._moment import Moment
from kpframe.study._quantities.states import States

from ...toy_moments import F64, LENGTHS, B, Cell, H, O, T, moment_of, trials_of  # noqa: TID252


@pytest.fixture(scope="module")
def moment() -> Moment:
    return moment_of(trials_of())


@pytest.fixture(scope="module")
def states(moment: Moment) -> np.ndarray:  # [n, H]
    """Return the states at the steps that exist, trial by trial."""
    trials = moment.trials
    found = moment.model.rollout(trials.inputs, mask=trials.mask).states.detach().numpy()
    return np.concatenate([found[b, :length] for b, length in enumerate(LENGTHS)])


def test_components_are_singular_vectors_of_the_centred_states(moment, states) -> None:
    data = States(k=3).measure(moment)
    centred = states - states.mean(axis=0)
    _, values, vectors = np.linalg.svd(centred, full_matrices=False)
    shares = values**2 / (values**2).sum()
    np.testing.assert_allclose(data.pc_explained, shares[:3], rtol=1e-9)
    assert float(data.state_participation_ratio) == pytest.approx(1 / (shares**2).sum(), rel=1e-9)
    np.testing.assert_allclose(data.state_mean, states.mean(axis=0), rtol=1e-9)
    for found, right in zip(data.pc_direction.values, vectors, strict=False):
        assert found[abs(found).argmax()] > 0
        np.testing.assert_allclose(found * np.sign(found @ right), right, rtol=1e-7, atol=1e-9)
    held = moment.flow.trajectory.states.reshape(-1, H).numpy()
    padded = np.linalg.svd(held - held.mean(axis=0))[1] ** 2
    assert abs(padded[0] / padded.sum() - shares[0]) > 1e-3  # held states would have counted


def test_trajectories_are_projections(moment, states) -> None:
    data = States(k=2, trajectories=4).measure(moment)
    directions, mean = data.pc_direction.values, states.mean(axis=0)
    h = moment.flow.trajectory.states.numpy()
    assert data.pc_trajectory.shape == (4, T, 2)
    for trial in range(4):
        length = LENGTHS[trial]
        right = (h[trial, :length] - mean) @ directions.T
        np.testing.assert_allclose(data.pc_trajectory[trial, :length], right, rtol=1e-9, atol=1e-12)
        assert bool(data.pc_trajectory[trial, length:].isnull().all())
    for t in range(T):
        there = [b for b in range(B) if t < LENGTHS[b]]
        right = (h[there, t].mean(axis=0) - mean) @ directions.T
        np.testing.assert_allclose(data.pc_mean_trajectory[t], right, rtol=1e-9, atol=1e-12)
    assert States(trajectories=0).measure(moment).pc_trajectory.shape == (0, T, 3)
    assert States(trajectories=99).measure(moment).pc_trajectory.shape == (B, T, 3)


def test_rows_of_the_readout(moment) -> None:
    readout = Readout(H, O, hidden=slice(1, 3), generator=5, dtype=F64)
    with torch.no_grad():
        readout.weight[2] = 0
    data = States(k=2).measure(moment_of(moment.trials, readout=readout))
    rows = readout.full_weight().detach().numpy()
    inside = rows @ data.pc_direction.values.T
    np.testing.assert_allclose(data.pc_readout, inside, rtol=1e-9, atol=1e-12)
    right = (inside[:2] ** 2).sum(axis=1) / (rows[:2] ** 2).sum(axis=1)
    np.testing.assert_allclose(data.pc_readout_share[:2], right, rtol=1e-9)
    assert np.all((right > 0.01) & (right < 0.99))
    assert np.isnan(float(data.pc_readout_share[2]))
    whole = States(k=H).measure(moment)
    np.testing.assert_allclose(whole.pc_readout_share, 1, rtol=1e-9)
    bare = moment_of(moment.trials)
    bare.readout = None
    assert "pc_readout" not in States().measure(bare)


def moment_with(W: torch.Tensor, U: torch.Tensor, b: torch.Tensor) -> Moment:
    model = Cell()
    with torch.no_grad():
        for parameter, value in zip((model.W, model.U, model.b), (W, U, b), strict=True):
            parameter.copy_(value)
    return moment_of(trials_of(), model=model)


def test_directions_of_no_variance_are_none() -> None:
    """Two units that see one input each: two components, and no third."""
    U = torch.zeros(H, 2, dtype=F64)
    U[0, 0] = U[1, 1] = 1
    none = torch.zeros(H, dtype=F64)
    data = States(k=4).measure(moment_with(torch.zeros(H, H, dtype=F64), U, none))
    assert bool(data.pc_direction[:2].notnull().all())
    assert bool(data.pc_direction[2:].isnull().all())
    np.testing.assert_allclose(data.pc_explained[2:], 0, atol=1e-15)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        still = States().measure(moment_with(torch.zeros(H, H, dtype=F64), 0 * U, none + 0.3))
    assert np.isnan(float(still.state_participation_ratio))
    for name in ("pc_explained", "pc_direction", "pc_trajectory"):
        assert bool(still[name].isnull().all()), name


def test_signs_do_not_depend_on_how_equal_entries_are_rounded() -> None:
    """Two units of opposite sign follow one input: their entries are equal in size."""
    found = []
    for scale in (1.0, 1 + 1e-12, 1 - 1e-12):
        U = torch.zeros(H, 2, dtype=F64)
        U[1, 0], U[2, 0] = scale, -1
        found.append(
            States(k=1).measure(moment_with(torch.zeros(H, H, dtype=F64), U, U[:, 1])).pc_direction[0]
        )
    for one in found:
        np.testing.assert_allclose(one, [0, np.sqrt(0.5), -np.sqrt(0.5), 0], rtol=1e-6, atol=1e-9)


def test_settings_are_checked_and_bounded_by_the_width(moment) -> None:
    assert States(k=99).measure(moment).sizes["pc"] == H
    for settings in ({"k": 0}, {"trajectories": -1}):
        with pytest.raises(SettingsError):
            States(**settings)


def test_every_variable_is_described(moment) -> None:
    for name, variable in States().measure(moment).variables.items():
        assert set(variable.attrs) >= {"long_name", "units"}, name
