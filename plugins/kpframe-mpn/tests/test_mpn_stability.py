"""Rates that make the modulations explode: told at construction where known, named at roll-out where not."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from kpframe import create_model, linearize
from kpframe.errors import NonFiniteError, StabilityWarning

FIXED = {"train_eta": False, "train_lam": False}
LINEAR = {"form": "additive", "nonlinearity": "identity", **FIXED}

WARNED = {
    "no decay": ({"lam": 1.0, "train_lam": False}, "lam = 1: the modulations M do not decay"),
    "growth": ({"lam": 1.2, "lam_max": 1.5, "train_lam": False}, "lam = 1.2: .* do not decay"),
    "range": ({"lam_max": 1.5}, "lam_max = 1.5: lambda may train to where M does not decay"),
    "presynaptic": ({"lam": 1.0, "train_lam": False, "rule": "presynaptic"}, "do not decay"),
    "oja grows": ({"lam": 1.1, "lam_max": 1.1, "train_lam": False, "rule": "oja"}, "do not decay"),
    "one of many": ({"lam": (1.0, 0.5), "lam_shape": "pre", "train_lam": False}, "lam = 1: "),
    "linear": ({**LINEAR, "eta": 0.2, "lam": 0.9}, "M of neuron 0 is multiplied by 1.3 a step, and identity"),
    "anti-Hebbian": ({**LINEAR, "eta": -1.0, "lam": 0.9}, "multiplied by -1.1 a step"),
    "relu": (
        {**LINEAR, "nonlinearity": "relu", "eta": 0.2, "lam": 0.9},
        "multiplied by 1.3 a step, and relu",
    ),
    "oja, linear": ({**LINEAR, "rule": "oja", "eta": 1.1, "lam": 0.9}, "multiplied by 3.1 a step"),
}

SILENT = {
    "default": {},
    "rows": {"lam": 1.0, "train_lam": False, "normalization": "row"},
    "tanh of M": {**LINEAR, "eta": 5.0, "lam": 1.0, "normalization": "tanh"},
    "oja itself": {"lam": 1.0, "train_lam": False, "rule": "oja"},
    "linear": {**LINEAR, "eta": 0.04, "lam": 0.9},
    "anti-Hebbian": {**LINEAR, "eta": -0.9, "lam": 0.9},
    "relu": {**LINEAR, "nonlinearity": "relu", "eta": -1.0, "lam": 0.9},
    "oja, linear": {**LINEAR, "rule": "oja", "eta": 0.5, "lam": 0.9},
    "presynaptic": {**LINEAR, "rule": "presynaptic", "eta": 5.0, "lam": 0.9},
}


def make(settings):
    return create_model("mpn", input_size=2, hidden_size=3, seed=1, **settings).double()


@pytest.mark.parametrize("case", WARNED)
def test_known_explosions_are_told_at_construction(case) -> None:
    settings, message = WARNED[case]
    with pytest.warns(StabilityWarning, match=message):
        make(settings)


@pytest.mark.parametrize("case", SILENT)
def test_others_are_silent(case) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(SILENT[case])


@pytest.mark.parametrize("case", WARNED)
@pytest.mark.rows(3)
def test_what_is_told_happens(case) -> None:
    """M grows without bound under constant input of unit size (or what lambda can train to, see 'range')."""
    settings, _ = WARNED[case]
    with pytest.warns(StabilityWarning):
        model = make(settings)
    sizes = lengths(model)
    if case == "range":
        assert sizes[-1] < 20
        with torch.no_grad():
            model.lam.raw.fill_(2.0)
        sizes = lengths(model)
    ended = sizes[~np.isfinite(sizes)]
    assert len(ended) or sizes[-1] > 1.5 * sizes[len(sizes) // 2] > 2 * sizes[len(sizes) // 8]


@pytest.mark.parametrize("case", SILENT)
@pytest.mark.rows(3)
def test_what_is_not_told_does_not(case) -> None:
    sizes = lengths(make(SILENT[case]))
    assert np.isfinite(sizes).all()
    assert sizes[len(sizes) // 2 :].max() < 1.05 * sizes[: len(sizes) // 2].max()


def lengths(model) -> np.ndarray:
    """Return the norm of M along 800 steps of constant input."""
    with torch.no_grad():
        return model.rollout(torch.ones(1, 800, 2, dtype=torch.float64)).component("M")[0].norm(dim=1).numpy()


@pytest.mark.parametrize(("eta", "lam", "growth"), [(0.2, 0.9, 1.3), (-1.0, 0.9, -1.1)])
def test_the_factor_a_step(eta, lam, growth) -> None:
    with pytest.warns(StabilityWarning, match=f"multiplied by {growth} a step"):
        model = make({**LINEAR, "eta": eta, "lam": lam})
    x = torch.tensor([1.0, -1.0], dtype=torch.float64).expand(1, 300, 2)
    with torch.no_grad():
        M = model.rollout(x).component("M")[0]
    np.testing.assert_allclose((M[-1] / M[-2]).numpy(), growth, rtol=1e-9)


def first_non_finite(W: np.ndarray, x: np.ndarray, eta: float, lam: float) -> tuple[int, str, int]:
    """Return step, component and unit at which a linear additive network leaves the finite numbers."""
    M = np.zeros_like(W)
    with np.errstate(over="ignore", invalid="ignore"):
        for t, row in enumerate(x):
            h = W @ row + M @ row
            M = lam * M + eta * np.outer(h, row)
            for name, values in (("h", h), ("M", M.ravel())):
                if not np.isfinite(values).all():
                    return t, name, int(np.flatnonzero(~np.isfinite(values))[0])
    raise AssertionError("it stays finite")


@pytest.mark.parametrize("size", [40.0, 1e5])
def test_an_explosion_is_named_where_it_begins(size) -> None:
    """Step, trial, component and unit; the first trial gets no input and stays where it is."""
    with pytest.warns(StabilityWarning):
        model = make({**LINEAR, "eta": 3.0, "lam": 0.9, "bias": False})
    x = torch.zeros(2, 150, 2, dtype=torch.float64)
    x[1] = size
    x[1, :, 1] /= 2
    t, component, unit = first_non_finite(model.weight_ih_l0.detach().numpy(), x[1].numpy(), 3.0, 0.9)
    where = f"first at step {t}, trial 1, component '{component}', unit {unit}"
    with pytest.raises(NonFiniteError, match=f"roll-out: expected finite numbers, got -?(inf|nan) {where}"):
        linearize(model, x)
    flow = linearize(model, x[:, :t])
    assert float(flow.trajectory.states[1, -1].abs().max()) > 1e200


def test_a_rate_that_is_no_number_is_named() -> None:
    model = make({})
    with torch.no_grad():
        model.eta.raw.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match=r"parameter eta\.raw: expected finite numbers, got nan"):
        linearize(model, torch.zeros(1, 2, 2, dtype=torch.float64))
