"""The datasets of studies against matrices and against a training beside them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .checks_study import CHECKS


@pytest.mark.parametrize("check", CHECKS)
def test_a_study_keeps_what_there_is(check: Callable[[], None]) -> None:
    check()
