"""Every installed propagator and parameter operator satisfies the identities of its kind."""

from __future__ import annotations

import pytest

from kpframe.plugin import get_manager
from kpframe.plugin._core import core
from kpframe.testing import parametrize_with_checks

KINDS = ("propagator", "parameter_operator")


def offered() -> list[str]:
    """Return the forms that plugins offer; the core's are checked without plugins."""
    specs = [spec for kind in KINDS for spec in get_manager().specs(kind) if spec not in core().specs]
    return [f"{spec.kind}:{get_manager().plugin_of(spec).distribution}:{spec.name}" for spec in specs]


@parametrize_with_checks(offered())
@pytest.mark.rows(15)
def test_conformance(check) -> None:
    check()
