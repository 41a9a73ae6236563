"""The quick form of a study: what its table ``[quick]`` says, laid over the rest of the file."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from kpframe.errors import mismatch, shown

#: Tables that a study has once for all its forms.
_NOT_IN_QUICK = ("about", "quick")
#: Tables of which one form replaces another: ``{ log = 12 }`` and ``{ count = 3 }``.
_FORMS = ("measure.steps",)


def quick_table(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return the table of the quick form: tables merged key by key, all else replaced, ``quick = true``."""
    rest = {key: value for key, value in table.items() if key != "quick"}
    return {**_laid_over(rest, table["quick"]), "quick": True}


def own_problems(table: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with ``[quick]`` itself, whatever stands in it."""
    quick = table["quick"]
    if not isinstance(quick, Mapping):
        return [mismatch("quick", "a table [quick]", shown(quick))]
    if not quick:
        return [mismatch("quick", "keys that differ in the quick form", "an empty table")]
    return [
        mismatch(f"quick.{key}", "a table or key that differs", f"[{key}], which is of all forms")
        for key in _NOT_IN_QUICK
        if key in quick
    ]


def of_quick(lines: Iterable[str], quick: Mapping[str, Any], known: Collection[str]) -> list[str]:
    """Return problems of the quick form, each by the path of its key in the file.

    What stands in ``[quick]`` has the path ``quick.training.steps``. A key outside it that is wrong beside it
    keeps its path, and the line says so; what is wrong without ``[quick]``, too, is ``known`` already.
    """
    found = []
    for line in lines:
        if _stands_in(line, quick):
            found.append(f"quick.{line}")
        elif line not in known:
            found.append(f"{line} (with what stands in [quick])")
    return [line for line in found if line not in known]


def _laid_over(table: Mapping[str, Any], quick: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    merged = dict(table)
    for key, value in quick.items():
        below, own = merged.get(key), f"{path}{key}"
        if isinstance(value, Mapping) and isinstance(below, Mapping) and own not in _FORMS:
            merged[key] = _laid_over(below, value, f"{own}.")
        else:
            merged[key] = value
    return merged


def _stands_in(line: str, quick: Mapping[str, Any]) -> bool:
    """Return whether the key that a line begins with stands in ``[quick]``."""
    at: Any = quick
    for quoted, plain in re.findall(r'"([^"]*)"|([^.\[\]\s":]+)', line.partition(": ")[0]):
        if not isinstance(at, Mapping):
            return True
        if (quoted or plain) not in at:
            return False
        at = at[quoted or plain]
    return True
