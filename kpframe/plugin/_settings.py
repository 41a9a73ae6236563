"""Settings: the fields of a small frozen attrs class, checked by type, bounds and choices.

>>> from attrs import frozen
>>> @frozen
... class Settings:
...     input_size: int = setting(ge=1, help="inputs per step")
...     dt: float = setting(0.05, gt=0, help="time step [s]")
>>> build_settings(Settings, {"input_size": 3, "dt": 1}, owner="model 'demo'")
Settings(input_size=3, dt=1.0)
"""

from __future__ import annotations

import math
import operator
import reprlib
import types
from collections.abc import Iterable, Mapping
from functools import cache
from numbers import Real
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from attrs import NOTHING, Attribute, Converter, Factory, field, fields, frozen

from kpframe.errors import SettingsError, as_whole, closest, mismatch

_KEY = "kpframe.setting"
_SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
_TAKES_ITEMS = (list, tuple)

T = TypeVar("T")


@frozen
class NoSettings:
    """The settings of what has none."""


class _Computed:
    """The default of a setting that follows from the others."""

    def __repr__(self) -> str:
        return "(computed)"


@frozen
class SettingInfo:
    """What a reader wants to know about one setting; ``default`` is ``attrs.NOTHING`` when required."""

    name: str
    annotation: Any
    default: Any
    bounds: str
    choices: tuple[Any, ...]
    help: str

    @property
    def type(self) -> str:
        """The annotation as text."""
        return _text(self.annotation)

    @property
    def expected(self) -> str:
        """What a value has to be: its type and bounds, or its choices."""
        return _expected(self.type, self.bounds, self.choices)

    @property
    def required(self) -> bool:
        """Whether a value must be given."""
        return self.default is NOTHING


@frozen
class _Limits:
    """Bounds and choices of one setting; they hold for each entry of a tuple, and not for None."""

    bounds: Mapping[str, float] = {}
    choices: tuple[Any, ...] = ()
    help: str = ""

    def __str__(self) -> str:
        return " and ".join(f"{_SIGNS[name]} {bound}" for name, bound in self.bounds.items())

    def expected(self, hint: str) -> str:
        return _expected(hint, str(self), self.choices)

    def allow(self, value: Any) -> bool:
        if isinstance(value, _TAKES_ITEMS):
            return all(self.allow(entry) for entry in value)
        if value is None:
            return True
        if isinstance(value, Real) and not all(
            getattr(operator, name)(value, bound) for name, bound in self.bounds.items()
        ):
            return False
        return not self.choices or value in self.choices


class _Refused(Exception):
    """The value is not of the annotated type; the text says what was expected."""


def setting(
    default: Any = NOTHING,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    choices: Iterable[Any] | None = None,
    help: str = "",
) -> Any:
    """Return the attrs field of one setting, keyword only.

    The field checks and converts by its annotation: an int is taken for ``float``, a list or an array
    for ``tuple[float, ...]``. Bounds and ``choices`` hold for each entry of a tuple, and not for None.

    Args:
        default: its value when it is not given; without one it is required.
        ge: the lower bound, included.
        gt: the lower bound, excluded.
        le: the upper bound, included.
        lt: the upper bound, excluded.
        choices: the values allowed; None allows all within the bounds.
        help: what it is, with its unit in brackets, ``"time step [s]"``, for ``kpframe show``.

    Raises:
        SettingsError: when the default itself breaks the bounds or is not among the choices.
    """
    given = {"ge": ge, "gt": gt, "le": le, "lt": lt}
    bounds = {name: bound for name, bound in given.items() if bound is not None}
    limits = _Limits(bounds, tuple(choices or ()), help)
    if default is not NOTHING and not _is_computed(default) and not limits.allow(default):
        raise SettingsError(mismatch("default", limits.expected("a value"), _show(default)))
    # A converter, not a validator: it sees the class, so one function both converts and checks.
    converter = Converter(_convert_field, takes_self=True, takes_field=True)
    return field(default=default, kw_only=True, converter=converter, metadata={_KEY: limits})


def build_settings(
    cls: type[T], values: Mapping[str, Any], *, owner: str, joint: str = ": ", of: str = "its settings"
) -> T:
    """Return ``cls(**values)``, or say everything that is wrong with ``values`` at once.

    Args:
        cls: an attrs class.
        values: the settings, by name.
        owner: whose settings they are; with ``joint`` and a setting's name what a line begins with.
        joint: stands between the two, ``"."`` for the path of a key.
        of: what an unknown name is none of.

    Raises:
        SettingsError: one line for each unknown, missing, mistyped or out-of-bounds setting.
    """
    known = {attribute.alias or attribute.name: attribute for attribute in _settable(cls)}
    have = ", ".join(known) or "no settings"
    problems = [
        f"{owner}{joint}{name}: expected one of {of} ({have}), got an unknown name{closest(str(name), known)}"
        for name in values
        if name not in known
    ]
    clean: dict[str, Any] = {}
    for name, attribute in known.items():
        try:
            if name in values:
                clean[name] = _check(cls, attribute, values[name], f"{owner}{joint}{name}")
            elif attribute.default is NOTHING:
                expected = _limits(attribute).expected(_text(_hint(cls, attribute)))
                problems.append(mismatch(f"{owner}{joint}{name}", expected, "nothing (it is required)"))
        except SettingsError as error:
            problems.append(str(error))
    if problems:
        raise SettingsError("\n".join(problems))
    try:
        return cls(**clean)
    except (TypeError, ValueError) as error:  # the class's own checks across its fields
        raise SettingsError(f"{owner}: {error}") from error


def describe(cls: type | None) -> list[SettingInfo]:
    """Return what there is to say about each setting of the attrs class ``cls``, in order.

    Raises:
        SettingsError: when an annotation of ``cls`` cannot be resolved.
    """
    infos = []
    for attribute in _settable(cls or NoSettings):
        limits = _limits(attribute)
        default: Any = attribute.default
        if _is_computed(default):
            default = _Computed() if default.takes_self else default.factory()
        hint = _hint(cls or NoSettings, attribute)
        infos.append(
            SettingInfo(
                attribute.alias or attribute.name, hint, default, str(limits), limits.choices, limits.help
            )
        )
    return infos


def _settable(cls: type) -> list[Attribute[Any]]:
    return [attribute for attribute in fields(cls) if attribute.init]


def _limits(attribute: Attribute[Any]) -> _Limits:
    return attribute.metadata.get(_KEY, _Limits())  # type: ignore[no-any-return]


def _is_computed(default: Any) -> bool:
    return isinstance(default, type(Factory(list)))


def _hint(cls: type, attribute: Attribute[Any]) -> Any:
    return _hints(cls).get(attribute.name, Any)


@cache
def _hints(cls: type) -> dict[str, Any]:
    try:
        return get_type_hints(cls)
    except (NameError, TypeError, SyntaxError) as error:
        raise SettingsError(
            f"{cls.__qualname__}: the annotations cannot be resolved ({error}); "
            "import what they name at run time, in the module that defines the class"
        ) from error


def _convert_field(value: Any, instance: Any, attribute: Attribute[Any]) -> Any:
    cls = type(instance)
    return _check(cls, attribute, value, f"{cls.__name__}.{attribute.name}")


def _check(cls: type, attribute: Attribute[Any], value: Any, label: str) -> Any:
    """Return ``value`` in its annotated type, or raise SettingsError beginning with ``label``."""
    hint, limits = _hint(cls, attribute), _limits(attribute)
    try:
        converted = _convert(hint, value)
    except _Refused as refused:
        got = f"{_show(value)} ({type(value).__name__})"
        raise SettingsError(mismatch(label, limits.expected(str(refused)), got)) from None
    if not limits.allow(converted):
        near = closest(value, map(str, limits.choices)) if isinstance(value, str) else ""
        raise SettingsError(mismatch(label, limits.expected(_text(hint)), _show(value)) + near)
    return converted


def _convert(hint: Any, value: Any) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is bool or hint is str:
        if isinstance(value, hint):
            return value
    elif hint is int:
        number = as_whole(value)
        if number is not None:
            return number
    elif hint is float:
        return _convert_float(value)
    elif origin is Literal:
        for argument in arguments:
            if type(value) is type(argument) and value == argument:
                return value
    elif origin in (Union, types.UnionType):
        # The arm that is the value's own type goes first, so that an int stays one in ``float | int``.
        for arm in sorted(arguments, key=lambda arm: arm is not type(value)):
            try:
                return _convert(arm, value)
            except _Refused:
                continue
    elif origin is tuple:
        # arrays and tensors, but not those of one number, are lists of numbers
        items = value.tolist() if getattr(value, "ndim", 0) and hasattr(value, "tolist") else value
        if isinstance(items, _TAKES_ITEMS):
            return _convert_items(hint, arguments, items)
    elif _is_instance(value, origin or hint):
        return value
    if isinstance(value, str) and tuple[str, ...] in (hint, *arguments):
        raise _Refused(f"a list such as [{value!r}]")
    raise _Refused(_text(hint))


def _is_instance(value: Any, hint: Any) -> bool:
    try:
        return not isinstance(hint, type) or isinstance(value, hint)
    except TypeError:  # Any, and protocols, are classes that cannot be asked
        return True


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _convert_float(value: Any) -> float:
    if _is_number(value, Real):
        try:
            number = float(value)
        except OverflowError:
            raise _Refused("a number that fits a float") from None
        if not math.isnan(number):
            return number
        raise _Refused("a number")
    raise _Refused("float")


def _convert_items(hint: Any, arguments: tuple[Any, ...], value: Iterable[Any]) -> tuple[Any, ...]:
    items = tuple(value)
    hints = (arguments[0],) * len(items) if arguments[-1:] == (...,) else arguments
    if len(hints) != len(items):
        raise _Refused(_text(hint))
    try:
        return tuple(_convert(entry_hint, item) for entry_hint, item in zip(hints, items, strict=True))
    except _Refused:
        raise _Refused(_text(hint)) from None


def _text(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is type(None):
        return "None"
    if origin is Literal:
        return " | ".join(map(repr, arguments))
    if origin in (Union, types.UnionType):
        return " | ".join(map(_text, arguments))
    if origin is None and isinstance(hint, type):
        return hint.__name__
    return str(hint).removeprefix("typing.")


def _expected(hint: str, bounds: str, choices: tuple[Any, ...]) -> str:
    return f"one of {', '.join(map(repr, choices))}" if choices else f"{hint} {bounds}".rstrip()


def _show(value: Any) -> str:
    """Return a short repr on one line, also of arrays."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 80
    return " ".join(short.repr(value).split())
