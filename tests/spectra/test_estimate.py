from __future__ import annotations

import math

import pytest
from attrs.exceptions import FrozenInstanceError

from kpframe.errors import ArgumentError
from kpframe.spectra import Estimate


@pytest.mark.parametrize(
    ("value", "stderr", "text"),
    [
        (0.1234, 0.0041, "0.123 ± 0.004"),
        (123.4, 5.0, "123 ± 5"),
        (1234567.0, 89000.0, "(1.23 ± 0.09)e+6"),
        (1.23e-7, 4e-9, "(1.23 ± 0.04)e-7"),
        (-2.5, 0.1, "-2.5 ± 0.1"),
        (2.5, 0.0, "2.5 ± 0"),
        (0.0, 0.3, "0.0 ± 0.3"),
        (2.5, math.inf, "2.5 ± inf"),
    ],
)
def test_prints_the_digits_that_stand(value: float, stderr: float, text: str) -> None:
    assert repr(Estimate(value, stderr, 60, "xtrace")) == f"{text} (xtrace, 60 products)"


def test_is_a_number_with_an_interval() -> None:
    estimate = Estimate(2.0, 0.5, 60, "xtrace")
    assert float(estimate) == 2.0
    assert estimate.interval() == pytest.approx((2 - 1.959964 * 0.5, 2 + 1.959964 * 0.5), rel=1e-6)
    assert estimate.interval(0.5)[1] < estimate.interval(0.99)[1]
    assert Estimate(2.0, 0.0, 3, "exact").interval() == (2.0, 2.0)
    assert Estimate(2.0, 0.0, 3, "exact").exact
    assert not estimate.exact
    with pytest.raises(ArgumentError, match="level: expected a number between 0 and 1, got 1"):
        estimate.interval(1)


def test_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Estimate(2.0, 0.5, 60, "xtrace").value = 3.0  # type: ignore[misc]
