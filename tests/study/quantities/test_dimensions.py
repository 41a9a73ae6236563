"""Dimensions of signals, against second moments written out."""

from __future__ import annotations

import numpy as np
import pytest

from kpframe.rules._update import Update
from kpframe.study._quantities.dimensions import Dimensions

from ...toy_moments import LENGTHS, B, Cell, H, O, T, moment_of, trials_of  # noqa: TID252

THERE = np.arange(T) < np.array(LENGTHS)[:, None]


def ratio(rows: np.ndarray) -> float:
    values = np.linalg.eigvalsh(rows.T @ rows)
    return float(values.sum() ** 2 / (values**2).sum())


def test_dimensions_are_those_of_second_moments() -> None:
    first = moment_of(trials_of())
    moment = moment_of(trials_of(), model=Cell(seed=4), step=2, first=lambda: first)
    data = Dimensions().measure(moment).dimension
    flow, trials = moment.flow, moment.trials
    err = Update.exact(flow, moment.readout).incoming(output_err=moment.output_err).reshape(-1)
    P, K = flow.P.to_dense(), flow.K.to_dense()
    scored = trials.scored.numpy()
    states, before = (one.flow.trajectory.states.numpy() for one in (moment, first))
    wanted = {
        "inputs": trials.inputs.numpy()[THERE],
        "states": states[THERE],
        "state change": (states - before)[THERE],
        "targets": trials.targets.numpy()[scored],
        "output error": moment.output_err.numpy()[scored],
        "P* Err": (P.T @ err).numpy().reshape(B, T, H)[THERE],
        "K P* Err": (K @ P.T @ err).numpy().reshape(B, T, H)[THERE],
        "Phi Err": (P @ K @ P.T @ err).numpy().reshape(B, T, H)[THERE],
    }
    assert set(wanted) == set(data.signal.values.tolist())
    found = {name: float(data.sel(signal=name)) for name in wanted}
    assert found == pytest.approx({name: ratio(rows) for name, rows in wanted.items()}, rel=1e-9)
    assert len({round(value, 6) for value in found.values()}) == len(found)
    start = Dimensions().measure(first).dimension
    assert np.isnan(float(start.sel(signal="state change")))


def test_classes_count_as_one_hot_vectors() -> None:
    moment = moment_of(trials_of("cross_entropy"), "cross_entropy")
    counts = np.bincount(moment.trials.targets[moment.trials.scored].numpy(), minlength=O).astype(float)
    wanted = counts.sum() ** 2 / (counts**2).sum()
    assert float(Dimensions().measure(moment).dimension.sel(signal="targets")) == pytest.approx(
        wanted, rel=1e-12
    )
