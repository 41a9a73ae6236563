"""The conformance kit on ranks: what is right passes, what only one process keeps fails with a message."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
from attrs import frozen

import kpframe.plugin
from kpframe.errors import ArgumentError
from kpframe.plugin import ModelSpec, hookimpl, setting
from kpframe.testing import check_on_ranks, parametrize_with_checks
from kpframe.testing._checks import Check, Subject
from kpframe.testing._identity import REGISTRY, identity_named
from kpframe.testing._ranks import figures
from kpframe.testing._report import Result
from kpframe.testing._sources import source_of
from kpframe.testing._toys import Elman
from kpframe.testing.mutants import ranks
from kpframe.testing.mutants.mutant import Mutant
from kpframe.testing.mutants.rules import Exact

#: Those of a kind that say most, in the order of the kinds.
TOLD = (
    "Divided-phi",
    "Gathering-sent",
    "DrawsByPlace-update",
    "DividedScan-propagator",
    "NoSum-parameter_operator",
)


def name_of(mutant: Mutant) -> str:
    return f"{mutant.wrong.__name__}-{mutant.check.removesuffix('_on_ranks')}"


def mutant_named(told: str) -> Mutant:
    (found,) = (one for one in ranks.MUTANTS if name_of(one) == told)
    return found


def checked(spec: object, name: str, number: int = 2, examples: int = 1) -> Result:
    subject = Subject(source_of(spec), number)
    return Check(subject, identity_named(subject.kind, name)).result(examples)


@pytest.mark.slow
def test_a_model_and_a_rule_pass_on_uneven_shares() -> None:
    report = check_on_ranks(Elman, examples=1)
    assert report.passed, str(report)
    assert report.label == "Elman on 2 ranks"
    assert [result.name for result in report.results] == list(REGISTRY["model_on_ranks"])
    for result in report.results:
        assert (result.verdict, result.cases, result.partners) == ("passed", 1, 1)
        assert result.error < 1e-14
    for name in REGISTRY["rule_on_ranks"]:
        result = checked(Exact, name)
        assert (result.verdict, result.partners) == ("passed", 1), result.message


@pytest.mark.parametrize(
    "told",
    [
        pytest.param(name, marks=() if name in TOLD else pytest.mark.slow)
        for name in map(name_of, ranks.MUTANTS)
    ],
)
def test_what_only_one_process_keeps_is_found(told: str) -> None:
    mutant = mutant_named(told)
    result = mutant.result(1)
    assert result.verdict == "failed"
    assert mutant.says in result.message
    assert result.case.startswith("RanksCase(case=")
    assert result.case.endswith("shares=(2, 1))")
    if told == "Divided-phi":
        assert re.search(r"\[batch \d, time 0, .*expected -?[\d.e-]+, got -?[\d.e-]+ \(rel", result.message)


@pytest.mark.slow
def test_a_rank_that_fails_ends_the_check_with_what_it_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "GRACE", 1)
    mutant = mutant_named("FailsAlone-phi")
    result = mutant.result(3)
    assert result.verdict == "failed"
    assert mutant.says in result.message
    assert "in _apply" in result.message
    assert 'raise IndexError("index 1 is out of bounds")' in result.message
    assert re.search(r"rank 0 (waited for it|failed: )", result.message)
    assert checked(Elman, "phi_on_ranks").verdict == "passed"  # on new ranks


SOURCE = """
    import torch
    from kpframe.testing._toys import Elman

    class Mine(Elman):
        pass

    class Wrong(Elman):
        def rollout(self, x, h0=None, mask=None):
            return super().rollout(x / len(x), h0, mask)
"""


@pytest.fixture
def module(tmp_path: Path) -> Iterator[str]:
    """A module that no other process finds by its name."""
    path = tmp_path / "kpf_told_by_file.py"
    path.write_text(textwrap.dedent(SOURCE))
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    made = sys.modules[path.stem] = module_from_spec(spec)
    spec.loader.exec_module(made)
    yield path.stem
    del sys.modules[path.stem]


@frozen
class Sizes:
    input_size: int = setting(ge=1, help="inputs")
    hidden_size: int = setting(ge=1, help="units")


class Plugin:
    def __init__(self, module: str) -> None:
        self.module = module

    @hookimpl
    def kpframe_models(self) -> Iterator[ModelSpec]:
        yield ModelSpec("mine", f"{self.module}:Mine", settings=Sizes, summary="mine")


def test_ranks_find_modules_by_their_files_and_plugins_that_are_there_for_a_while(module: str) -> None:
    for name, verdict in (("Mine", "passed"), ("Wrong", "failed")):
        result = checked(getattr(sys.modules[module], name), "trajectory_on_ranks")
        assert result.verdict == verdict, result.message
    with kpframe.plugin.temporary(Plugin(module)):
        result = checked("mine", "trajectory_on_ranks")
    assert result.verdict == "passed", result.message


def test_what_cannot_be_checked_on_ranks_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"a rule, a propagator.* to check on ranks, got a reducer: mean"):
        check_on_ranks("reducer:mean")
    with pytest.raises(ArgumentError, match=r"ranks: expected a whole number >= 2, got 1"):
        check_on_ranks(Elman, 1)

    class Here(Elman):
        pass

    result = checked(Here, "trajectory_on_ranks")
    assert "expected what other processes can import: a name, or a class or a function of a module" in (
        result.message
    )


def test_tests_on_ranks_are_there_where_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def names() -> list[str]:
        expected = {"Elman-phi_on_ranks": "known"}
        return [row.id for row in parametrize_with_checks([Elman], expected_failures=expected).args[1]]

    monkeypatch.delenv("KPFRAME_CHECK_RANKS", raising=False)
    plain = names()
    assert plain == [f"Elman-{name}" for name in REGISTRY["model"]]
    monkeypatch.setenv("KPFRAME_CHECK_RANKS", "2")
    assert names() == plain + [f"Elman-{name}" for name in REGISTRY["model_on_ranks"]]
    alone = [row.id for row in parametrize_with_checks([Elman, "reducer:mean"], ranks=3).args[1]]
    assert alone == [f"Elman-{name}" for name in REGISTRY["model_on_ranks"]]
    monkeypatch.setenv("KPFRAME_CHECK_RANKS", "two")
    with pytest.raises(ArgumentError, match="KPFRAME_CHECK_RANKS: expected a whole number >= 2, got 'two'"):
        names()
