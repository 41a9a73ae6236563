"""Learning rules as text: ``frozen(parameters=["bias*"]) @ truncated_bptt(window=5)``."""

from __future__ import annotations

import ast
from typing import Any

from kpframe.errors import ArgumentError, mismatch
from kpframe.rules._rule import LearningRule, create_rule

_FORM = "a rule such as bptt, truncated_bptt(window=5) or two joined by @"


def parse_rule(text: str) -> LearningRule:
    """Return the rule that a text names: a registered name, settings as keywords, rules composed by ``@``.

    Raises:
        ArgumentError: for text of another form.
        UnknownNameError, SettingsError: as ``create_rule``.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise ArgumentError(mismatch("rule", _FORM, f"{text!r} ({error.msg})")) from error
    return _rule(tree, text)


def _rule(node: ast.expr, text: str) -> LearningRule:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
        return _rule(node.left, text) @ _rule(node.right, text)
    if isinstance(node, ast.Name):
        return create_rule(node.id)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
        settings: dict[str, Any] = {}
        for word in node.keywords:
            if word.arg in settings:
                raise ArgumentError(mismatch(f"rule {text!r}: {word.arg}", "one value", "several"))
            settings[str(word.arg)] = _value(word, text)
        return create_rule(node.func.id, **settings)
    raise ArgumentError(mismatch("rule", _FORM, repr(text)))


def _value(word: ast.keyword, text: str) -> Any:
    if word.arg is None:
        raise ArgumentError(mismatch("rule", _FORM, repr(text)))
    if word.arg == "rule":  # a rule around another one
        return _rule(word.value, text)
    if isinstance(word.value, ast.Name) and word.value.id not in ("True", "False", "None"):
        return word.value.id  # mode=chunked, without quotes
    try:
        return ast.literal_eval(word.value)
    except ValueError as error:
        raise ArgumentError(
            mismatch(f"rule {text!r}: {word.arg}", "a plain value", "an expression")
        ) from error
