"""The conformance kit on the model ``lstm``: whatever its settings draw, and all of it at once."""

from __future__ import annotations

import pytest
from kpframe_lstm.model import LSTM

from kpframe.testing import parametrize_with_checks


def projected_layers(input_size: int, hidden_size: int) -> LSTM:
    settings = {"num_layers": 2, "proj_size": hidden_size, "trainable_initial_state": True}
    return LSTM(input_size, hidden_size + 1, **settings)


@parametrize_with_checks(["lstm", projected_layers])
@pytest.mark.rows(20)
def test_conformance(check) -> None:
    check()
