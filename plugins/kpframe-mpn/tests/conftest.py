"""What the tests of the model ``mpn`` share: seeded problems and an independent loop."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch

from kpframe import Model, create_model
from kpframe.errors import StabilityWarning

INPUTS, NEURONS, TRIALS, STEPS = 2, 3, 2, 4

#: Every form, rule, normalization, nonlinearity and shape of the rates, several of them at once.
VARIANTS = {
    "default": {},
    "additive": {"form": "additive"},
    "presynaptic": {"rule": "presynaptic", "eta_shape": "post"},
    "additive presynaptic": {"form": "additive", "rule": "presynaptic", "normalization": "row"},
    "oja": {"rule": "oja", "lam_shape": "pre"},
    "additive anti-oja": {"form": "additive", "rule": "oja", "eta": -0.4, "eta_shape": "pre"},
    "unit rows": {"normalization": "row", "eta_shape": "matrix", "eta_constraint": "positive"},
    "additive unit rows, oja": {"form": "additive", "rule": "oja", "normalization": "row", "lam_max": 0.9},
    "tanh of M": {"normalization": "tanh", "nonlinearity": "sigmoid", "lam_shape": "post"},
    "additive tanh of M, oja": {"form": "additive", "rule": "oja", "normalization": "tanh", "bias": False},
    "relu": {"nonlinearity": "relu", "lam_shape": "matrix", "train_eta": False},
    "identity": {"nonlinearity": "identity", "form": "additive", "train_lam": False, "eta_shape": "matrix"},
    "fixed rates": {
        "train_eta": False,
        "train_lam": False,
        "eta": (0.3, -0.5, 0.2),
        "eta_shape": "post",
        "lam": (0.9, 0.4),
        "lam_shape": "pre",
    },
}


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> dict[str, object]:
    return VARIANTS[request.param]


@pytest.fixture
def make() -> Callable[..., Model]:
    """Return a maker of float64 networks with plasticity that matters; no parameter is left at zero."""

    def build(seed: int = 3, **settings: object) -> Model:
        settings = {"input_size": INPUTS, "hidden_size": NEURONS, "eta": 0.5, "lam": 0.8} | settings
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", StabilityWarning)  # a few steps do not blow up
            model = create_model("mpn", **settings, seed=seed).double()
        generator = torch.Generator().manual_seed(seed + 100)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.4 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        return model

    return build


@pytest.fixture
def x(draw) -> torch.Tensor:
    return draw(TRIALS, STEPS, INPUTS, seed=11)


@pytest.fixture
def h0(draw) -> torch.Tensor:
    return 0.5 * draw(TRIALS, NEURONS + NEURONS * INPUTS, seed=5)


@pytest.fixture
def mask() -> torch.Tensor:
    """The second trial ends after two of the four steps."""
    return torch.arange(STEPS) < torch.tensor([[STEPS], [2]])


def _rate(rate: object) -> np.ndarray:
    """Return a rate for every synapse, from its raw parameter by the textbook formulas."""
    if rate.fixed is not None:
        return np.full((NEURONS, INPUTS), rate.fixed)
    raw = rate.raw.detach().numpy()
    if rate.trained and rate.range.low == 0:
        raw = np.log(1 + np.exp(raw)) if math.isinf(rate.range.high) else rate.range.high / (1 + np.exp(-raw))
    return {
        "scalar": lambda: raw,
        "pre": lambda: raw[None],
        "post": lambda: raw[:, None],
        "matrix": lambda: raw,
    }[rate.shape]() * np.ones((NEURONS, INPUTS))


PHI = {
    "tanh": math.tanh,
    "sigmoid": lambda u: 1 / (1 + math.exp(-u)),
    "relu": lambda u: max(u, 0.0),
    "identity": lambda u: u,
}


@pytest.fixture
def loop() -> Callable[..., torch.Tensor]:
    """Return a roll-out by loops over trials, steps, neurons and synapses, one equation at a time."""

    def run(model: Model, x: torch.Tensor, h0: torch.Tensor | None = None, order: str = "") -> torch.Tensor:
        """``order``: ``"new M"`` reads the new M for h, ``"old h"`` writes the old h into M."""
        W = model.weight_ih_l0.detach().numpy()
        n, k = W.shape
        b = np.zeros(n) if model.bias_ih_l0 is None else model.bias_ih_l0.detach().numpy()
        eta, lam, phi = _rate(model.eta), _rate(model.lam), PHI[model.nonlinearity]
        states = np.zeros((*x.shape[:2], model.width))
        for trial, inputs in enumerate(x.numpy()):
            start = model.initial_state(len(x)).detach() if h0 is None else h0
            h, M = start[trial, :n].numpy().copy(), start[trial, n:].numpy().reshape(n, k).copy()

            def activity(i: int, M: np.ndarray, row: np.ndarray) -> float:
                u = b[i]
                for j in range(k):
                    u += (W[i, j] + M[i, j] if model.form == "additive" else W[i, j] * (1 + M[i, j])) * row[j]
                return phi(u)

            for t, row in enumerate(inputs):
                new_h = np.array([activity(i, M, row) for i in range(n)])
                post = h if order == "old h" else new_h
                new_M = np.zeros((n, k))
                for i in range(n):
                    for j in range(k):
                        change = row[j] / n**0.5 if model.rule == "presynaptic" else post[i] * row[j]
                        new_M[i, j] = lam[i, j] * M[i, j] + eta[i, j] * change
                        if model.rule == "oja":
                            new_M[i, j] -= abs(eta[i, j]) * post[i] ** 2 * M[i, j]
                    if model.normalization == "row":
                        new_M[i] = new_M[i] / sum(m**2 for m in new_M[i]) ** 0.5
                    elif model.normalization == "tanh":
                        new_M[i] = [math.tanh(m) for m in new_M[i]]
                h = np.array([activity(i, new_M, row) for i in range(n)]) if order == "new M" else new_h
                M = new_M
                states[trial, t] = np.concatenate([h, M.ravel()])
        return torch.from_numpy(states)

    return run
