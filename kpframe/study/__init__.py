"""Studies: train networks, measure their operators along the way, keep the results."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

_HOME = {
    "Moment": "_moment",
    "Probe": "_moment",
    "Quantity": "_quantity",
    "Surroundings": "_moment",
    "Tracker": "_tracker",
    "analyze": "_analyze",
    "compare_rules": "_compare",
    "create_quantity": "_quantity",
    "every": "_recording_schedule",
    "log_spaced": "_recording_schedule",
    "log_steps": "_recording_schedule",
    "open_run": "_open",
    "read_dataset": "_results",
    "summary": "_summary",
}

__all__ = [
    "Moment",
    "Probe",
    "Quantity",
    "Surroundings",
    "Tracker",
    "analyze",
    "compare_rules",
    "create_quantity",
    "every",
    "log_spaced",
    "log_steps",
    "open_run",
    "read_dataset",
    "summary",
]

if TYPE_CHECKING:
    from kpframe.study._analyze import analyze
    from kpframe.study._compare import compare_rules
    from kpframe.study._moment import Moment, Probe, Surroundings
    from kpframe.study._open import open_run
    from kpframe.study._quantity import Quantity, create_quantity
    from kpframe.study._recording_schedule import every, log_spaced, log_steps
    from kpframe.study._results import read_dataset
    from kpframe.study._summary import summary
    from kpframe.study._tracker import Tracker


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'kpframe.study' has no attribute {name!r}")
    value: object = getattr(import_module(f"kpframe.study.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
