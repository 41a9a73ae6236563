"""The page of ``kpframe train`` and its lines on the terminal against the dataset."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import xarray as xr

from kpframe.report.training import write_training

from .checks_training import CHECKS
from .data import training
from .page import Page, page_of


@cache
def made(score: str) -> tuple[Page, xr.Dataset]:
    data = training(score, 150 if score == "test_r2" else 40)
    return page_of(write_training, data), data


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("score", ["test_accuracy", "test_r2"])
def test_the_page_says_what_the_dataset_says(check: Callable[[Page, xr.Dataset], None], score: str) -> None:
    check(*made(score))
