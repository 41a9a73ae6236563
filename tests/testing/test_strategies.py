"""What the strategies draw: small, shrinkable, replayable, and printed as code."""

from __future__ import annotations

from functools import partial
from operator import eq

import pytest
import torch
from attrs import frozen
from hypothesis import find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from kpframe.errors import ArgumentError
from kpframe.operators import Operator
from kpframe.operators._spaces import Axis, Space
from kpframe.plugin import ModelSpec, setting
from kpframe.testing import strategies
from kpframe.testing._cases import FlowCase, MaskCase, ReducerCase, RuleCase, TensorCase
from kpframe.testing._choices import of_class, smallest_settings
from kpframe.testing._drawing import strategy_of
from kpframe.testing._residual import CheckFailure
from kpframe.testing._toys import Plain
from kpframe.testing._trees import Node, OperatorCase
from kpframe.testing._values import KINDS, seeded, values

PLAIN = "kpframe.testing._toys:Plain"
#: What a pasted case needs.
NAMES = {
    cls.__name__: cls
    for cls in (FlowCase, RuleCase, ReducerCase, TensorCase, MaskCase, OperatorCase, Node, Space, Axis)
}
QUICK = settings(max_examples=15)


def pasted(case: object) -> object:
    return eval(repr(case), dict(NAMES))


@frozen
class Settings:
    input_size: int = setting(ge=1)
    hidden_size: int = setting(ge=1)
    mode: str = setting("a", choices=("a", "b"))
    gain: float = setting(0.05, gt=0, lt=0.06)
    odd: float | None = setting(None, ge=0, le=1)
    lengths: tuple[int, ...] = setting((2,), ge=2)
    free: str = setting("text")


@QUICK
@given(strategies.flows(PLAIN))
def test_flows_can_be_pasted_and_replay(case: FlowCase) -> None:
    again = pasted(case)
    assert again == case
    one, two = case.build(), again.build()
    assert torch.equal(one.flow.trajectory.states, two.flow.trajectory.states)
    assert one.x.shape == (case.batch, case.time, case.settings["input_size"])
    assert one.space.size <= 2 * 4 * 4
    assert case.problem is case.problem


@QUICK
@given(strategies.operators())
def test_operators_can_be_pasted(case: OperatorCase) -> None:
    again = pasted(case)
    assert again == case
    op = case.build()
    assert isinstance(op, Operator)
    assert torch.equal(again.build().to_dense(), op.to_dense())


@QUICK
@given(strategies.rules("kpframe.testing.mutants.rules:Exact"), strategies.reducers("last_valid"), st.data())
def test_the_others_can_be_pasted(rule: RuleCase, reducer: ReducerCase, data) -> None:
    assert pasted(rule) == rule
    assert pasted(reducer) == reducer
    assert repr(rule.build()[0]) == "Exact()"
    assert reducer.build()(reducer.operator()).domain.names == ("batch", "hidden")
    space = data.draw(strategies.spaces())
    assert pasted(space) == space
    tensor = data.draw(strategies.tensors(space))
    assert pasted(tensor).build().shape == space.shape
    model = data.draw(strategies.models(PLAIN))
    assert type(model.build_model()).__name__ == "Plain"


@pytest.mark.slow
def test_shrinking_ends_at_the_simplest_case() -> None:
    case = find(strategies.flows(PLAIN), lambda case: True)
    assert case == FlowCase(PLAIN, {"input_size": 1, "hidden_size": 1})
    wide = find(strategies.flows(PLAIN), lambda case: case.settings["hidden_size"] > 1 and case.time > 1)
    assert (wide.settings["hidden_size"], wide.time, wide.batch, wide.kind) == (2, 2, 1, "normal")
    assert find(strategies.operators(), lambda case: True).tree == Node("matrix")


def test_fixed_fields_are_not_drawn() -> None:
    @settings(max_examples=10)
    @given(strategies.flows(PLAIN, mask=True, time=st.integers(2, 3), kind="zeros"))
    def check(case: FlowCase) -> None:
        assert case.mask
        assert case.time in (2, 3)
        mask = case.problem.mask
        assert mask is not None
        assert mask[:, 0].all()
        assert not mask[-1].all()
        assert not case.problem.x.any()

    check()


def test_settings_follow_bounds_and_choices() -> None:
    seen: list[dict] = []
    required, optional = of_class(Settings)
    assert set(required) == {"input_size", "hidden_size"}
    assert set(optional) == {"mode", "gain", "odd", "lengths"}

    @settings(max_examples=60)
    @given(
        st.fixed_dictionaries(
            {name: strategy_of(choice) for name, choice in required.items()},
            optional={name: strategy_of(choice) for name, choice in optional.items()},
        )
    )
    def check(drawn: dict) -> None:
        seen.append(drawn)
        Settings(**drawn)  # within the bounds
        assert 1 <= drawn["input_size"] <= 3
        assert drawn.get("gain", 0.05) in (0.05, 0.025)

    check()
    assert {drawn.get("mode") for drawn in seen} == {None, "a", "b"}
    assert any(drawn.get("odd") is not None for drawn in seen)


@frozen
class Picky:
    """Settings with which Choosy builds only where they go together."""

    input_size: int = setting(ge=1)
    hidden_size: int = setting(ge=1)
    even: bool = setting(True)
    mode: str | None = setting(None, choices=("a", "b", None))
    pair: tuple[int, int] = setting((1, 1), ge=0, le=1)


class Choosy(Plain):
    """Refuses an odd number of units, and one thing more."""

    refuse = staticmethod(lambda mode, pair: False)

    def __init__(self, input_size, hidden_size, even, mode, pair) -> None:
        if (even and hidden_size % 2) or self.refuse(mode, pair):
            raise ArgumentError("hidden_size, mode and pair do not go together")
        super().__init__(input_size, hidden_size)


def test_the_smallest_settings_leave_out_what_is_not_needed(monkeypatch) -> None:
    spec = ModelSpec(name="choosy", factory=f"{__name__}:Choosy", settings=Picky)
    monkeypatch.setattr("kpframe.testing._sources.load_factory", lambda spec, keywords, arguments: Choosy)
    assert smallest_settings("model", spec) == {"input_size": 1, "hidden_size": 2}
    monkeypatch.setattr(Choosy, "refuse", staticmethod(lambda mode, pair: mode != "b"))
    assert smallest_settings("model", spec) == {"input_size": 1, "hidden_size": 2, "mode": "b"}
    monkeypatch.setattr(Choosy, "refuse", staticmethod(lambda mode, pair: mode != "b" or pair != (1, 0)))
    assert smallest_settings("model", spec) == {
        "input_size": 1,
        "hidden_size": 2,
        "mode": "b",
        "pair": (1, 0),
    }
    monkeypatch.setattr(Choosy, "refuse", staticmethod(lambda mode, pair: True))
    with pytest.raises(
        CheckFailure, match=r"no settings were found that go together; .*'hidden_size': 1"
    ) as e:
        smallest_settings("model", spec)
    assert "mode and pair do not go together" in str(e.value)


def test_choices_come_simplest_first_and_each_can_be_drawn() -> None:
    required, optional = of_class(Settings)
    assert list(required["input_size"]) == [1, 2, 3]
    assert list(optional["odd"]) == [0.5, 0.25, 0.9, None]
    assert list(optional["lengths"]) == [(2,), (3,), (4,), (2, 3), (2, 4), (3, 2), (3, 4), (4, 2), (4, 3)]
    for choice in (*required.values(), *optional.values()):
        fixed = settings(database=None, derandomize=True)
        for value in choice:
            assert find(strategy_of(choice), partial(eq, value), settings=fixed) == value
        with pytest.raises(NoSuchExample):
            find(strategy_of(choice), lambda drawn, choice=choice: drawn not in choice, settings=fixed)


def test_settings_for_draws_what_builds() -> None:
    found = find(strategies.settings_for(PLAIN), lambda drawn: drawn["hidden_size"] == 2)
    assert found == {"input_size": 1, "hidden_size": 2}


def test_values_by_kind() -> None:
    for kind in KINDS:
        x = values((2, 3), 5, kind)
        assert torch.equal(x, values((2, 3), 5, kind))
        assert x.dtype == torch.float64
        assert torch.equal(values((2, 3), 5, kind, torch.float32), x.float())
    assert values((2, 3), 5, "one-hot").sum() == 1
    assert values((), 5, "one-hot") == 1
    assert values((0, 2), 5, "one-hot").shape == (0, 2)
    assert 0 < values((3,), 5, "tiny").abs().max() < 1e-4
    assert values((3,), 5, "huge").abs().max() > 100
    assert not torch.equal(values((3,), 5), values((3,), 6))


def test_seeded_puts_the_generator_back() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    with seeded(7):
        first = torch.rand(2)
    with seeded(7):
        assert torch.equal(torch.rand(2), first)
    assert torch.equal(torch.random.get_rng_state(), before)
