"""The conformance kit's identities on the structural rules, a few cases each.

Rules that need the paths of a step are drawn on weight sites alone.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kpframe.testing._cases import RuleCase
from kpframe.testing._checks import Subject
from kpframe.testing._residual import NotApplicable
from kpframe.testing._sources import source_of
from kpframe.testing.strategies import TOYS, flows, settings_for

ANY_MODEL = ["rtrl", "snap1", "snap_n", "truncated_bptt"]
PATHS = ["duhamel", "rflo", "eprop", "kernl", "gate_stop", "h_detach"]


def cases(rule: str) -> st.SearchStrategy[RuleCase]:
    toys = TOYS if rule in ANY_MODEL else TOYS[:1]
    flow = st.one_of(*(flows(toy) for toy in toys))
    return st.builds(RuleCase, rule=st.just(rule), settings=settings_for(f"rule:{rule}"), flow=flow)


@pytest.mark.parametrize("rule", ANY_MODEL + PATHS)
@settings(max_examples=3, suppress_health_check=list(HealthCheck))
@given(data=st.data())
@pytest.mark.rows(10)
def test_identities(rule, data) -> None:
    case = data.draw(cases(rule))
    held = set()
    for check in Subject(source_of(f"rule:{rule}")).checks():
        if not check.identity.gate or check.name == "update_shape":
            try:
                check.identity.verify(case)
                held.add(check.name)
            except NotApplicable:
                assert check.name == "exact_rule_equals_backward"
    assert len(held) >= 7
    assert ("exact_rule_equals_backward" in held) == (rule == "rtrl")
