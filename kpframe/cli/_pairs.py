"""Options of the form ``KEY=VALUE``, which may be repeated."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

import click


def read_pairs(pairs: Sequence[str], option: str) -> dict[str, Any]:
    """Return ``key=value`` pairs; a value that is no Python literal is text."""
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            raise click.BadParameter(f"expected KEY=VALUE, got {pair!r}", param_hint=f"'{option}'")
        if key.strip() in found:
            raise click.BadParameter(f"{key.strip()!r} is given twice", param_hint=f"'{option}'")
        try:
            found[key.strip()] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            found[key.strip()] = text
    return found
