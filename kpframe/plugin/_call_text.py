"""Registered names with settings as text: ``truncated_bptt(window=5)``, ``spectrum(k=10)``, ``trace``."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import Any

from kpframe.errors import ArgumentError, mismatch


def parse_expression(text: str, argument: str, form: str) -> ast.expr:
    """Return the expression that a text is.

    Args:
        text: what was given.
        argument: its name, for messages.
        form: what is expected, in words.

    Raises:
        ArgumentError: for text that is no expression.
    """
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError) as error:  # ValueError for a null character
        reason = getattr(error, "msg", None) or str(error)
        raise ArgumentError(mismatch(argument, form, f"{text!r} ({reason})")) from error


def parse_call(
    node: ast.expr,
    text: str,
    argument: str,
    form: str,
    inner: Mapping[str, Callable[[ast.expr], object]] | None = None,
) -> tuple[str, dict[str, Any]]:
    """Return the name and the settings of ``name`` or ``name(setting=value, ...)``.

    A value is a plain one, as Python writes it, or a bare word for itself: ``mode=chunked``.

    Args:
        node: the expression.
        text: what it is in, for messages.
        argument, form: as for ``parse_expression``.
        inner: settings whose values are no plain ones -> what reads them.

    Raises:
        ArgumentError: for another form, a setting that is given twice, and values that are computed.
    """
    if isinstance(node, ast.Name):
        return node.id, {}
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.args:
        raise ArgumentError(mismatch(argument, form, repr(text)))
    settings: dict[str, Any] = {}
    for word in node.keywords:
        if word.arg is None:
            raise ArgumentError(mismatch(argument, form, repr(text)))
        if word.arg in settings:
            raise ArgumentError(mismatch(f"{argument} {text!r}: {word.arg}", "one value", "several"))
        read = (inner or {}).get(word.arg)
        settings[word.arg] = (
            _plain(word.value, f"{argument} {text!r}: {word.arg}") if read is None else read(word.value)
        )
    return node.func.id, settings


def _plain(node: ast.expr, where: str) -> Any:
    if isinstance(node, ast.Name) and node.id not in ("True", "False", "None"):
        return node.id  # mode=chunked, without quotes
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError) as error:  # TypeError for a set of lists
        raise ArgumentError(mismatch(where, "a plain value", "an expression")) from error
