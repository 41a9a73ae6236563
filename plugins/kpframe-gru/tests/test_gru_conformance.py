"""The conformance kit on the model ``gru``: whatever its settings draw, and layers that reset before."""

from __future__ import annotations

import pytest
from kpframe_gru.model import GRU

from kpframe.testing import parametrize_with_checks


def reset_before_layers(input_size: int, hidden_size: int) -> GRU:
    return GRU(input_size, hidden_size, num_layers=2, reset="before", trainable_initial_state=True)


@parametrize_with_checks(["gru", reset_before_layers])
@pytest.mark.rows(20)
def test_conformance(check) -> None:
    check()
