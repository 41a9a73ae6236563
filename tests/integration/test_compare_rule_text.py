"""Learning rules written as text."""

from __future__ import annotations

import pytest

from kpframe import create_rule
from kpframe.errors import ArgumentError, SettingsError, UnknownNameError
from kpframe.rules._parse import parse_rule


@pytest.mark.parametrize(
    ("text", "name", "settings"),
    [
        ("bptt", "bptt", {}),
        ("  bptt()  ", "bptt", {}),
        ("truncated_bptt(window=5)", "truncated_bptt", {"window": 5}),
        ("truncated_bptt(window=5, mode=chunked)", "truncated_bptt", {"window": 5, "mode": "chunked"}),
        ("truncated_bptt(window=5, mode='chunked')", "truncated_bptt", {"window": 5, "mode": "chunked"}),
        ('frozen(parameters=["bias*", "weight_ih_l0"])', "frozen", {"parameters": ("bias*", "weight_ih_l0")}),
    ],
)
def test_names_and_settings(text, name, settings) -> None:
    assert repr(parse_rule(text)) == repr(create_rule(name, **settings))
    assert repr(parse_rule(text)) != repr(parse_rule("truncated_bptt(window=7)"))


def test_composition_is_read_as_python_reads_it() -> None:
    inner, outer = "truncated_bptt(window=2)", 'frozen(parameters=["bias*"])'
    assert repr(parse_rule(f"{outer} @ {inner}")) == f"{parse_rule(outer)!r} @ {parse_rule(inner)!r}"
    assert repr(parse_rule(f"{inner} @ {outer}")) == f"{parse_rule(inner)!r} @ {parse_rule(outer)!r}"
    left = parse_rule(f"bptt @ {outer} @ {inner}")
    right = parse_rule(f"bptt @ ({outer} @ {inner})")
    assert repr(left) == repr(right)
    assert repr(left.outer) != repr(right.outer)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("", "'' (invalid syntax)"),
        ("bptt(", "'bptt(' ('(' was never closed)"),
        ("3", "'3'"),
        ("bptt + bptt", "'bptt + bptt'"),
        ("rules.bptt", "'rules.bptt'"),
        ("truncated_bptt(5)", "'truncated_bptt(5)'"),
        ("bptt(**{})", "'bptt(**{})'"),
        ("bptt @ 3", "'bptt @ 3'"),
        ("bptt()()", "'bptt()()'"),
    ],
)
def test_text_of_another_form(text, got) -> None:
    with pytest.raises(ArgumentError) as caught:
        parse_rule(text)
    form = "a rule such as bptt, truncated_bptt(window=5) or two joined by @"
    assert str(caught.value) == f"rule: expected {form}, got {got}"


@pytest.mark.parametrize("value", ["1 + 1", "range(3)", "[window]", "x.y", "lambda: 3"])
def test_values_are_not_run(value) -> None:
    text = f"truncated_bptt(window={value})"
    with pytest.raises(ArgumentError) as caught:
        parse_rule(text)
    assert str(caught.value) == f"rule {text!r}: window: expected a plain value, got an expression"


def test_names_and_settings_that_are_none() -> None:
    with pytest.raises(UnknownNameError, match=r"no rule 'bpt'; did you mean 'bptt'\?"):
        parse_rule("bpt")
    with pytest.raises(SettingsError, match=r"rule 'truncated_bptt': windw: .*did you mean 'window'\?"):
        parse_rule("bptt @ truncated_bptt(windw=3)")
    with pytest.raises(SettingsError, match=r"rule 'truncated_bptt': window: expected .* >= 1, got 0"):
        parse_rule("truncated_bptt(window=0)")


def test_a_setting_given_twice() -> None:
    with pytest.raises(ArgumentError, match=r"rule '.*': window: expected one value, got several"):
        parse_rule("truncated_bptt(window=2, window=3)")


def test_a_rule_around_another_one() -> None:
    rule = parse_rule("clipped(max_norm=0.5, rule=truncated_bptt(window=3))")
    assert not rule.linear
    assert "TruncatedBPTT(window=3" in repr(rule)
    assert "window" not in repr(parse_rule("clipped(max_norm=0.5)"))
