"""Exact kernels say what they take, and refuse more products than they may."""

from __future__ import annotations

import numpy as np
import pytest

from kpframe.errors import ArgumentError
from kpframe.study import create_quantity

from ...toy_moments import B, H, T, moment_of, trials_of  # noqa: TID252


@pytest.mark.parametrize(("name", "places"), [("time_kernel", T), ("trial_kernel", B)])
def test_a_kernel_takes_a_product_for_each_place_and_unit(name: str, places: int) -> None:
    moment = moment_of(trials_of())
    allowed = create_quantity(name, most=places * H)
    allowed.check(moment)
    np.testing.assert_array_equal(allowed.measure(moment)[name], create_quantity(name).measure(moment)[name])
    refused = create_quantity(name, most=places * H - 1)
    for ask in (refused.check, refused.measure):
        with pytest.raises(ArgumentError, match=rf"most: expected at least {places * H}, the products"):
            ask(moment)
