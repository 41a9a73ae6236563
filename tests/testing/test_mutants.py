"""Every check catches a wrong implementation, with a message that leads to the fault."""

from __future__ import annotations

import pytest

from kpframe.testing._checks import check_model
from kpframe.testing.identities import REGISTRY
from kpframe.testing.mutants import MUTANTS, Mutant, flows

#: Those on ranks are caught in tests/distributed.
HERE = [mutant for mutant in MUTANTS if not mutant.ranks]


@pytest.mark.parametrize("mutant", HERE, ids=lambda mutant: mutant.name)
@pytest.mark.rows(40)
def test_every_mutant_is_caught_by_its_check(mutant: Mutant) -> None:
    result = mutant.result()
    assert result.verdict == "failed", f"{mutant.check} lets {mutant.wrong} pass"
    assert mutant.says in result.message
    assert result.message.startswith(f"{mutant.check}: ")
    if result.case:
        assert "\n  look at: " in result.message
        assert "\n  source: " in result.message


def test_every_check_has_a_mutant() -> None:
    checks = {(kind, name) for kind, identities in REGISTRY.items() for name in identities}
    assert checks == {(mutant.subject.kind, mutant.check) for mutant in MUTANTS}


@pytest.mark.parametrize(
    "check", ["A_equals_jacrev", "phi_equals_total_jacobian", "gradient_equals_backward"]
)
@pytest.mark.rows(3)
def test_a_sign_error_in_one_gate_shrinks(check: str) -> None:
    case = Mutant(flows.SignSlip, check, "").result().case
    assert "batch=1" in case
    assert any(f"time={time}," in case for time in (1, 2))
    assert any(f"'hidden_size': {size}" in case for size in (1, 2))
    assert "kind='normal'" in case


@pytest.mark.slow
def test_a_mutant_fails_few_other_checks() -> None:
    report = check_model(flows.NotTransposed, examples=10)
    failed = {result.name for result in report.failures}
    assert {"adjoint_of_A", "adjoint_of_P", "gradient_equals_backward"} <= failed
    assert not failed & {"A_equals_jacrev", "J_equals_jacrev", "step_is_pure", "taylor_slope", "causality"}


def test_a_failed_gate_stops_the_rest() -> None:
    mutant = next(mutant for mutant in MUTANTS if mutant.check == "state_shape")
    report = check_model(mutant.wrong, examples=3)
    assert [result.name for result in report.failures] == ["state_shape"]
    verdicts = {result.name: result for result in report.results}
    assert verdicts["factory_builds"].verdict == "passed"
    assert verdicts["phi_equals_total_jacobian"].verdict == "not run"
    assert verdicts["phi_equals_total_jacobian"].message == "not run: state_shape fails"
