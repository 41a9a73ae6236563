"""The page of ``kpframe compare`` and its lines on the terminal against the dataset."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import xarray as xr

from kpframe.report.comparison import write_comparison

from .checks_comparison import CHECKS
from .data import comparison
from .page import Page, page_of


@cache
def made() -> tuple[Page, xr.Dataset]:
    data = comparison()
    return page_of(write_comparison, data), data


@pytest.mark.parametrize("check", CHECKS)
def test_the_page_says_what_the_dataset_says(check: Callable[[Page, xr.Dataset], None]) -> None:
    check(*made())
