"""The page of ``kpframe demo`` against the dataset that it is made of."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import xarray as xr

from kpframe.report.html import write_report

from .checks_report import CHECKS
from .data import study
from .page import Page, page_of


@cache
def made(score: str) -> tuple[Page, xr.Dataset]:
    data = study(score, labelled=score == "test_accuracy")
    return page_of(write_report, data), data


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("score", ["test_accuracy", "test_r2"])
def test_the_page_says_what_the_dataset_says(check: Callable[[Page, xr.Dataset], None], score: str) -> None:
    check(*made(score))
