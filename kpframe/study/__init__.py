"""Studies: train networks, measure their operators along the way, keep the results."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

_HOME = {
    "compare_rules": "_compare",
    "open_run": "_open",
    "read_dataset": "_results",
    "summary": "_summary",
}

__all__ = ["compare_rules", "open_run", "read_dataset", "summary"]

if TYPE_CHECKING:
    from kpframe.study._compare import compare_rules
    from kpframe.study._open import open_run
    from kpframe.study._results import read_dataset
    from kpframe.study._summary import summary


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'kpframe.study' has no attribute {name!r}")
    value: object = getattr(import_module(f"kpframe.study.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
