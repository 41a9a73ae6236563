from __future__ import annotations

import copy
import inspect
import math
import pickle
from typing import Any, Literal

import numpy as np
import pytest
from attrs import NOTHING, Factory, frozen
from hypothesis import given
from hypothesis import strategies as st

from kpframe.errors import ArgumentError, SettingsError, mismatch
from kpframe.plugin import takes_settings
from kpframe.plugin._settings import NoSettings, build_settings, describe, setting
from kpframe.plugin._takes import call_with, keywords_of


@frozen
class Everything:
    count: int = setting(2, ge=1, le=9, help="how many")
    needed: int = setting(ge=0)
    rate: float = setting(0.5, gt=0, lt=1)
    flag: bool = setting(False)
    label: str = setting("a", choices=("a", "b"))
    mode: Literal["x", "y", 3] = setting("x")
    maybe: int | None = setting(None, ge=0)
    either: float | int | str = setting("auto", ge=0)
    names: tuple[str, ...] = setting((), choices=("h", "c"))
    rates: tuple[float, ...] = setting((), ge=0)
    pair: tuple[int, str] = setting((1, "a"))
    mapping: dict[str, int] = setting(Factory(dict))
    anything: Any = setting(None)


def build(**values):
    return build_settings(Everything, {"needed": 0, **values}, owner="model 'm'")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("count", 9, 9),
        ("count", np.int64(3), 3),
        ("rate", 0.25, 0.25),
        ("rate", np.float32(0.25), 0.25),
        ("flag", True, True),
        ("label", "b", "b"),
        ("mode", 3, 3),
        ("maybe", None, None),
        ("maybe", 4, 4),
        ("either", 3, 3),
        ("either", 3.5, 3.5),
        ("either", "auto", "auto"),
        ("names", ["h", "c"], ("h", "c")),
        ("rates", [1, 0.5], (1.0, 0.5)),
        ("rates", np.array([1, 0.5]), (1.0, 0.5)),
        ("pair", [2, "b"], (2, "b")),
        ("mapping", {"a": 1}, {"a": 1}),
        ("anything", "what", "what"),
    ],
)
def test_values_that_fit(name, value, expected):
    for settings in (build(**{name: value}), Everything(**{"needed": 0, name: value})):
        got = getattr(settings, name)
        assert got == expected
        assert type(got) is type(expected)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("count", True, "expected int >= 1 and <= 9, got True (bool)"),
        ("count", 3.0, "expected int >= 1 and <= 9, got 3.0 (float)"),
        ("count", "3", "expected int >= 1 and <= 9, got '3' (str)"),
        ("count", 0, "expected int >= 1 and <= 9, got 0"),
        ("count", 10, "expected int >= 1 and <= 9, got 10"),
        ("count", None, "expected int >= 1 and <= 9, got None (NoneType)"),
        ("rate", math.nan, "expected a number > 0 and < 1, got nan (float)"),
        ("rate", 0, "expected float > 0 and < 1, got 0"),
        ("rate", 1.0, "expected float > 0 and < 1, got 1.0"),
        ("rate", False, "expected float > 0 and < 1, got False (bool)"),
        ("rate", 10**400, "expected a number that fits a float > 0 and < 1, got 1000"),
        ("flag", 1, "expected bool, got 1 (int)"),
        ("label", "aa", "expected one of 'a', 'b', got 'aa'; did you mean 'a'?"),
        ("label", 3, "expected one of 'a', 'b', got 3 (int)"),
        ("mode", "z", "expected 'x' | 'y' | 3, got 'z' (str)"),
        ("mode", 3.0, "expected 'x' | 'y' | 3, got 3.0 (float)"),
        ("maybe", -1, "expected int | None >= 0, got -1"),
        ("maybe", "x", "expected int | None >= 0, got 'x' (str)"),
        ("either", -1, "expected float | int | str >= 0, got -1"),
        ("names", "h", "expected one of 'h', 'c', got 'h' (str)"),
        ("names", ["h", "v"], "expected one of 'h', 'c', got ['h', 'v']"),
        ("rates", [1, "x"], "expected tuple[float, ...] >= 0, got [1, 'x'] (list)"),
        ("rates", [1, -1], "expected tuple[float, ...] >= 0, got [1, -1]"),
        ("rates", np.eye(2), "expected tuple[float, ...] >= 0, got array([[1., 0.], [0., 1.]]) (ndarray)"),
        ("rates", np.array(1.0), "expected tuple[float, ...] >= 0, got array(1.) (ndarray)"),
        ("rates", 1.0, "expected tuple[float, ...] >= 0, got 1.0 (float)"),
        ("pair", (1,), "expected tuple[int, str], got (1,) (tuple)"),
        ("mapping", [], "expected dict[str, int], got [] (list)"),
    ],
)
def test_values_that_do_not_fit(name, value, message):
    with pytest.raises(SettingsError) as caught:
        build(**{name: value})
    assert str(caught.value).startswith(f"model 'm': {name}: {message}")
    with pytest.raises(SettingsError) as caught:
        Everything(**{"needed": 0, name: value})
    assert str(caught.value).startswith(f"Everything.{name}: {message}")


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(SettingsError) as caught:
        build_settings(Everything, {"coutn": 1, "rate": 2, "flag": "no", 3: 4}, owner="rule 'r'")
    lines = str(caught.value).splitlines()
    assert len(lines) == 5
    assert "coutn: expected one of its settings (count, needed, " in lines[0]
    assert lines[0].endswith("got an unknown name; did you mean 'count'?")
    assert lines[1].startswith("rule 'r': 3: ")
    assert lines[2:] == [
        "rule 'r': needed: expected int >= 0, got nothing (it is required)",
        "rule 'r': rate: expected float > 0 and < 1, got 2",
        "rule 'r': flag: expected bool, got 'no' (str)",
    ]


def test_an_array_stays_on_one_line():
    with pytest.raises(SettingsError) as caught:
        build(count=np.eye(20))
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 300


def test_no_settings_take_none():
    assert build_settings(NoSettings, {}, owner="model 'm'") == NoSettings()
    with pytest.raises(SettingsError, match="no settings"):
        build_settings(NoSettings, {"a": 1}, owner="model 'm'")


@given(st.floats(allow_nan=False) | st.integers())
def test_bounds_hold_exactly(value):
    @frozen
    class Bounded:
        value: float = setting(ge=-1.5, lt=2)

    try:
        built = Bounded(value=value)
    except SettingsError:
        assert not -1.5 <= value < 2
    else:
        assert -1.5 <= value < 2
        assert built.value == value


def test_a_default_outside_its_own_bounds_is_an_error():
    with pytest.raises(SettingsError, match="default: expected a value >= 1, got 0"):
        setting(0, ge=1)
    with pytest.raises(SettingsError, match="default: expected one of 1, 2, got 0"):
        setting(0, choices=(1, 2))
    assert setting(1, ge=1) is not None


def test_checks_across_fields_are_settings_errors():
    @frozen
    class Crossed:
        low: int = setting()
        high: int = setting()

        def __attrs_post_init__(self):
            if self.low > self.high:
                raise ValueError(f"low: expected at most high, got {self.low}")

    assert build_settings(Crossed, {"high": 2, "low": 1}, owner="task 't'") == Crossed(low=1, high=2)
    with pytest.raises(SettingsError, match="task 't': low: expected at most high, got 3"):
        build_settings(Crossed, {"high": 2, "low": 3}, owner="task 't'")


def test_plain_attrs_fields_are_checked_by_type():
    @frozen
    class Plain:
        size: int
        rate: float = 0.5

    assert build_settings(Plain, {"size": 1, "rate": 2}, owner="m") == Plain(1, 2.0)
    with pytest.raises(SettingsError, match="m: size: expected int, got 'x'"):
        build_settings(Plain, {"size": "x"}, owner="m")


def test_describe():
    infos = {info.name: info for info in describe(Everything)}
    assert list(infos)[:3] == ["count", "needed", "rate"]
    count, needed = infos["count"], infos["needed"]
    assert (count.type, count.default, count.bounds, count.help) == ("int", 2, ">= 1 and <= 9", "how many")
    assert (count.required, needed.required) == (False, True)
    assert needed.default is NOTHING
    assert infos["maybe"].type == "int | None"
    assert infos["mode"].type == "'x' | 'y' | 3"
    assert infos["label"].choices == ("a", "b")
    assert infos["mapping"].default == {}
    assert describe(None) == []


@frozen
class UnitsSettings:
    bias: bool = setting(True, help="one bias a unit")
    hidden_size: int = setting(ge=1, help="number of units")
    read: int = setting(0, ge=0, help="width that is read out, at most hidden_size")
    rate: float = setting(Factory(lambda self: 1 / self.hidden_size, takes_self=True), gt=0, help="step")

    def __attrs_post_init__(self):
        if self.read > self.hidden_size:
            raise ArgumentError(mismatch("read", f"at most hidden_size={self.hidden_size}", self.read))


class Units:
    """Some units."""

    @takes_settings(UnitsSettings)
    def __init__(self, settings):
        """Draw the weights."""
        self.settings = settings


class Layered(Units):
    def __init__(self, layers, **settings):
        super().__init__(**settings)
        self.layers = layers


@frozen
class MoreSettings(UnitsSettings):
    delay: int = setting(0, ge=0)


class Delayed(Units):
    @takes_settings(MoreSettings)
    def __init__(self, settings):
        super().__init__(settings)
        self.delay = settings.delay


@takes_settings(UnitsSettings)
def make_units(settings) -> Units:
    return Units(settings)


@pytest.mark.parametrize("make", [Units, make_units])
def test_a_constructor_takes_its_settings_as_arguments(make):
    given = UnitsSettings(hidden_size=4, read=2)
    for made in (
        make(hidden_size=4, read=2),
        make(4, True, 2),
        make(given),
        make(np.int64(4), read=2, rate=0.25),
    ):
        assert made.settings == given
        assert type(made.settings.hidden_size) is int
    assert make(4).settings != given
    assert make(given).settings is given
    assert Layered(3, hidden_size=4, read=2).settings == given


@pytest.mark.parametrize(
    ("args", "keywords", "lines"),
    [
        ((), {}, ["hidden_size: expected int >= 1, got nothing (it is required)"]),
        (("4",), {}, ["hidden_size: expected int >= 1, got '4' (str)"]),
        (
            (0,),
            {"rate": 0, "raet": 1},
            [
                "raet: expected one of its settings (bias, hidden_size, read, rate), got an unknown name; "
                "did you mean 'rate'?",
                "hidden_size: expected int >= 1, got 0",
                "rate: expected float > 0, got 0",
            ],
        ),
        ((4,), {"read": 5}, ["read: expected at most hidden_size=4, got 5"]),
        ((4,), {"hidden_size": 4}, ["hidden_size: expected one value, got two, by position and by name"]),
    ],
)
def test_a_constructor_says_all_that_is_wrong(args, keywords, lines):
    for make, owner in ((Units, "Units"), (make_units, "make_units")):
        with pytest.raises(SettingsError) as caught:
            make(*args, **keywords)
        assert str(caught.value).splitlines() == [f"{owner}: {line}" for line in lines]
    if not args and not keywords:
        with pytest.raises(SettingsError, match=r"^Layered: hidden_size: expected"):
            Layered(2)
    # the very message of the host, which names what was asked for
    if len(args) < 2 and not (set(keywords) & {"hidden_size"}):
        values = dict(zip(["hidden_size"], args, strict=False)) | keywords
        with pytest.raises(SettingsError) as caught:
            build_settings(UnitsSettings, values, owner="model 'units'")
        assert str(caught.value).splitlines() == [f"model 'units': {line}" for line in lines]


def test_a_constructor_refuses_more_than_its_settings():
    with pytest.raises(SettingsError, match="Units: expected at most 4 settings, got 5"):
        Units(1, 2, 3, 4, 5)
    with pytest.raises(SettingsError, match="expected a UnitsSettings or settings by name, got one and read"):
        Units(UnitsSettings(hidden_size=4), read=2)


def test_a_subclass_hands_its_settings_on():
    assert Delayed(4, delay=3).delay == 3
    assert Delayed(4, delay=3).settings == MoreSettings(hidden_size=4, delay=3)
    assert list(inspect.signature(Delayed).parameters)[-1] == "delay"
    with pytest.raises(SettingsError, match=r"^Delayed: delay: expected int >= 0, got -1"):
        Delayed(4, delay=-1)
    # in a call of the class itself, what more there is would be dropped
    with pytest.raises(SettingsError, match=r"Units: hidden_size: expected int >= 1, got MoreSettings"):
        Units(MoreSettings(hidden_size=4, delay=3))


def test_a_constructor_shows_its_settings():
    for make in (Units, make_units):
        parameters = inspect.signature(make).parameters
        assert list(parameters) == ["hidden_size", "bias", "read", "rate"]  # required ones first
        assert parameters["hidden_size"].default is inspect.Parameter.empty
        assert parameters["hidden_size"].annotation is int
        assert parameters["read"].default == 0
    assert str(inspect.signature(make_units)).startswith("(hidden_size: int, bias: bool = True, read")
    assert "rate: float = (computed)" in str(inspect.signature(Units))
    assert list(inspect.signature(Layered).parameters) == ["layers", "settings"]
    text = inspect.getdoc(Units.__init__)
    assert text.startswith("Draw the weights.\n\nArgs:\n    hidden_size (int >= 1): number of units\n")
    assert "    bias (bool; default True): one bias a unit\n" in text
    assert Units.__init__.__name__ == "__init__"


def test_objects_with_settings_are_copied_and_pickled():
    made = Units(4, read=2)
    for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert other.settings == made.settings
        assert other is not made


def test_the_host_checks_once():
    """A factory that takes the settings whole gets the checked object, others its fields."""
    built = UnitsSettings(hidden_size=4)
    assert call_with(Units, built).settings is built
    assert call_with(make_units, built).settings is built
    plain = call_with(lambda **keywords: keywords, built)
    assert plain == {"bias": True, "hidden_size": 4, "read": 0, "rate": 0.25} == keywords_of(built)
    # a subclass with arguments of its own does not take them whole
    assert call_with(type("Own", (Units,), {"__init__": lambda self, **given: None}), built) is not None
    other = NoSettings()
    with pytest.raises(SettingsError, match="hidden_size"):
        call_with(Units, other)


def test_a_name_where_names_are_expected_is_told_how_to_write_a_list():
    @frozen
    class Lists:
        names: tuple[str, ...] | None = setting(None)
        rates: float | tuple[float, ...] = setting(0.1, gt=0)

    with pytest.raises(SettingsError, match=r"names: expected a list such as \['h'\], got 'h' \(str\)"):
        Lists(names="h")
    with pytest.raises(SettingsError, match=r"rates: expected float \| tuple\[float, ...\] > 0, got 'h'"):
        Lists(rates="h")
