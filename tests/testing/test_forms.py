"""The kit on propagators and parameter operators: the core's pass, and what is checked on what."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from attrs import frozen

from kpframe import Propagator, StepJacobian
from kpframe.cli import _app as app
from kpframe.errors import ArgumentError
from kpframe.flow import DiagonalStepJacobian, ScanPropagator
from kpframe.models import GramParameterOperator
from kpframe.plugin import ModelSpec, PropagatorSpec, hookimpl, setting, temporary
from kpframe.plugin._core import core
from kpframe.testing import (
    check_on_ranks,
    check_parameter_operator,
    check_propagator,
    parametrize_with_checks,
    strategies,
)
from kpframe.testing._cases import FlowCase
from kpframe.testing._forms import STEPS, ParameterOperatorCase, PropagatorCase, blocks_of, inverse_of, matrix
from kpframe.testing._sources import source_of
from kpframe.testing._toys import Plain
from kpframe.testing.mutants import Mutant
from kpframe.testing.mutants.propagators import OneStepOff

ELMAN = FlowCase("kpframe.testing._toys:Elman", {"input_size": 2, "hidden_size": 2}, batch=2, time=3)
KINDS = ("propagator", "parameter_operator")


@parametrize_with_checks([f"{spec.kind}:{spec.name}" for spec in core().specs if spec.kind in KINDS])
@pytest.mark.rows(4)
def test_the_core_s_forms(check) -> None:
    check()


class Diagonal(Propagator):
    """P of a diagonal A, by a sum over time of products; it fits nothing else."""

    def __init__(self, A: StepJacobian, *, reach: int = 99, name: str = "P") -> None:
        super().__init__(A, name=name)
        self.reach = reach

    @property
    def settings(self) -> dict[str, int]:
        return {"reach": self.reach}

    @classmethod
    def fits(cls, A: StepJacobian) -> str | None:
        return None if isinstance(A, DiagonalStepJacobian) else "it is not diagonal"

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return self.A.scan(q.movedim(-2, 0).clone()).movedim(0, -2)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return self.A.scan_adjoint(r.movedim(-2, 0).clone()).movedim(0, -2)


@frozen
class Settings:
    reach: int = setting(2, ge=1, le=3)


class OwnModel(Plain):
    """A model whose A no other has."""

    def propagator(self, trajectory):
        A = super().propagator(trajectory).A
        return ScanPropagator(OwnStep(A))


class OwnStep(StepJacobian):
    method = "own"

    def __init__(self, inner: StepJacobian) -> None:
        super().__init__(inner.domain, dtype=inner.dtype, device=inner.device)
        self.inner = inner

    def step(self, t, v):
        return self.inner.step(t, v)

    def step_adjoint(self, t, v):
        return self.inner.step_adjoint(t, v)


class OwnForm(ScanPropagator):
    """Fits the A of ``OwnModel`` alone."""

    @classmethod
    def fits(cls, A: StepJacobian) -> str | None:
        return None if isinstance(A, OwnStep) else "it is not of the own model"


class OnCard(ScanPropagator):
    device_type = "cuda"


class OnCpu(ScanPropagator):
    device_type = "cpu"


class AnywhereOnCard(OnCard):
    """Says of itself that it fits where its device is not."""

    @classmethod
    def fits(cls, A: StepJacobian) -> str | None:
        return None

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return 2 * super()._apply(q)


class GramOnCard(GramParameterOperator):
    device_type = "cuda"


class Plugin:
    @hookimpl
    def kpframe_models(self):
        yield ModelSpec("own", f"{__name__}:OwnModel", settings=Sizes)

    @hookimpl
    def kpframe_propagators(self):
        yield PropagatorSpec("own", f"{__name__}:OwnForm")
        yield PropagatorSpec("short", f"{__name__}:Diagonal", settings=Settings)


@frozen
class Sizes:
    input_size: int = setting(ge=1)
    hidden_size: int = setting(ge=1)


def test_a_form_is_checked_on_what_it_fits() -> None:
    report = check_propagator(Diagonal, examples=2)
    assert report.passed, str(report)
    assert all(result.verdict == "passed" for result in report.results)
    source = source_of(Diagonal, "propagator")
    strategies.propagators(source).validate()
    assert {step for _, step in source.fitting} == {"diagonal", "constant"}
    whole = source_of("propagator:stepwise")
    strategies.propagators(whole).validate()
    assert {step for _, step in whole.fitting} == set(STEPS)


@pytest.mark.parametrize(
    ("check", "form"), [(check_propagator, OnCard), (check_parameter_operator, GramOnCard)]
)
def test_a_form_of_a_device_that_is_not_there_is_passed_over(check, form) -> None:
    report = check(form, examples=4)
    assert report["fits_is_honest"].verdict == "passed"
    others = [result for result in report.results if result.name != "fits_is_honest"]
    assert {result.verdict for result in others} == {"not applicable"}
    assert {result.message for result in others} == {"not here: it needs a cuda device, and cases are on cpu"}
    on_ranks = check_on_ranks(form, examples=4)
    assert {result.verdict for result in on_ranks.results} == {"not applicable"}
    assert {result.message for result in on_ranks.results} == {others[0].message}


def test_a_form_of_the_device_that_is_there_is_checked() -> None:
    report = check_propagator(OnCpu, examples=1)
    assert {result.verdict for result in report.results} == {"passed"}


def test_a_form_that_fits_where_its_device_is_not_is_caught() -> None:
    report = check_propagator(AnywhereOnCard, examples=4)
    assert [result.name for result in report.failures] == ["fits_is_honest"]


@pytest.mark.slow
def test_a_form_is_checked_on_the_models_of_its_own_plugin() -> None:
    with temporary(Plugin(), distribution="kpf-own"):
        report = check_propagator("own", examples=4)
        assert report.passed, str(report)
        assert report["products_equal_inverse"].cases == 4
        report = check_propagator("kpf-own:short", examples=4)
        assert report.passed, str(report)
    alone = check_propagator(OwnForm, examples=4)
    assert [result.name for result in alone.failures] == ["propagator_builds"]
    assert "fits nothing that it was tried on" in alone.failures[0].message
    assert "its plugin offers beside it" in alone.failures[0].message


def test_references_are_what_they_say() -> None:
    case = PropagatorCase("stepwise", {}, "own", ELMAN)
    problem = ELMAN.problem
    torch.testing.assert_close(inverse_of(case.blocks), problem.transitions, rtol=1e-10, atol=1e-12)
    assert (inverse_of(case.blocks) - inverse_of(0.9 * case.blocks)).norm() > 1e-2
    torch.testing.assert_close(matrix(case.P.A), problem.A, rtol=1e-10, atol=1e-12)
    other = case.A(1)
    assert type(other) is type(case.A())
    assert (blocks_of(other) - case.blocks).norm() > 1e-2
    K = ParameterOperatorCase("product", {}, "own", ELMAN)
    torch.testing.assert_close(K.matrix, problem.J, rtol=1e-10, atol=1e-12)


def test_cases_print_as_code() -> None:
    case = PropagatorCase("scan", {}, "masked", ELMAN)
    names = {"PropagatorCase": PropagatorCase, "FlowCase": FlowCase}
    assert eval(repr(case), names) == case
    assert case.P.A.keep.shape == (2, 3)


def test_a_wrong_form_shrinks() -> None:
    case = Mutant(OneStepOff, "products_equal_inverse", "", "propagator").result().case
    assert "batch=1" in case
    assert "time=2," in case or "time=3," in case
    assert "kind='normal'" in case


@pytest.mark.parametrize("name", [pytest.param("Doubling", marks=pytest.mark.slow), "Written"])
def test_the_forms_of_the_documentation(name, monkeypatch) -> None:
    page = Path(__file__).parents[2] / "docs" / "plugins.md"
    (source,) = [
        code
        for code in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
        if f"class {name}(" in code
    ]
    module = ModuleType("documented")
    monkeypatch.setitem(sys.modules, "documented", module)
    exec(compile(source, str(page), "exec", dont_inherit=True), module.__dict__)
    check = check_propagator if name == "Doubling" else check_parameter_operator
    report = check(getattr(module, name), examples=2)
    assert report.passed, str(report)
    assert all(result.verdict == "passed" for result in report.results)


@pytest.mark.parametrize(
    ("call", "spec", "message"),
    [
        (
            check_propagator,
            "parameter_operator:gram",
            "expected a propagator, got a parameter operator: gram",
        ),
        (check_parameter_operator, "rule:bptt", "expected a parameter operator, got a rule: bptt"),
        (check_propagator, GramParameterOperator, "expected a propagator, got a parameter operator"),
        (
            check_propagator,
            ELMAN.problem.flow.P,
            "expected a class, which is made of a step Jacobian, got an",
        ),
    ],
)
def test_what_cannot_be_checked_as_asked(call, spec, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        call(spec)


@pytest.mark.parametrize("name", ["propagator:kpframe:dense", "parameter-operator:gram"])
def test_verify_prints_a_table(name, capsys) -> None:
    assert app.run(["verify", name, "--examples", "1"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(name.replace("-", "_").replace("kpframe:", "") + "\n")
    (line,) = [line for line in out.splitlines() if line.startswith(("products_equal", " products_equal"))][
        :1
    ]
    assert line.split()[1] == "passed"
    assert out.rstrip().endswith(" passed")


@pytest.mark.slow
def test_verify_of_a_wrong_form(capsys) -> None:
    assert (
        app.run(["verify", "propagator:kpframe.testing.mutants.propagators:OneStepOff", "--examples", "3"])
        == 1
    )
    out = capsys.readouterr().out
    assert "smallest failing case: PropagatorCase(propagator=" in out


def test_verify_of_an_unknown_form(capsys) -> None:
    assert app.run(["verify", "propagator:scna"]) == 2
    assert "no propagator 'scna'" in capsys.readouterr().err
