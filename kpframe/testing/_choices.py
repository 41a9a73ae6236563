"""What settings may be, simplest first, from what their attrs class (or a signature) says of them."""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, combinations, islice, permutations, product
from typing import Any, Literal, Union, get_args, get_origin

from attrs import NOTHING, Attribute, Factory, frozen

from kpframe.errors import MemoryBudgetError, UnsupportedError
from kpframe.plugin._settings import NoSettings, _hint, _limits, _settable
from kpframe.study._networks.weight_files import SUFFIXES
from kpframe.testing._forms import examples
from kpframe.testing._residual import CheckFailure
from kpframe.testing._sources import BASES, FORMS, create, factory_of, find_spec, show, signature_of
from kpframe.testing._values import seeded

#: Sizes that stay small enough to write every operator out.
LARGEST = 3

#: How parameters are chosen where a rule asks for names: all, or by torch's naming.
PATTERNS = ("*", "weight_*", "bias_*", "weight_hh_l0")

_SIZES = {"input_size", "hidden_size", "inputs", "hidden", "units", "size", "n"}

#: How many settings are tried in search of the simplest that build.
_TRIES = 500

#: How many values of one setting are tried in that search.
_VALUES = 8


@frozen
class Among:
    """One of some values; the first is the simplest."""

    values: Sequence[Any]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.values)


@frozen
class Either:
    """What any of some choices allows."""

    arms: tuple[Choice, ...]

    def __iter__(self) -> Iterator[Any]:
        return chain.from_iterable(self.arms)


@frozen
class Several:
    """A tuple: of a length, or, where that is None, of one or two different values."""

    item: Choice
    length: int | None

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        if self.length is not None:
            return product(self.item, repeat=self.length)
        return chain(((value,) for value in self.item), permutations(self.item, 2))


Choice = Among | Either | Several
Choices = dict[str, Choice]


def choices_of(kind: str, reference: Any) -> tuple[Choices, Choices]:
    """Return what the settings of a kind of thing may be: of those required, and of the others.

    Raises:
        CheckFailure: for a required setting or argument that nothing is known of.
    """
    if isinstance(reference, BASES[kind]) or _is_checkpoint(reference):
        return {}, {}
    spec = find_spec(kind, reference)
    return of_class(spec.settings or NoSettings) if spec is not None else _of_signature(kind, reference)


def go_together(kind: str, reference: Any, settings: Mapping[str, Any]) -> bool:
    """Whether settings build, or fail in a way that is a fault and no refusal of these settings."""
    return _refusal(kind, reference, settings) is None


def smallest_settings(kind: str, reference: Any) -> dict[str, Any]:
    """Return the simplest settings that build: those required, and others only where these do not do.

    Raises:
        CheckFailure: when none of those tried go together, or nothing is known of a required one.
    """
    required, optional = choices_of(kind, reference)
    if not required and not optional:
        return {}
    first: tuple[dict[str, Any], Exception] | None = None
    for settings in islice(_simplest_first(required, optional), _TRIES):
        refusal = _refusal(kind, reference, settings)
        if refusal is None:
            return settings
        first = first or (settings, refusal)
    assert first is not None  # there is always one to try: every choice has a value
    raise CheckFailure(
        f"{show(reference)}: no settings were found that go together; {first[0]} are refused: {first[1]}"
    ) from first[1]


def of_class(cls: type) -> tuple[Choices, Choices]:
    """Return what the fields of a settings class may be: of those required, and of the others."""
    required: Choices = {}
    optional: Choices = {}
    for attribute in _settable(cls):
        name = attribute.alias or attribute.name
        choice = _of_hint(name, _hint(cls, attribute), attribute)
        if attribute.default is NOTHING:
            if choice is None:
                raise CheckFailure(
                    f"setting {name!r} of {cls.__name__}: values of its type cannot be drawn; "
                    "give it a default or choices"
                )
            required[name] = choice
        elif choice is not None:
            optional[name] = choice
    return required, optional


def _refusal(kind: str, reference: Any, settings: Mapping[str, Any]) -> Exception | None:
    for arguments in [(value,) for value in examples(kind)] if kind in FORMS else [()]:
        try:
            with seeded(0):
                create(kind, reference, settings, *arguments)
        except UnsupportedError:
            continue  # it does not fit this one; the next one tells
        except CheckFailure:
            return None  # a check says it better
        except (ValueError, MemoryBudgetError) as error:
            return error
        return None
    return None


def _simplest_first(required: Choices, optional: Choices) -> Iterator[dict[str, Any]]:
    """Yield settings with ever more optional ones, and among these with ever larger steps from the first."""
    for count in range(len(optional) + 1):
        for names in combinations(optional, count):
            chosen = required | {name: optional[name] for name in names}
            values = [list(islice(choice, _VALUES)) for choice in chosen.values()]
            places = product(*(range(len(each)) for each in values))
            for place in sorted(islice(places, _TRIES), key=sum):
                yield {name: each[i] for name, each, i in zip(chosen, values, place, strict=True)}


def _of_signature(kind: str, reference: Any) -> tuple[Choices, Choices]:
    factory = factory_of(kind, reference)
    required: Choices = {}
    if isinstance(factory, BASES[kind]):
        return {}, {}
    parameters = list(signature_of(factory).parameters.values())
    for parameter in parameters[1:] if kind in FORMS else parameters:
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
        required[parameter.name] = Among(range(1, LARGEST + 1))
    return required, {}


def _of_hint(name: str, hint: Any, attribute: Attribute[Any]) -> Choice | None:
    """Return the values of a type within the attribute's limits; None: keep the default."""
    limits, default = _limits(attribute), attribute.default
    known = None if default is NOTHING or isinstance(default, type(Factory(list))) else default
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is tuple:
        inner = _of_hint(name, arguments[0], attribute)
        if name == "parameters" and arguments[0] is str:
            inner = Among(PATTERNS)
        if inner is None:
            return None
        return Several(inner, None if arguments[-1] is ... else len(arguments))
    if origin in (Union, types.UnionType):
        arms = [Among((None,)) if arm is type(None) else _of_hint(name, arm, attribute) for arm in arguments]
        return Either(tuple(arm for arm in arms if arm is not None))
    if limits.choices:
        return Among(limits.choices)
    if origin is Literal:
        return Among(arguments)
    make: dict[Any, Callable[..., Choice]] = {bool: _booleans, int: _integers, float: _floats}
    return make[hint](limits.bounds, known) if hint in make else None


def _booleans(bounds: Mapping[str, float], default: Any) -> Among:
    return Among((False, True))


def _integers(bounds: Mapping[str, float], default: Any) -> Among:
    low = math.floor(bounds["gt"]) + 1 if "gt" in bounds else math.ceil(bounds.get("ge", 0))
    top = math.ceil(bounds["lt"]) - 1 if "lt" in bounds else math.floor(bounds.get("le", low + LARGEST - 1))
    return Among(range(low, max(low, min(top, low + LARGEST - 1)) + 1))


def _floats(bounds: Mapping[str, float], default: Any) -> Among:
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
    return Among(inside or [default])


def _is_checkpoint(reference: object) -> bool:
    return isinstance(reference, str) and reference.endswith(SUFFIXES)
