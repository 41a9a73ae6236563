"""Settings that the rules refuse, by name and in the class itself."""

from __future__ import annotations

import pytest
from kpframe_rules.truncated import TruncatedBPTT

from kpframe import create_rule
from kpframe.errors import ArgumentError, SettingsError, UnknownNameError


@pytest.mark.parametrize("window", [0, -1, True, 2.5, "3", None])
def test_window(window) -> None:
    error = ArgumentError if window is None else SettingsError
    with pytest.raises(error, match=f"window: expected .*got '?{window}"):
        create_rule("truncated_bptt", window=window)
    with pytest.raises(ArgumentError, match=f"window: expected .*>= 1.*got '?{window}"):
        TruncatedBPTT(window)
    assert create_rule("truncated_bptt", window=1).window == 1


@pytest.mark.parametrize("mode", ["sliding", "chunked"])
def test_window_is_required(mode) -> None:
    with pytest.raises(
        ArgumentError, match=f"window: expected a whole number >= 1 with mode='{mode}', got None"
    ):
        create_rule("truncated_bptt", mode=mode)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k2": 3}, "k1: expected a whole number >= 1 with mode='k1k2', got None"),
        ({"k1": 3}, r"k2: expected a whole number >= 3 \(k1\) with mode='k1k2', got None"),
        ({"k1": 3, "k2": 2}, r"k2: expected a whole number >= 3 \(k1\) with mode='k1k2', got 2"),
        ({"k1": 0, "k2": 2}, "k1: expected .*>= 1, got 0"),
        ({"k1": 1, "k2": 2, "window": 3}, "window: expected nothing with mode='k1k2', got 3"),
        ({"k1": 1, "k2": 2, "offset": 1}, r"offset: expected a whole number in \[0, 0\], got 1"),
        ({"mode": "sliding", "window": 2, "k1": 1}, "k1: expected nothing with mode='sliding', got 1"),
        ({"mode": "chunked", "window": 2, "k2": 1}, "k2: expected nothing with mode='chunked', got 1"),
    ],
)
def test_k1_and_k2(settings, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        create_rule("truncated_bptt", **{"mode": "k1k2", **settings})
    assert create_rule("truncated_bptt", mode="k1k2", k1=3, k2=3).k2 == 3


def test_mode() -> None:
    with pytest.raises(SettingsError, match=r"mode: expected .*'chunked'.* did you mean 'chunked'"):
        create_rule("truncated_bptt", window=3, mode="chuncked")
    with pytest.raises(
        ArgumentError, match="mode: expected one of 'sliding', 'chunked', 'k1k2', got 'random'"
    ):
        TruncatedBPTT(3, mode="random")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "chunked", "offset": 3}, r"offset: expected a whole number in \[0, 2\], got 3"),
        ({"mode": "chunked", "offset": 10}, r"offset: expected a whole number in \[0, 2\], got 10"),
        ({"mode": "chunked", "offset": -1}, "offset: expected .* >= 0, got -1"),
        ({"mode": "sliding", "offset": 1}, r"offset: expected a whole number in \[0, 0\], got 1"),
        ({"offset": 1.0}, "offset: expected .*got 1.0"),
    ],
)
def test_offset(settings, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        create_rule("truncated_bptt", window=3, **settings)
    assert create_rule("truncated_bptt", window=3, mode="chunked", offset=2).offset == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "parameters: expected .* got nothing"),
        ({"parameters": "weight_hh"}, "parameters: expected .*got"),
    ],
)
def test_frozen_parameters(settings, message) -> None:
    with pytest.raises(SettingsError, match=message):
        create_rule("frozen", **settings)
    assert create_rule("frozen", parameters=["weight_hh"]).parameters == ("weight_hh",)


def test_unknown_rule_and_setting() -> None:
    with pytest.raises(UnknownNameError, match=r"'truncated_btpt'.* did you mean 'truncated_bptt'"):
        create_rule("truncated_btpt", window=3)
    with pytest.raises(SettingsError, match=r"windw: .* did you mean 'window'"):
        create_rule("truncated_bptt", windw=3)
    with pytest.raises(SettingsError, match=r"rule 'bptt': window: expected .*no settings"):
        create_rule("bptt", window=3)
