"""``check_model``, ``check_rule``, ``check_reducer``: good things pass, bad specs are explained."""

from __future__ import annotations

import pytest
import torch
from attrs import frozen

import kpframe
from kpframe import Model
from kpframe.errors import ArgumentError
from kpframe.plugin import ModelSpec, TaskSpec, setting
from kpframe.plugin._core import core
from kpframe.testing import _drawing as drawing
from kpframe.testing import check_model, check_reducer, check_rule
from kpframe.testing._cases import FlowCase
from kpframe.testing._checks import EXAMPLES, Check, Subject, examples
from kpframe.testing._identity import identity_named
from kpframe.testing._report import Result
from kpframe.testing._residual import CheckFailure, NotApplicable, Residual
from kpframe.testing._sources import source_of
from kpframe.testing._toys import Elman, Gated, Plain
from kpframe.testing.mutants.rules import Exact


class Clocked(Elman):
    """The leak differs from step to step."""

    time_varying = True

    def combine(self, u, h, t=None):
        leak = 1 / (2 + t.to(u["u"].dtype)).unsqueeze(-1)
        return {"h": (1 - leak) * h["h"] + leak * torch.tanh(u["u"])}


class Fixed(Model):
    """No trainable parameter: the weights are a buffer."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, {"h": hidden_size})
        self.register_buffer("w", torch.randn(hidden_size, hidden_size))

    def step(self, x, h, t=None):
        return torch.tanh(h @ self.w.T + x.sum(-1, keepdim=True))


class Bare(Model):
    """Neither parameters nor buffers."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, {"h": hidden_size})

    def step(self, x, h, t=None):
        return torch.sin(h + x.sum(-1, keepdim=True))


class Memoryless(Model):
    """The state is a function of the input alone: A = 0."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, {"h": hidden_size})
        self.weight = torch.nn.Parameter(torch.randn(hidden_size, input_size))
        self.bias = torch.nn.Parameter(torch.randn(hidden_size))

    def step(self, x, h, t=None):
        return torch.tanh(x @ self.weight.T + self.bias)


class Rectified(Model):
    """A kink in ``step``."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, {"h": hidden_size})
        self.w = torch.nn.Parameter(torch.randn(hidden_size, hidden_size))
        self.v = torch.nn.Parameter(torch.randn(hidden_size, input_size))

    def step(self, x, h, t=None):
        return torch.relu(h @ self.w.T + x @ self.v.T)


class Cubic(Model):
    """Explodes: some draws leave the finite numbers, others come close."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, {"v": hidden_size})
        self.weight = torch.nn.Parameter(torch.randn(hidden_size, input_size))

    def step(self, x, h, t=None):
        return h - h**3 + x @ self.weight.T


class Nowhere(Cubic):
    """Never finite."""

    def step(self, x, h, t=None):
        return h / 0


def slow(*models: type[Model]) -> list[object]:
    return [pytest.param(model, marks=pytest.mark.slow) for model in models]


def trainable_start(input_size: int, hidden_size: int) -> Model:
    return Elman(input_size, hidden_size, trainable_initial_state=True)


def lstm(input_size: int, hidden_size: int) -> Model:
    return kpframe.wrap(torch.nn.LSTMCell(input_size, hidden_size))


#: Whose mathematics other good models have too, or other tests.
ALIKE = (Elman, Gated, Plain, Memoryless, Rectified)


@pytest.mark.slow
@pytest.mark.parametrize("good", [Clocked, Cubic, trainable_start, *slow(*ALIKE, lstm)])
@pytest.mark.rows(6)
def test_good_models_pass(good) -> None:
    report = check_model(good, examples=3)
    assert report.passed, str(report)
    assert {result.verdict for result in report.results} <= {"passed", "not applicable"}
    passed = [result for result in report.results if result.verdict == "passed"]
    # two parameters of one shape, and units that share no parameter, are there in some cases only
    some = ("shared_parameters_are_one", "K_keeps_its_blocks")
    assert all(result.cases == 3 for result in passed if result.name not in some)
    for name in some:
        assert report[name].verdict == "not applicable" or 0 < report[name].cases <= 3


@pytest.mark.parametrize("good", [Fixed, *slow(Bare)])
def test_models_without_parameters_pass(good) -> None:
    report = check_model(good, examples=1)
    assert report.passed, str(report)
    for name in ("J_equals_jacrev", "taylor_slope", "phi_equals_total_jacobian"):
        assert report[name].verdict == "not applicable"
        assert report[name].message == "the model has no trainable parameter"


def test_an_instance_is_checked_as_it_is() -> None:
    torch.manual_seed(0)
    model = Gated(2, 3)
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    report = check_model(model, examples=1)
    assert report.passed, str(report)
    assert report.label == "Gated"
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())


@pytest.mark.slow
def test_the_report_is_the_same_each_time_and_leaves_the_generator_alone() -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    first, second = (check_model("kpframe.testing._toys:Plain", examples=2) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert first == second
    assert first.label == "Plain"


@pytest.mark.slow
def test_rules_and_reducers_pass() -> None:
    report = check_rule(Exact, examples=4)
    assert report.passed, str(report)
    assert report["exact_rule_equals_backward"].verdict == "passed"
    for name in (spec.name for spec in core().specs if spec.kind == "reducer"):
        report = check_reducer(name, examples=4)
        assert report.passed, str(report)
        assert report["reduction_equals_its_formula"].verdict == "passed"


@frozen
class Settings:
    input_size: int = setting(ge=1)
    hidden_size: int = setting(ge=1)


@frozen
class MoreSettings(Settings):
    surprise: int = setting(1)


@frozen
class Strange:
    field: complex = setting()


def spec(factory: str, settings: type | None = Settings) -> ModelSpec:
    return ModelSpec("stranger", factory, settings=settings)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (spec("no_such_package.anywhere:Model"), "No module named 'no_such_package'"),
        (spec("kpframe.testing._toys:NoSuchClass"), "has no attribute 'NoSuchClass'"),
        (spec("torch.nn:Linear", None), "cannot be built with {}"),
        (spec("kpframe.testing._toys:Elman", MoreSettings), "unexpected keyword argument 'surprise'"),
        (spec("kpframe.testing._toys:Elman", None), "missing a required argument: 'input_size'"),
        (spec("kpframe.testing.mutants.steps:not_a_model"), "expected a kpframe.Model, got RNNCell"),
        (spec("kpframe.testing._toys:Elman", Strange), "values of its type cannot be drawn"),
        ("no.such.module:Thing", "cannot be imported"),
        ("no_such_model", "no model 'no_such_model'"),
        (lambda: 3, "expected a kpframe.Model, got int"),
    ],
)
def test_bad_specs_fail_the_first_check_alone(bad, message) -> None:
    report = check_model(bad, examples=2)
    assert [result.name for result in report.failures] == ["factory_builds"], str(report)
    assert message in report["factory_builds"].message
    assert {result.verdict for result in report.results[1:]} == {"not run"}


@pytest.mark.parametrize("bad", [3, None, TaskSpec("task", "a:b"), "rule:bptt", Exact])
def test_what_is_no_model_is_refused(bad) -> None:
    with pytest.raises(ArgumentError, match="spec: expected"):
        check_model(bad)


def result_of(model: type[Model], check: str) -> Result:
    """Return what one check says of a model in five cases."""
    return Check(Subject(source_of(model)), identity_named("model", check)).result(examples=5)


def test_a_constant_quantity_proves_too_little() -> None:
    class Deaf(Elman):
        def combine(self, u, h, t=None):
            return {"h": 0.5 * h["h"] + 0.0 * u["u"]}

    result = result_of(Deaf, "J_equals_jacrev")
    assert result.verdict == "failed"
    assert f"it proves too little: in {EXAMPLES} of {EXAMPLES} cases both sides vanish" in result.message


def test_few_cases_are_more_before_they_prove_too_little(monkeypatch: pytest.MonkeyPatch) -> None:
    check = Check(Subject(source_of(Elman)), identity_named("model", "causality"))
    partner, looked = check.identity.partner, []

    def blind(case: FlowCase) -> Residual | None:
        looked.append(case)
        return None if len(looked) < 3 else partner(case)

    monkeypatch.setattr(check.identity, "partner", blind)
    assert check(2).cases == EXAMPLES
    looked.clear()
    result = check.result(2)
    assert (result.verdict, result.cases) == ("passed", EXAMPLES), result.message
    monkeypatch.setattr(check.identity, "partner", lambda case: None)
    assert check.result(2).verdict == "failed"
    with pytest.raises(CheckFailure, match=f"it proves too little: in {EXAMPLES} of {EXAMPLES} cases"):
        check(2)


def test_cases_without_a_meaning_are_no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """One case in ten has one, and in the first of these both sides vanish."""
    check = Check(Subject(source_of(Elman)), identity_named("model", "causality"))
    drawn, looked = [], []

    def function(case: FlowCase) -> Residual:
        drawn.append(case)
        if len(drawn) % 10 and len(drawn) != 3:
            raise NotApplicable("it has none here")
        return Residual(0.0)

    def partner(case: FlowCase) -> Residual | None:
        looked.append(case)
        return Residual(1.0) if len(looked) > 4 else None

    monkeypatch.setattr(check.identity, "function", function)
    monkeypatch.setattr(check.identity, "partner", partner)
    tally = check(EXAMPLES)
    assert (tally.cases, tally.partners > 10, len(drawn) > 9 * EXAMPLES) == (20, True, True)


def test_settings_are_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    source, tried = source_of(Elman), []
    monkeypatch.setattr(drawing, "go_together", lambda *what: tried.append(repr(what[2])) or True)
    for name in ("state_shape", "step_is_pure", "causality"):
        Check(Subject(source), identity_named("model", name)).result(examples=8)
    assert 1 < len(tried) == len(set(tried)) <= 9  # two sizes of three values


@pytest.mark.slow
def test_a_model_that_is_never_finite_is_named() -> None:
    report = check_model(Nowhere, examples=1)
    assert [result.name for result in report.failures] == ["step_is_pure", "dtype_kept"]
    assert "no case could be drawn" in report["dtype_kept"].message
    assert "left the finite numbers" in report["dtype_kept"].message


def test_chance_outside_the_model_is_named() -> None:
    calls = []

    class Global(Plain):
        def step(self, x, h, t=None):
            calls.append(1)
            return super().step(x, h) * (1.5 if len(calls) == 4 else 1.0)

    result = result_of(Global, "step_is_pure")
    assert (result.verdict, "state outside the model" in result.message) in {
        ("failed", True),
        ("passed", False),
    }


def test_number_of_examples(monkeypatch) -> None:
    monkeypatch.setenv("KPFRAME_CHECK_EXAMPLES", "3")
    assert examples() == 3
    assert check_reducer("mean")["linear_in_operator"].cases == 3
    monkeypatch.setenv("KPFRAME_CHECK_EXAMPLES", "many")
    with pytest.raises(
        ArgumentError, match="KPFRAME_CHECK_EXAMPLES: expected a whole number >= 1, got 'many'"
    ):
        check_reducer("mean")
    monkeypatch.delenv("KPFRAME_CHECK_EXAMPLES")
    assert examples() >= 20
    for bad in (0, 1.5, True):
        with pytest.raises(ArgumentError, match="examples: expected a whole number"):
            check_reducer("mean", examples=bad)


def test_the_report_as_text_and_data() -> None:
    class Affine(Elman):
        def initial_state(self, batch):
            return torch.ones(batch, self.width + 1)

    report = check_model(Affine, examples=2)
    text, data = str(report), report.to_dict()
    assert not report.passed
    assert text.startswith("model Affine: FAILED")
    assert (
        "smallest failing case: FlowCase(model=Affine, settings={'input_size': 1, 'hidden_size': 1}" in text
    )
    assert data["passed"] is False
    assert {check["verdict"] for check in data["checks"]} == {"passed", "failed", "not run"}
