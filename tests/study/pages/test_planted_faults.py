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

#: Checks that take seconds: a training beside a study, or under several rules.
LONG = (
    *(checks_study.check_demo, checks_study.check_classes),
    *(checks_study.check_train, checks_study.check_errors_of_training),
)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(fault, id=fault.what.replace(" ", "-"), marks=[pytest.mark.slow] * (fault.check in LONG))
        for fault in FAULTS
    ],
)
@pytest.mark.rows(20)
def test_it_is_noticed(fault: Fault) -> None:
    assert noticed(fault), f"{fault.file} can say {fault.what}, and no check fails"


@pytest.mark.parametrize(
    "check",
    [
        pytest.param(check, marks=[pytest.mark.slow] * (check in LONG[1:]))
        for check in dict.fromkeys(fault.check for fault in FAULTS)
    ],
)
@pytest.mark.rows(9)
def test_the_check_passes_without_a_fault(check: Callable[[], None]) -> None:
    check()


def test_every_check_of_studies_has_a_fault() -> None:
    assert set(checks_study.CHECKS) <= {fault.check for fault in FAULTS}


def test_there_are_many_and_all_differ() -> None:
    assert len(FAULTS) == len({fault.what for fault in FAULTS}) == len({fault.source for fault in FAULTS})
    assert len(FAULTS) >= 50
