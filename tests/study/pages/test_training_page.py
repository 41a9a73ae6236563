"""The page of ``kpframe train`` and its lines on the terminal against the dataset."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import xarray as xr

from kpframe.study._report.training import write_training

from .checks_training import CHECKS
from .data import seeds, training
from .page import Page, page_of

DATA = {
    "R^2": training,
    "accuracy": lambda: training("test_accuracy", 40),
    "three seeds": seeds,
}


@cache
def made(kind: str) -> tuple[Page, xr.Dataset]:
    data = DATA[kind]()
    return page_of(write_training, data), data


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize(  # each draws a page of its own
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] * (place > 0)) for place, kind in enumerate(DATA)]
)
def test_the_page_says_what_the_dataset_says(check: Callable[[Page, xr.Dataset], None], kind: str) -> None:
    check(*made(kind))
