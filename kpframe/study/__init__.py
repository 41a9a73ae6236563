"""Studies: train networks, measure their operators along the way, keep the results."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

_HOME = {
    "Moment": "_moment",
    "Probe": "_moment",
    "Quantity": "_quantity",
    "Surroundings": "_moment",
    "Tracker": "_tracking.tracker",
    "analyze": "_networks.analyze",
    "compare_rules": "_rules.compare",
    "create_quantity": "_quantity",
    "every": "_tracking.schedule",
    "log_spaced": "_tracking.schedule",
    "log_steps": "_tracking.schedule",
    "open_run": "_reading.open",
    "read_dataset": "_disk.results",
    "summary": "_reading.summary",
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
    from kpframe.study._disk.results import read_dataset
    from kpframe.study._moment import Moment, Probe, Surroundings
    from kpframe.study._networks.analyze import analyze
    from kpframe.study._quantity import Quantity, create_quantity
    from kpframe.study._reading.open import open_run
    from kpframe.study._reading.summary import summary
    from kpframe.study._rules.compare import compare_rules
    from kpframe.study._tracking.schedule import every, log_spaced, log_steps
    from kpframe.study._tracking.tracker import Tracker


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'kpframe.study' has no attribute {name!r}")
    value: object = getattr(import_module(f"kpframe.study.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
