"""The conformance kit: on every way to make a network, and on whatever the settings draw."""

from __future__ import annotations

import pytest

from kpframe import Model, create_model
from kpframe.testing import parametrize_with_checks

STACK, RATE, CURRENT = {"num_layers": 2}, {"form": "rate", "alpha": 0.4}, {"form": "current", "alpha": 0.4}
DALE = {"excitatory_fraction": 0.6}
#: Settings that change the maths, three by three, so that a check draws them as it draws sizes.
WAYS: list[list[dict[str, object]]] = [
    [
        {**STACK, **CURRENT, "trainable_initial_state": True},
        {"density": 0.6, "self_connections": False, **RATE},
        {"input_noise": 0.3, "state_noise": 0.2, **STACK, **RATE},
    ],
    [
        {**DALE, **STACK, "trainable_initial_state": True},
        {**DALE, "rectifier": "relu", "nonlinearity": "relu"},
        {**DALE, "rectifier": "softplus", "density": 0.7, "gain": 1.0},
    ],
    [
        {"rank": 1, **STACK},
        {"rank": 1, "gain": 1.0, **CURRENT},
        {"rank": 1, "gain": 1.0, "train_bulk": True, "density": 0.6},
    ],
]


def every_way(hidden_size: int, row: int, column: int) -> Model:
    settings = {"hidden_size": hidden_size, **WAYS[row - 1][column - 1]}
    if "state_noise" in settings:
        return create_model("noisy_rnn", input_size=2, **settings)
    return create_model("rnn", input_size=2, **settings)


@parametrize_with_checks([every_way])
@pytest.mark.rows(8)
def test_every_way(check) -> None:
    check()


@pytest.mark.slow
@parametrize_with_checks(["rnn", "noisy_rnn"])
def test_whatever_the_settings_draw(check) -> None:
    check()
