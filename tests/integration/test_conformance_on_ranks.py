"""The conformance kit on two ranks of this machine: all bundled models and forms, and rules."""

from __future__ import annotations

import pytest

from kpframe.plugin import get_manager
from kpframe.testing import parametrize_with_checks

from .bundled import MODELS

#: Those that draw by trial, that solve, that keep single eligibilities, that weigh parameters ...
RULES = (
    "bptt",
    "truncated_bptt",
    "snap1",
    "rflo",
    "dfa",
    "low_rank_projection",
    "clipped",
    "uoro",
    "kf_rtrl",
)
FORMS = [
    f"{kind}:{one.name}" for kind in ("propagator", "parameter_operator") for one in get_manager().specs(kind)
]


@parametrize_with_checks([*MODELS, *(f"rule:{name}" for name in RULES), *FORMS], ranks=2)
@pytest.mark.rows(100)
def test_conformance(check) -> None:
    check()
