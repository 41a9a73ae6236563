"""Distances and effective ranks of parameters, against NumPy."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from kpframe.errors import ArgumentError
from kpframe.study._quantities.parameters import Parameters

from ...toy_moments import F64, Cell, H, moment_of, trials_of  # noqa: TID252


def rank(matrix: np.ndarray) -> float:
    squares = np.linalg.svd(matrix)[1] ** 2
    return float(squares.sum() ** 2 / (squares**2).sum())


def test_distances_and_ranks() -> None:
    trials = trials_of()
    first = moment_of(trials)
    model, readout = copy.deepcopy(first.model), copy.deepcopy(first.readout)
    source = torch.Generator().manual_seed(3)
    low = torch.outer(*torch.randn(2, H, generator=source, dtype=F64))
    with torch.no_grad():
        model.W += low
        model.b += 0.5
        readout.weight *= 2
    data = Parameters().measure(moment_of(trials, model=model, readout=readout, step=3, first=lambda: first))
    assert data.parameter.values.tolist() == ["W", "U", "b"]
    W, W_0 = (one.W.detach().numpy() for one in (model, first.model))
    one = data.sel(parameter="W")
    assert float(one.parameter_norm) == pytest.approx(np.linalg.norm(W), rel=1e-12)
    assert float(one.parameter_rank) == pytest.approx(rank(W), rel=1e-9)
    assert float(one.parameter_distance) == pytest.approx(float(low.norm()), rel=1e-12)
    assert float(one.parameter_distance_relative) == pytest.approx(
        float(low.norm()) / np.linalg.norm(W_0), rel=1e-12
    )
    assert float(one.parameter_change_rank) == pytest.approx(1, rel=1e-9)
    assert float(one.parameter_rank) > 1.2
    still, vector = data.sel(parameter="U"), data.sel(parameter="b")
    assert float(still.parameter_distance) == 0
    assert np.isnan(float(still.parameter_change_rank))
    assert np.isnan(float(vector.parameter_rank))
    assert float(vector.parameter_distance) == pytest.approx(1, rel=1e-12)  # 4 entries of 1/2
    assert float(data.parameter_first_step) == 0
    assert float(data.readout_distance_relative) == pytest.approx(1, rel=1e-12)
    assert float(data.readout_change_rank) == pytest.approx(rank(readout.weight.detach().numpy()), rel=1e-9)


def test_before_training_nothing_has_moved_and_later_it_must_be_known() -> None:
    start = Parameters().measure(moment_of(trials_of()))
    assert start.parameter_distance.values.tolist() == [0, 0, 0]
    later = Parameters().measure(moment_of(trials_of(), step=3))
    assert bool(later.parameter_distance.isnull().all())
    assert np.isnan(float(later.parameter_first_step))
    np.testing.assert_array_equal(later.parameter_norm, start.parameter_norm)
    model = Cell()
    with torch.no_grad():
        model.b.zero_()
    first = moment_of(trials_of(), model=model)
    grown = Parameters().measure(moment_of(trials_of(), step=3, first=lambda: first))
    assert np.isnan(float(grown.parameter_distance_relative.sel(parameter="b")))  # relative to 0
    assert float(grown.parameter_distance.sel(parameter="b")) > 0


def test_other_parameters_are_refused() -> None:
    first = moment_of(trials_of(), model=Cell(width=H + 1))
    with pytest.raises(ArgumentError, match=r"the parameters of the first network .*'W': \(5, 5\)"):
        Parameters().measure(moment_of(trials_of(), step=1, first=lambda: first))
