"""Learning rules as text: ``frozen(parameters=["bias*"]) @ truncated_bptt(window=5)``."""

from __future__ import annotations

import ast

from kpframe.plugin._call_text import parse_call, parse_expression
from kpframe.rules._rule import LearningRule, create_rule

_FORM = "a rule such as bptt, truncated_bptt(window=5) or two joined by @"


def parse_rule(text: str) -> LearningRule:
    """Return the rule that ``text`` names: a registered name, settings as keywords, rules composed by ``@``.

    Raises:
        ArgumentError: for text of another form.
        UnknownNameError, SettingsError: as ``create_rule``.

    Examples:
        >>> import kpframe
        >>> kpframe.rules.parse_rule("frozen(parameters=['bias*']) @ bptt")
        Frozen(parameters=['bias*']) @ BPTT()
    """
    return _rule(parse_expression(text, "rule", _FORM), text)


def _rule(node: ast.expr, text: str) -> LearningRule:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
        return _rule(node.left, text) @ _rule(node.right, text)
    around = {"rule": lambda inner: _rule(inner, text)}  # a rule around another one
    name, settings = parse_call(node, text, "rule", _FORM, around)
    return create_rule(name, **settings)
