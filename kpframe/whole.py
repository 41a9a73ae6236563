"""Whole numbers given as arguments: Python's, NumPy's, and integer tensors and arrays without dimensions."""

from __future__ import annotations

import operator

from kpframe.errors import ArgumentError, KpframeError, mismatch


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
        least, most: the bounds, both included; ``most=None`` sets none.
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
    """Return a seed of torch's generators; raises ``ArgumentError``."""
    return whole(value, argument, 0, 2**63 - 1, expected="a whole number in [0, 2**63)")
