"""The conformance kit on both models, every setting drawn, steps that are too long included."""

from __future__ import annotations

import pytest

from kpframe.testing import parametrize_with_checks


@pytest.mark.filterwarnings("ignore::kpframe.errors.StabilityWarning")
@parametrize_with_checks(["hh"])
@pytest.mark.rows(20)
def test_conformance(check) -> None:
    check()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::kpframe.errors.StabilityWarning")
@parametrize_with_checks(["morris_lecar"])
def test_conformance_of_morris_lecar(check) -> None:
    check()
