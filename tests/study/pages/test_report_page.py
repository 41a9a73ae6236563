"""The page of ``kpframe demo`` against the dataset that it is made of."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import xarray as xr

from kpframe.study._report.html import write_report

from .checks_report import CHECKS
from .data import converged, study
from .page import Page, page_of

DATA = {
    "accuracy": study,
    "R^2, no labels, a rule that fails": lambda: study("test_r2", labelled=False, failing=True),
    "all values converged": lambda: converged(study()),
}


@cache
def made(kind: str) -> tuple[Page, xr.Dataset]:
    data = DATA[kind]()
    return page_of(write_report, data), data


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize(  # each draws a page of its own
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] * (place > 0)) for place, kind in enumerate(DATA)]
)
def test_the_page_says_what_the_dataset_says(check: Callable[[Page, xr.Dataset], None], kind: str) -> None:
    check(*made(kind))
