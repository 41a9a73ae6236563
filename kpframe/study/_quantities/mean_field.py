"""The infinitely wide random network ``s_t = phi(W s_{t-1} + U x_t + b)``: its covariances and operators.

Entries of W, U and b are normal of variances ``v_w/n``, ``v_u/m`` and ``v_b``, and a step of learning moves
each in proportion to its variance. With ``shift`` to the step before, on both sides, and 0 before the first::

    S_h = v_w shift(S_s) + v_u X X^T / m + v_b      S_s = E[phi phi]      D = E[phi' phi']
    K -> D o S_h        Phi -> D o (S_h + v_w shift(Phi))        P P* -> p_t = 1 + v_w D_tt p_{t-1}

are the limits of ``tr_hidden / n``, that of ``P P*`` on the diagonal and 0 elsewhere.

Sources: Yang 2020, arXiv 2006.14548; Alemohammad, Wang, Balestriero & Baraniuk 2021, arXiv 2006.10246.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

#: The functions phi, on tensors.
NONLINEARITIES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "tanh": torch.tanh,
    "erf": torch.erf,
    "relu": torch.relu,
}
#: Nodes of the Gauss-Hermite rule in each of two directions.
NODES = 60


def expectations(covariance: np.ndarray, nonlinearity: str) -> tuple[np.ndarray, np.ndarray]:
    """Return ``E[phi(u_a) phi(u_b)]`` and ``E[phi'(u_a) phi'(u_b)]`` of Gaussian u, each ``[N, N]``.

    In closed form for erf (Williams 1997) and relu (Cho, Saul 2009), for tanh by quadrature.
    """
    variances = np.diag(covariance)
    if nonlinearity == "erf":
        sizes = np.sqrt(np.outer(1 + 2 * variances, 1 + 2 * variances))
        values = 2 / np.pi * np.arcsin(np.clip(2 * covariance / sizes, -1, 1))
        return values, 4 / np.pi / np.sqrt(np.maximum(sizes**2 - 4 * covariance**2, 0))
    sizes = np.sqrt(np.outer(variances, variances))
    cosines = np.clip(np.divide(covariance, sizes, out=np.ones_like(sizes), where=sizes > 0), -1, 1)
    if nonlinearity == "relu":
        angles = np.arccos(cosines)
        values = sizes * (np.sin(angles) + (np.pi - angles) * cosines) / (2 * np.pi)
        return values, (np.pi - angles) / (2 * np.pi)
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    weights = weights / weights.sum()
    values, slopes = np.empty_like(sizes), np.empty_like(sizes)
    scales = np.sqrt(variances)
    for a in range(len(sizes)):
        first = np.tanh(scales[a] * nodes)
        # u_b = scale_b (c z + sqrt(1 - c^2) z') for u_a = scale_a z
        mixed = cosines[a][:, None, None] * nodes[:, None]
        mixed = mixed + np.sqrt(1 - cosines[a] ** 2)[:, None, None] * nodes
        second = np.tanh(scales[:, None, None] * mixed)
        values[a] = (weights * first) @ second @ weights
        slopes[a] = (weights * (1 - first**2)) @ (1 - second**2) @ weights
    return values, slopes


def limits(
    x: np.ndarray, *, recurrent: float, inputs: float, bias: float, nonlinearity: str
) -> dict[str, np.ndarray]:
    """Return the limits of ``tr_hidden / n`` of K, Phi and ``P P*``, ``[B, T, B, T]`` each.

    Args:
        x: inputs ``[B, T, m]``; the state before the first step is 0.
        recurrent, inputs, bias: v_w, v_u and v_b.
        nonlinearity: one of ``NONLINEARITIES``.
    """
    batch, time, width = x.shape
    shape = (batch, time, batch, time)
    drive = inputs * np.einsum("bti,csi->btcs", x, x) / width + bias
    covariance, slopes = drive, np.zeros_like(drive)
    for _ in range(time):  # each time one more step from the start is as it will be
        found = expectations(covariance.reshape(batch * time, -1), nonlinearity)
        states, slopes = (one.reshape(shape) for one in found)
        covariance = drive + recurrent * _shifted(states)
    Phi: np.ndarray = np.zeros(shape)
    for _ in range(time):
        Phi = slopes * (covariance + recurrent * _shifted(Phi))
    arrived, p = np.zeros(shape), np.zeros(batch)
    for t in range(time):
        trials = np.arange(batch)
        p = 1 + recurrent * slopes[trials, t, trials, t] * p
        arrived[trials, t, trials, t] = p
    return {"P P*": arrived, "K": slopes * covariance, "Phi": Phi}


def _shifted(values: np.ndarray) -> np.ndarray:  # [B, T, B, T]
    found = np.zeros_like(values)
    found[:, 1:, :, 1:] = values[:, :-1, :, :-1]
    return found
