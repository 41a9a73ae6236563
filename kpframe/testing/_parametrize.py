"""``@parametrize_with_checks``: every check as a test of its own, in three lines."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import pytest

from kpframe.errors import ArgumentError, closest, mismatch, whole
from kpframe.testing._checks import Check, Subject
from kpframe.testing._identity import ON_RANKS, REGISTRY
from kpframe.testing._residual import CheckFailure, NotApplicable
from kpframe.testing._sources import source_of

#: Says on how many ranks models, rules and forms are checked, too; ``pytest --ranks`` sets it.
RANKS = "KPFRAME_CHECK_RANKS"

Test = TypeVar("Test", bound=Callable[..., object])


def ranks_asked_for() -> int:
    """Return on how many ranks to check, too; 0 for none.

    Raises:
        ArgumentError: when ``KPFRAME_CHECK_RANKS`` is no whole number >= 2.
    """
    text = os.environ.get(RANKS, "")
    if text in ("", "0"):
        return 0
    if not text.isdecimal() or int(text) < 2:
        raise ArgumentError(mismatch(RANKS, "a whole number >= 2", repr(text)))
    return int(text)


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
    items: Sequence[object],
    *,
    expected_failures: Mapping[str, str] | None = None,
    kind: str = "model",
    ranks: int | None = None,
) -> Callable[[Test], Test]:
    """Return a decorator that gives a test its argument ``check``, one test for each item and check.

    ::

        from kpframe.testing import parametrize_with_checks

        @parametrize_with_checks(["kuramoto"])
        def test_conformance(check):
            check()

    With ``pytest --ranks 2``, models, rules and forms have further tests: of flows whose trials two ranks of
    this machine share, beside one process.

    Args:
        items: registered names, specs, classes, factories or instances; ``"rule:bptt"``, ``"reducer:mean"``,
            ``"propagator:scan"``, ``"parameter_operator:gram"`` and ``"quantity:trace"`` choose another kind.
        expected_failures: check, or ``item-check``, -> reason. Such a check must fail: passing is an error.
        kind: what bare names are.
        ranks: give the tests on so many ranks alone, whatever pytest was asked for.

    Raises:
        ArgumentError: when an expected failure names no check; for a number of ranks below 2.
    """
    expected = dict(expected_failures or {})
    sources = [source_of(item, kind) for item in items]
    checks = [] if ranks is not None else [check for source in sources for check in Subject(source).checks()]
    number = ranks_asked_for() if ranks is None else whole(ranks, "ranks", 2)
    if number:
        shared = [Subject(source, number) for source in sources if source.kind in ON_RANKS]
        checks += [check for subject in shared for check in subject.checks()]
    known = {name for check in checks for name in (check.name, check.id)}
    elsewhere = {name for one in ON_RANKS for name in REGISTRY[f"{one}_on_ranks"]}
    for name in expected:
        if name not in known and name.rpartition("-")[2] not in elsewhere:
            raise ArgumentError(f"expected_failures: no check {name!r}{closest(name, known)}")
    parameters = []
    for check in checks:
        reason = expected.get(check.id, expected.get(check.name))
        marks = [] if reason is None else [pytest.mark.xfail(reason=reason, strict=True, raises=CheckFailure)]
        parameters.append(pytest.param(PytestCheck(check), id=check.id, marks=marks))
    return pytest.mark.parametrize("check", parameters)
