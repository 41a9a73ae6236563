"""The page of ``kpframe compare`` and its lines on the terminal against the dataset."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import xarray as xr

from kpframe.study._report.comparison import write_comparison

from .checks_comparison import CHECKS
from .data import comparison, converged
from .page import Page, page_of

DATA = {
    "one": lambda: comparison(1),
    "two, a rule that fails": lambda: comparison(2, failing=True),
    "all values converged": lambda: converged(comparison(1)),
}


@cache
def made(kind: str) -> tuple[Page, xr.Dataset]:
    data = DATA[kind]()
    return page_of(write_comparison, data), data


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize(  # each draws a page of its own
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] * (place > 0)) for place, kind in enumerate(DATA)]
)
def test_the_page_says_what_the_dataset_says(check: Callable[[Page, xr.Dataset], None], kind: str) -> None:
    check(*made(kind))
