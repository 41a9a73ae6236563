"""Learning rules that networks are trained by: texts, or labels of a study's tables of rules."""

from __future__ import annotations

from collections.abc import Iterable

from kpframe.errors import SettingsError, mismatch
from kpframe.study._settings import RuleSettings


def text_of(trained_by: str, rules: Iterable[RuleSettings]) -> str:
    """Return the text of a learning rule, ``"truncated_bptt(window=5)"``.

    Args:
        trained_by: such a text, or the label of one of ``rules``, which goes before.
        rules: the tables of rules.

    Raises:
        SettingsError: for a rule whose name or settings cannot be written so.
    """
    for rule in rules:
        if rule.label == trained_by:
            return _text(rule)
    return trained_by.strip()


def _text(rule: RuleSettings) -> str:
    name = rule.name.replace("-", "_")
    if not name.isidentifier():
        raise SettingsError(mismatch("rule", "a name without its distribution, to train by", repr(rule.name)))
    settings = ", ".join(f"{key}={value!r}" for key, value in rule.settings.items())
    return f"{name}({settings})" if settings else name
