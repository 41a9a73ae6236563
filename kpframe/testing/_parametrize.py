"""``@parametrize_with_checks``: every check as a test of its own, in three lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import pytest

from kpframe.errors import ArgumentError, closest
from kpframe.testing._checks import Check, Subject
from kpframe.testing._residual import CheckFailure, NotApplicable
from kpframe.testing._sources import source_of

Test = TypeVar("Test", bound=Callable[..., object])


class PytestCheck:
    """A check as pytest calls it: what is not applicable is skipped, with the reason."""

    def __init__(self, check: Check) -> None:
        self.check = check

    @property
    def name(self) -> str:
        """The check's name."""
        return self.check.name

    def __call__(self) -> None:
        """Draw cases and raise ``CheckFailure`` when one fails."""
        __tracebackhide__ = True
        try:
            self.check()
        except NotApplicable as reason:
            pytest.skip(str(reason))

    def __repr__(self) -> str:
        return self.check.id


def parametrize_with_checks(
    items: Sequence[object], *, expected_failures: Mapping[str, str] | None = None, kind: str = "model"
) -> Callable[[Test], Test]:
    """Return a decorator that gives a test its argument ``check``, one test for each item and check.

    ::

        from kpframe.testing import parametrize_with_checks

        @parametrize_with_checks(["kuramoto"])
        def test_conformance(check):
            check()

    Args:
        items: registered names, specs, classes, factories or instances; ``"rule:bptt"``, ``"reducer:mean"``,
            ``"propagator:scan"``, ``"parameter_operator:gram"`` and ``"quantity:trace"`` choose another kind.
        expected_failures: check, or ``item-check``, -> reason. Such a check must fail: passing is an error.
        kind: what bare names are.

    Raises:
        ArgumentError: when an expected failure names no check.
    """
    expected = dict(expected_failures or {})
    checks = [check for item in items for check in Subject(source_of(item, kind)).checks()]
    known = {name for check in checks for name in (check.name, check.id)}
    for name in expected:
        if name not in known:
            raise ArgumentError(f"expected_failures: no check {name!r}{closest(name, known)}")
    parameters = []
    for check in checks:
        reason = expected.get(check.id, expected.get(check.name))
        marks = [] if reason is None else [pytest.mark.xfail(reason=reason, strict=True, raises=CheckFailure)]
        parameters.append(pytest.param(PytestCheck(check), id=check.id, marks=marks))
    return pytest.mark.parametrize("check", parameters)
