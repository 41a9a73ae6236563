"""How pages write figures and lists."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import xarray as xr

#: A part of a text that is a formula, and how long a text may be that nothing is cut from.
_FORMULA, _WHOLE = re.compile(r"[<>|=/()\[\]]"), 70


def in_words(values: xr.DataArray) -> str:
    """Return what values are, from their ``long_name``: without its formulas, and what follows them if long.

    ``"relative error |P - P_k| / |P| of the propagator"`` is a relative error of the propagator.
    Where nothing is left it is their name.
    """
    name = str(values.name or "").replace("_", " ")
    text = str(values.attrs.get("long_name", name))
    kept = [part for part in text.split() if not _FORMULA.search(part) and re.search(r"\w", part)]
    said = " ".join(kept).strip(" ,;:-")
    if len(said) > _WHOLE or len(kept) < len(text.split()):
        said = re.split(r"[,:;] ", said)[0]
    return said if len(said.split()) > 1 or said == text else name


def headed(texts: Sequence[str]) -> str:
    """Return the heading of several figures: what the first few are, and how many more there are."""
    shown = list(dict.fromkeys(texts))
    text = few(shown, 3) if len(shown) > 3 else joined(shown)
    return text[:1].upper() + text[1:]


def plus_minus(value: xr.DataArray | float, stderr: xr.DataArray | float) -> str:
    """Return a value and its standard error, both to two digits of the error."""
    number, error = float(value), float(stderr)
    if math.isnan(number):
        return "none"
    if not (0 < error < math.inf):
        return f"{number:.5g} (exact)" if error == 0 else f"{number:.5g} ± {error}"
    place = 1 - math.floor(math.log10(error))
    return f"{round(number, place):.{max(place, 0)}f} ± {round(error, place):.{max(place, 0)}f}"


def estimated(value: float, stderr: float) -> str:
    """Return a value with its standard error where one is known and is not zero."""
    return plus_minus(value, stderr) if 0 < stderr < math.inf else f"{value:.4g}"


def two_digits(value: float) -> str:
    """Return a number to two digits, zeros among them."""
    return f"{value:#.2g}".rstrip(".")


def joined(parts: Sequence[str]) -> str:
    """Return parts as a sentence lists them; nothing for none."""
    return ", ".join(parts[:-1]) + f" and {parts[-1]}" if len(parts) > 1 else "".join(parts)


def few(names: Sequence[object], most: int = 6) -> str:
    """Return the first of some names, and how many more there are."""
    shown = [str(name) for name in names[:most]]
    return joined(shown) if len(names) <= most else f"{', '.join(shown)} and {len(names) - most} more"


def counted(count: int, noun: str) -> str:
    """Return a number of things, ``"1 step"``, ``"3 steps"``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def named(label: object) -> str:
    """Return a label as a sentence takes it: in quotes where it has commas or spaces of its own."""
    text = str(label)
    return f"“{text}”" if any(mark in text for mark in ", ") else text


def unit_in_words(values: xr.DataArray) -> str:
    """Return the unit of values as it stands behind a number, with a space; nothing for plain numbers."""
    unit = str(values.attrs.get("units", "1"))
    return "" if unit == "1" else f" {unit}"
