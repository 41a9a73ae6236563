"""The error classes: every message names the argument, what was expected and what came.

Each class also derives from the built-in exception that fits, so ``except ValueError`` works.
"""

from __future__ import annotations

import difflib
import operator
from collections.abc import Iterable

__all__ = [
    "ArgumentError",
    "AxisError",
    "CheckpointError",
    "DeviceError",
    "DtypeError",
    "KpframeError",
    "MemoryBudgetError",
    "MissingDependencyError",
    "NonFiniteError",
    "NonFiniteProductError",
    "NotLinearError",
    "OutputError",
    "PluginError",
    "PluginWarning",
    "RankError",
    "ResumeWarning",
    "SettingsError",
    "ShapeError",
    "SpaceMismatchError",
    "StabilityWarning",
    "TrackingWarning",
    "UnknownNameError",
    "UnsupportedError",
    "check_seed",
    "closest",
    "mismatch",
    "nearest",
    "shown",
    "whole",
]


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


class RankError(KpframeError, RuntimeError):
    """Ranks of a distributed job that disagree, are gone, or were never started by a launcher."""


class MissingDependencyError(KpframeError, ImportError):
    """An optional dependency is not installed; the message says which extra brings it."""


class StabilityWarning(UserWarning):
    """Settings of a model that are known to make roll-outs grow without bound, or nearly so."""


class PluginWarning(UserWarning):
    """A plugin is broken and was left out, or clashes with another."""


class ResumeWarning(UserWarning):
    """A run goes on under other versions than it was begun with; its last bits may be others."""


class TrackingWarning(UserWarning):
    """A step of somebody's training could not be recorded; the training goes on."""


def printable(text: str) -> str:
    """Return text with what is not printable written out, as ``\\x1b``, but for the ends of its lines.

    Text of others (metadata, summaries, messages of plugins) may hold what moves a cursor, colours, sets
    titles or reverses the direction of writing.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode()
        for char in text
    )


def one_line(text: object, width: int | None = None) -> str:
    """Return text on one line, printable, cut at ``width`` characters where one is given."""
    line = printable(" ".join(str(text).split()))
    return line if width is None or len(line) <= width else line[: width - 3] + "..."


def shown(value: object) -> str:
    """Return ``value`` on one line, cut short, and its type, for a message."""
    return f"{one_line(repr(value)):.80} ({type(value).__name__})"


def message_of(error: BaseException, width: int = 500) -> str:
    """Return the message of an error, which may be anyone's, on one line of at most ``width`` characters."""
    try:
        return one_line(error, width)
    except BaseException:  # its own __str__ raises
        return "(its message cannot be read)"


def told(error: BaseException) -> str:
    """Return the kind of an error and its message on one line, for a record."""
    text = message_of(error)
    name = type(error).__name__.lstrip("_")
    return f"{name}: {text}" if text else name


def say(error: BaseException) -> str:
    """Return the error on one line, with its type unless kpframe raised it."""
    text = message_of(error)
    return text if isinstance(error, KpframeError) else f"{type(error).__name__}: {text}".removesuffix(": ")


def mismatch(argument: str, expected: object, got: object) -> str:
    """Return the standard sentence ``argument: expected ..., got ...``."""
    return f"{argument}: expected {expected}, got {got}"


def nearest(name: str, known: Iterable[str]) -> str:
    """Return what is nearest to ``name`` among ``known``, an empty string where none is near."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)), "")


def closest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for what is nearest to ``name`` in ``known``, or an empty string."""
    near = nearest(name, known)
    return f"; did you mean {near!r}?" if near else ""


def as_whole(value: object) -> int | None:
    """Return a whole number of any kind as Python's, and None for anything else, truth values too."""
    if type(value) is int:
        return value
    if isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith(("bool", "bool_")):
        return None
    if getattr(value, "ndim", 0) != 0:
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except (TypeError, RuntimeError):  # no number, or a tensor without a value
        return None


def whole(
    value: object,
    argument: str,
    least: int = 1,
    most: int | None = None,
    *,
    expected: str | None = None,
    error: type[KpframeError] = ArgumentError,
) -> int:
    """Return a whole number from ``least`` to ``most`` as Python's.

    Args:
        value: what was given.
        argument: its name.
        least: the lower bound, included.
        most: the upper bound, included; None sets none.
        expected: what the message says was expected, where the bounds do not say it.
        error: the class of the error.

    Raises:
        ArgumentError: for anything else; or ``error``.
    """
    number = as_whole(value)
    if number is None or number < least or (most is not None and number > most):
        bounds = f"a whole number >= {least}" if most is None else f"a whole number in [{least}, {most}]"
        raise error(mismatch(argument, expected or bounds, repr(value)))
    return number


def check_seed(value: object, argument: str = "seed") -> int:
    """Return ``value`` as a seed of torch's generators; raises ``ArgumentError``, naming ``argument``."""
    return whole(value, argument, 0, 2**63 - 1, expected="a whole number in [0, 2**63)")
