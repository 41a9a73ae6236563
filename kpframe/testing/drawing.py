"""Draw settings from what their attrs class (or a signature) says of them: types, bounds, choices."""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Callable, Mapping
from typing import Any, Literal, Union, get_args, get_origin

from attrs import NOTHING, Attribute, Factory
from hypothesis import find, settings
from hypothesis import strategies as st

from kpframe.settings import NoSettings, _hint, _limits, _settable
from kpframe.testing.residual import CheckFailure
from kpframe.testing.sources import BASES, create, factory_of, find_spec, show, signature_of
from kpframe.testing.values import seeded
from kpframe.weight_files import SUFFIXES

Drawn = st.SearchStrategy[Any]

#: Sizes that stay small enough to write every operator out.
LARGEST = 3

#: How parameters are chosen where a rule asks for names: all, or by torch's naming.
PATTERNS = ("*", "weight_*", "bias_*", "weight_hh_l0")

_SIZES = {"input_size", "hidden_size", "inputs", "hidden", "units", "size", "n"}


def settings_strategy(kind: str, reference: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Return a strategy of keyword settings that build; optional ones are left out half of the time.

    Raises:
        CheckFailure: for a required setting or argument that nothing is known of.
    """
    if isinstance(reference, BASES[kind]) or _is_checkpoint(reference):
        return st.just({})
    spec = find_spec(kind, reference)
    required, optional = (
        _of_class(spec.settings or NoSettings) if spec is not None else _of_signature(kind, reference)
    )

    def goes_together(drawn: Mapping[str, Any]) -> bool:
        try:
            with seeded(0):
                create(kind, reference, drawn)
        except CheckFailure:
            return True  # a check says it better
        except ValueError:
            return False
        return True

    return st.fixed_dictionaries(required, optional=optional).filter(goes_together)


def smallest_settings(kind: str, reference: Any) -> dict[str, Any]:
    """Return the simplest settings that build: those required, and others only where these do not do."""
    return dict(_simplest(settings_strategy(kind, reference)))


def _simplest(strategy: Drawn) -> Any:
    """Return the value that a strategy shrinks to."""
    return find(strategy, lambda _: True, settings=settings(database=None, derandomize=True))


def _of_class(cls: type) -> tuple[dict[str, Drawn], dict[str, Drawn]]:
    required: dict[str, Drawn] = {}
    optional: dict[str, Drawn] = {}
    for attribute in _settable(cls):
        name = attribute.alias or attribute.name
        drawn = _of_hint(name, _hint(cls, attribute), attribute)
        if attribute.default is NOTHING:
            if drawn is None:
                raise CheckFailure(
                    f"setting {name!r} of {cls.__name__}: values of its type cannot be drawn; "
                    "give it a default or choices"
                )
            required[name] = drawn
        elif drawn is not None:
            optional[name] = drawn
    return required, optional


def _of_signature(kind: str, reference: Any) -> tuple[dict[str, Drawn], dict[str, Drawn]]:
    factory = factory_of(kind, reference)
    required: dict[str, Drawn] = {}
    if isinstance(factory, BASES[kind]):
        return {}, {}
    for parameter in signature_of(factory).parameters.values():
        if parameter.default is not inspect.Parameter.empty or parameter.kind in (
            inspect.Parameter.VAR_POSITIONAL,
            inspect.Parameter.VAR_KEYWORD,
        ):
            continue
        sized = parameter.name in _SIZES or parameter.annotation in (int, "int")
        if not sized or parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            raise CheckFailure(
                f"{show(reference)} needs the argument {parameter.name!r}, and nothing says which values it "
                "takes: annotate a size with int, give a default, or register it with a settings class"
            )
        required[parameter.name] = st.integers(1, LARGEST)
    return required, {}


def _of_hint(name: str, hint: Any, attribute: Attribute[Any]) -> Drawn | None:
    """Return a strategy of values of a type within the attribute's limits; None: keep the default."""
    limits, default = _limits(attribute), attribute.default
    known = None if default is NOTHING or isinstance(default, type(Factory(list))) else default
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is tuple:
        inner = _of_hint(name, arguments[0], attribute)
        if name == "parameters" and arguments[0] is str:
            inner = st.sampled_from(PATTERNS)
        if inner is None:
            return None
        if arguments[-1] is not ...:
            return st.tuples(*[inner] * len(arguments)).map(tuple)
        return st.lists(inner, min_size=1, max_size=2, unique=True).map(tuple)
    if origin in (Union, types.UnionType):
        arms = [st.none() if arm is type(None) else _of_hint(name, arm, attribute) for arm in arguments]
        return st.one_of([arm for arm in arms if arm is not None])
    if limits.choices:
        return st.sampled_from(limits.choices)
    if origin is Literal:
        return st.sampled_from(arguments)
    make: dict[Any, Callable[..., Drawn | None]] = {bool: _booleans, int: _integers, float: _floats}
    return make[hint](limits.bounds, known) if hint in make else None


def _booleans(bounds: Mapping[str, float], default: Any) -> Drawn:
    return st.booleans()


def _integers(bounds: Mapping[str, float], default: Any) -> Drawn:
    low = math.floor(bounds["gt"]) + 1 if "gt" in bounds else math.ceil(bounds.get("ge", 0))
    top = math.ceil(bounds["lt"]) - 1 if "lt" in bounds else math.floor(bounds.get("le", low + LARGEST - 1))
    return st.integers(low, max(low, min(top, low + LARGEST - 1)))


def _floats(bounds: Mapping[str, float], default: Any) -> Drawn:
    """Return numbers around the default, or spread over the bounds; a unit is nobody's guess."""
    low, high = bounds.get("gt", bounds.get("ge", -math.inf)), bounds.get("lt", bounds.get("le", math.inf))
    if isinstance(default, int | float) and default and math.isfinite(default):
        candidates = [default, default / 2, default * 1.5]
    elif math.isfinite(low) and math.isfinite(high):
        candidates = [low + f * (high - low) for f in (0.5, 0.25, 0.9)]
    elif math.isfinite(low):
        candidates = [low + 1, low + 0.5, low + 0.1]
    elif math.isfinite(high):
        candidates = [high - 1, high - 0.5, high - 0.1]
    else:
        candidates = [1.0, 0.5, -0.5]
    inside = [
        c
        for c in candidates
        if low < c < high or (c == low and "ge" in bounds) or (c == high and "le" in bounds)
    ]
    return st.sampled_from(inside or [default])


def _is_checkpoint(reference: object) -> bool:
    return isinstance(reference, str) and reference.endswith(SUFFIXES)
