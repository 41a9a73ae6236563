"""Quantities as text: ``trace``, ``spectrum(k=10)``, and ``late:spectrum(k=10)`` with a label of its own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from attrs import frozen

from kpframe.errors import ArgumentError, mismatch, shown
from kpframe.plugin._call_text import parse_call, parse_expression
from kpframe.study._quantity import Quantity, create_quantity

#: Texts or objects, or either by label.
Quantities: TypeAlias = "Iterable[str | Quantity] | Mapping[str, str | Quantity]"

_FORM = "a quantity such as trace, spectrum(k=10) or late:spectrum(k=10)"


@frozen(eq=False)
class Asked:
    """A quantity that is asked for.

    Attributes:
        text: registered name and settings; of an object, which nobody can make anew by its text, empty.
    """

    quantity: Quantity
    text: str = ""


def parse_quantities(given: Quantities) -> dict[str, Asked]:
    """Return quantities by label.

    A text's label is the registered name, with the own label before it that the text begins with, or the key
    of the mapping; the label of an object is its key, or the name of its class.

    Raises:
        ArgumentError: for text of another form, and what is given twice.
        UnknownNameError, SettingsError: as ``create_quantity``.
    """
    made: dict[str, Asked] = {}
    for key, value in labelled(given, "quantities").items():
        if isinstance(value, str):
            own, text = _own_label(value)
            name, quantity = _create(text, value)
            if isinstance(given, Mapping):
                own = None if key == name else key.partition(":")[0]
            label, asked = name if own is None else f"{own}:{name}", Asked(quantity, text.strip())
        elif isinstance(value, Quantity):
            label, asked = key, Asked(value)
        else:
            expected = "a kpframe.study.Quantity or its text"
            raise ArgumentError(mismatch(f"quantities[{key!r}]", expected, shown(value)))
        if label in made:
            expected = f"another label for each, such as 'late:{label.rpartition(':')[2]}(...)'"
            raise ArgumentError(mismatch("quantities", expected, f"{label!r} twice"))
        made[label] = asked
    if not made:
        raise ArgumentError(mismatch("quantities", "at least one, or None for those of a study", "none"))
    return made


def quantities_of_texts(texts: Mapping[str, str]) -> dict[str, Quantity]:
    """Return the quantities that ``Asked.text`` told of, by label; without those that were objects."""
    return {label: _create(text, text)[1] for label, text in texts.items() if text}


def labelled(given: Iterable[Any] | Mapping[str, Any], argument: str) -> dict[str, Any]:
    """Return what is given by its label: its key, or its text; what has neither, by the name of its class."""
    if isinstance(given, Mapping):
        return {str(label): value for label, value in given.items()}
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ArgumentError(mismatch(argument, "a list of texts or objects", shown(given)))
    found: dict[str, Any] = {}
    for value in given:
        label = value.strip() if isinstance(value, str) else type(value).__name__
        if label in found:
            expected = "each once; a mapping gives labels of one's own"
            raise ArgumentError(mismatch(argument, expected, f"{label} twice"))
        found[label] = value
    return found


def _create(text: str, whole: str) -> tuple[str, Quantity]:
    """Return the registered name in a text, and its quantity."""
    node = parse_expression(text, "quantities", _FORM)
    name, settings = parse_call(node, whole, "quantities", _FORM)
    return name, create_quantity(name, **settings)


def _own_label(text: str) -> tuple[str | None, str]:
    """Return the label before the first colon, None without one, and the rest."""
    found = re.fullmatch(r"\s*([^:()=\"']+?)\s*:(.*)", text, re.DOTALL)
    return (found[1], found[2]) if found else (None, text)
