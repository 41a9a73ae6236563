"""Constructors whose arguments are a Settings class: declared once, checked wherever it is called from.

>>> from attrs import frozen
>>> from kpframe.plugin import setting
>>> @frozen
... class OscillatorSettings:
...     hidden_size: int = setting(ge=1, help="oscillators")
...     dt: float = setting(0.05, gt=0, help="time step [s]")
>>> class Oscillator:
...     @takes_settings(OscillatorSettings)
...     def __init__(self, settings):
...         self.step = settings.dt
>>> Oscillator(3, dt=1).step
1.0
>>> inspect.signature(Oscillator)
<Signature (hidden_size: int, dt: float = 0.05) -> None>
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast, overload

from attrs import fields

from kpframe.errors import SettingsError, mismatch
from kpframe.plugin._settings import SettingInfo, build_settings, describe

_MARK = "_kpframe_settings"

P = ParamSpec("P")
S = TypeVar("S")
S_co = TypeVar("S_co", covariant=True)
R = TypeVar("R")
Self_ = TypeVar("Self_")


class _Decorator(Protocol[P, S_co]):
    """Gives a function of one settings object, or an ``__init__``, the settings' names as arguments."""

    @overload
    def __call__(self, function: Callable[[S_co], R], /) -> Callable[P, R]: ...

    @overload
    def __call__(self, function: Callable[[Self_, S_co], R], /) -> Callable[Concatenate[Self_, P], R]: ...


def takes_settings(cls: Callable[P, S]) -> _Decorator[P, S]:
    """Return a decorator: a function of one ``cls`` object takes the settings of ``cls`` as its arguments.

    It is for a factory's ``__init__(self, settings)`` and for a function ``make(settings)``. Names, types,
    defaults, bounds and help are those declared in the attrs class ``cls``, once: calls are checked as
    ``create_model`` checks them, ``inspect.signature`` and ``help`` show them, and type checkers know the
    names and types. Settings that are required come first, for calls by position. An object of ``cls`` in
    place of them all is taken as it is, and a subclass may hand on to ``super().__init__`` one of a class
    derived from ``cls`` (type checkers know the names only).

    Args:
        cls: the attrs class of the settings, the one that the spec names.

    Raises:
        SettingsError: when an annotation of ``cls`` cannot be resolved; from each call, listing everything
            that is wrong with its arguments at once.
    """
    settings = cast(type[S], cls)
    signature = _signature(settings)

    def decorate(function: Callable[..., R]) -> Callable[..., R]:
        is_method = len(inspect.signature(function).parameters) > 1

        @wraps(function)
        def call(*args: Any, **keywords: Any) -> R:
            before = args[:1] if is_method else ()
            owner = type(args[0]).__name__ if is_method else function.__name__
            # a subclass, whose settings have more, may hand them on; a call may not have what is not read
            handed_on = is_method and type(args[0]).__init__ is not call
            given = args[len(before) :]
            whole = isinstance if handed_on else _is_exactly
            if len(given) == 1 and whole(given[0], settings):
                if keywords:
                    raise SettingsError(
                        f"{owner}: expected a {settings.__name__} or settings by name, got one and "
                        f"{', '.join(keywords)} beside it; attrs.evolve changes fields"
                    )
                return function(*before, given[0])
            return function(*before, _read(settings, signature, given, keywords, owner))

        own = [inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)] if is_method else []
        result = None if is_method else inspect.signature(function).return_annotation
        call.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[*own, *signature.parameters.values()], return_annotation=result
        )
        call.__doc__ = _document(function.__doc__, settings)
        setattr(call, _MARK, settings)
        return call

    return cast(_Decorator[P, S], decorate)


def call_with(factory: Callable[..., Any], settings: Any, *arguments: Any) -> Any:
    """Return ``factory`` called with a settings object, or with its fields where it does not take that.

    What it is made of, ``arguments``, goes before the fields.
    """
    if not arguments and _takes_whole(factory, settings):
        return factory(settings)
    return factory(*arguments, **keywords_of(settings))


def keywords_of(settings: Any) -> dict[str, Any]:
    """Return the fields of a settings object, by the names they are given under."""
    return {
        attribute.alias or attribute.name: getattr(settings, attribute.name)
        for attribute in fields(type(settings))
        if attribute.init
    }


def _is_exactly(value: object, cls: type) -> bool:
    return type(value) is cls


def _takes_whole(factory: Callable[..., Any], settings: Any) -> bool:
    function = factory.__init__ if isinstance(factory, type) else factory  # type: ignore[misc]
    cls = getattr(function, _MARK, None)
    return cls is type(settings)


def _read(
    cls: type[S], signature: inspect.Signature, args: tuple[Any, ...], keywords: Mapping[str, Any], owner: str
) -> S:
    """Return the settings that a call gives."""
    names = list(signature.parameters)
    if len(args) > len(names):
        raise SettingsError(mismatch(owner, f"at most {len(names)} settings", len(args)))
    twice = [name for name in names[: len(args)] if name in keywords]
    if twice:
        raise SettingsError(mismatch(f"{owner}: {twice[0]}", "one value", "two, by position and by name"))
    return build_settings(cls, {**dict(zip(names, args, strict=False)), **keywords}, owner=owner)


def _signature(cls: type) -> inspect.Signature:
    infos = sorted(describe(cls), key=lambda info: not info.required)
    return inspect.Signature([_parameter(info) for info in infos])


def _parameter(info: SettingInfo) -> inspect.Parameter:
    default = inspect.Parameter.empty if info.required else info.default
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Parameter(info.name, kind, default=default, annotation=info.annotation)


def _document(text: str | None, cls: type) -> str:
    """Return a docstring with the settings in the place of its arguments."""
    lines = [inspect.cleandoc(text or f"Take the settings of ``{cls.__name__}``.")]
    infos = sorted(describe(cls), key=lambda info: not info.required)
    if infos:
        lines += ["", "Args:"]
    for info in infos:
        default = "" if info.required else f"; default {info.default!r}"
        lines.append(f"    {info.name} ({info.expected}{default}): {info.help}".rstrip(": "))
    return "\n".join(lines)
