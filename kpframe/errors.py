"""The error classes: every message names the argument, what was expected and what came.

Each class also derives from the built-in exception that fits, so ``except ValueError`` works.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class KpframeError(Exception):
    """Base of every error that kpframe raises on purpose."""


class ArgumentError(KpframeError, ValueError):
    """An argument has a value that the call cannot use."""


class ShapeError(ArgumentError):
    """A tensor has the wrong rank or size."""


class AxisError(ArgumentError):
    """An axis is unknown, given as an integer, or given twice."""


class SpaceMismatchError(ArgumentError):
    """Two operators do not fit: the codomain of one is not the domain of the other."""


class DeviceError(ArgumentError):
    """A tensor lives on another device than the operator or model it is given to."""


class NonFiniteError(ArgumentError):
    """A tensor holds NaN or infinity; the message says where it begins."""


class NonFiniteProductError(NonFiniteError):
    """A product of an operator is not finite, though its argument is; the message says where it begins."""


class DtypeError(KpframeError, TypeError):
    """A tensor has another dtype than the operator or model it is given to."""


class NotLinearError(KpframeError, TypeError):
    """The expression is not a linear operator (``op + 3.0``, ``op * op``)."""


class MemoryBudgetError(KpframeError, MemoryError):
    """A request would allocate more than its memory budget."""


class UnsupportedError(KpframeError, NotImplementedError):
    """The operator or model lacks the structure that the call needs."""


class UnknownNameError(KpframeError, LookupError):
    """No plugin offers this name, or more than one does."""


class SettingsError(ArgumentError):
    """Settings are unknown, missing or out of bounds; the message lists all of them at once."""


class PluginError(KpframeError, RuntimeError):
    """A plugin could not be loaded, or does not keep the contract."""


class CheckpointError(KpframeError, ValueError):
    """A checkpoint is missing, corrupt, or does not belong to the model."""


class OutputError(KpframeError, OSError):
    """A file or folder cannot be written: no space, read-only, another run's, in use by another process."""


class MissingDependencyError(KpframeError, ImportError):
    """An optional dependency is not installed; the message says which extra brings it."""


class StabilityWarning(UserWarning):
    """Settings of a model that are known to make roll-outs grow without bound, or nearly so."""


def shown(value: object) -> str:
    """Return a value on one line, cut short, and its type, for a message."""
    return f"{' '.join(repr(value).split()):.80} ({type(value).__name__})"


def mismatch(argument: str, expected: object, got: object) -> str:
    """Return the standard sentence ``argument: expected ..., got ...``."""
    return f"{argument}: expected {expected}, got {got}"


def closest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest of ``known``, or an empty string."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""
