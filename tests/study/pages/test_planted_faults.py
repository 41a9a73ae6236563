"""Faults planted in the code between networks and readers, and in files: every one of them is noticed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from . import (
    checks_study,
    faults_of_checkpoints,
    faults_of_comparisons,
    faults_of_files,
    faults_of_reports,
    faults_of_studies,
)
from .planting import Fault, noticed

FAULTS: tuple[Fault, ...] = (
    *faults_of_reports.FAULTS,
    *faults_of_comparisons.FAULTS,
    *faults_of_studies.FAULTS,
    *faults_of_files.FAULTS,
    *faults_of_checkpoints.FAULTS,
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.what.replace(" ", "-"))
@pytest.mark.rows(5)
def test_it_is_noticed(fault: Fault) -> None:
    assert noticed(fault), f"{fault.file} can say {fault.what}, and no check fails"


@pytest.mark.parametrize("check", dict.fromkeys(fault.check for fault in FAULTS))
def test_the_check_passes_without_a_fault(check: Callable[[], None]) -> None:
    check()


def test_every_check_of_studies_has_a_fault() -> None:
    assert set(checks_study.CHECKS) <= {fault.check for fault in FAULTS}


def test_there_are_many_and_all_differ() -> None:
    assert len(FAULTS) == len({fault.what for fault in FAULTS}) == len({fault.source for fault in FAULTS})
    assert len(FAULTS) >= 50
