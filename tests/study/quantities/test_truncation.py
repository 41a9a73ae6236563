"""What truncation loses, against matrices written out from the step Jacobians."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kpframe.rules._update import Update
from kpframe.study._quantities.truncation import Truncation

from ...toy_moments import LENGTHS, B, H, T, moment_of, reseeded, trials_of  # noqa: TID252

N = B * T * H


def propagators(moment) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the existing entries of the states, and P_0, P_1, ..., P_T among them."""
    A = moment.flow.A.blocks().numpy()  # [B, T, H, H]
    step = np.zeros((B, T, H, B, T, H))
    for b in range(B):
        for t in range(1, T):
            step[b, t, :, b, t - 1, :] = A[b, t]
    step = step.reshape(N, N)
    there = (np.arange(T) < np.array(LENGTHS)[:, None])[..., None].repeat(H, 2).reshape(-1)
    found, power = [np.zeros((N, N))], np.eye(N)
    for _ in range(T):
        found.append(found[-1] + power)
        power = step @ power
    return there, found


def test_errors_are_those_of_the_matrices() -> None:
    moment = moment_of(trials_of())
    data = Truncation(draws=N, windows=(1, 2, 4, 7)).measure(moment)
    there, P = propagators(moment)
    K = moment.flow.K.to_dense().numpy()
    inside = np.ix_(there, there)
    Phi = (P[T] @ K @ P[T].T)[inside]
    err = Update.exact(moment.flow, moment.readout).incoming(output_err=moment.output_err).numpy().reshape(-1)
    J = moment.flow.J.to_dense().numpy()
    g = J.T @ P[T].T @ err
    for k in (1, 2, 4, 7):
        one = data.sel(window=k)
        left = np.linalg.norm((P[T] - P[k])[inside]) / np.linalg.norm(P[T][inside])
        flow = np.linalg.norm(Phi - (P[T] @ K @ P[k].T)[inside]) / np.linalg.norm(Phi)
        g_k = J.T @ P[k].T @ err
        for name, wanted in (
            ("truncation_error", left),
            ("truncation_flow_error", flow),
            ("truncation_gradient_error", np.linalg.norm(g - g_k) / np.linalg.norm(g)),
            ("truncation_gradient_cosine", g @ g_k / np.linalg.norm(g) / np.linalg.norm(g_k)),
            ("truncation_descent", g @ g_k / (g @ g)),
        ):
            assert float(one[name]) == pytest.approx(wanted, rel=1e-10, abs=1e-12), (name, k)
    assert np.all(np.diff(data.truncation_error) < 0)
    assert float(data.truncation_error[0]) > 0.3
    assert float(data.truncation_flow_error[-1]) == 0
    assert data.truncation_error_stderr.values.tolist() == [0] * 4


def test_few_draws_come_near_and_say_how_near() -> None:
    moment = moment_of(trials_of())
    exact = Truncation(draws=N).measure(moment)
    assert exact.window.values.tolist() == [1, 2, 4, 7]
    within = []
    for seed in range(20):
        again = reseeded(moment, moment.around.budget, seed)  # of the same flow
        found = Truncation(draws=12).measure(again).isel(window=slice(3))
        for name in ("truncation_error", "truncation_flow_error"):
            gap = np.abs(found[name] - exact[name].isel(window=slice(3)))
            assert float(gap.max()) > 1e-4
            within.append(gap.values < 2.2 * found[f"{name}_stderr"].values)
    assert 0.85 < np.mean(within) < 1


def test_without_targets_there_is_no_gradient() -> None:
    moment = moment_of(trials_of())
    moment.readout = None
    data = Truncation().measure(moment)
    assert "truncation_descent" not in data
    assert torch.isfinite(torch.tensor(data.truncation_flow_error.values)).all()
