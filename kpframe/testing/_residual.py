"""What a check measures: a relative error, the tolerance it must keep, and where it is largest."""

from __future__ import annotations

import math

import torch
from attrs import frozen

from kpframe.errors import KpframeError
from kpframe.operators._spaces import Space

#: Norm below which a quantity counts as zero: a gate that is all but shut has a gain made of rounding.
FLOOR = 1e-3

#: Relative tolerance of float64 comparisons.
TOLERANCE = 1e-9


class CheckFailure(KpframeError, AssertionError):
    """A check failed; the message says what was expected, what came, and where to look."""


class NotApplicable(Exception):
    """The check has no meaning for this model, rule or reducer; the text says why."""


@frozen
class Residual:
    """How far an identity is from holding.

    Attributes:
        value: the relative error.
        tolerance: the largest value that passes.
        detail: where the error is largest, with both numbers; empty when the value passes.
    """

    value: float
    tolerance: float = TOLERANCE
    detail: str = ""

    @property
    def ok(self) -> bool:
        """Whether the value is within the tolerance (NaN is not)."""
        return self.value <= self.tolerance


def below(value: float, floor: float) -> float:
    """Return how far a value lies below a floor, 0 above it; NaN for NaN, which ``max`` would hide."""
    return 0.0 if value >= floor else floor - value


def compare(
    actual: torch.Tensor,
    expected: torch.Tensor,
    what: str,
    *,
    tolerance: float = TOLERANCE,
    scale: float = 0.0,
    floor: float = FLOOR,
    spaces: tuple[Space, ...] = (),
) -> Residual:
    """Return ``|actual - expected|`` relative to the larger norm, to ``scale`` and to ``floor``.

    Args:
        actual, expected: tensors of one shape and dtype.
        what: what is compared, for the message.
        tolerance: the largest relative error that passes.
        scale: norm of the terms that were added up, where these cancel.
        floor: norm that counts as zero.
        spaces: the spaces of the tensors' axes, one after the other, to name the worst entry.

    Raises:
        CheckFailure: when shapes or dtypes differ.
    """
    if actual.shape != expected.shape:
        raise CheckFailure(f"{what}: expected shape {list(expected.shape)}, got {list(actual.shape)}")
    if actual.dtype != expected.dtype:
        raise CheckFailure(f"{what}: expected dtype {expected.dtype}, got {actual.dtype}")
    gap = (actual - expected).detach()
    value = _relative(gap, max(float(actual.norm()), float(expected.norm()), scale, floor))
    if value <= tolerance:
        return Residual(value, tolerance)
    return Residual(value, tolerance, f"{what}{_worst(actual, expected, gap, spaces)}")


def contrast(actual: torch.Tensor, wrong: torch.Tensor) -> Residual | None:
    """Return how far ``actual`` is from a variant that must differ; None where both vanish."""
    norm = max(float(actual.norm()), float(wrong.norm()))
    return None if norm <= FLOOR else Residual(_relative((actual - wrong).detach(), norm))


def worst(*residuals: Residual) -> Residual:
    """Return the first residual that is not ok, from which later ones may follow, else the largest."""
    failing = [residual for residual in residuals if not residual.ok]
    return failing[0] if failing else max(residuals, key=lambda r: r.value / (r.tolerance or 1.0))


def require(condition: bool, message: str) -> None:
    """Raise ``CheckFailure`` unless the condition holds."""
    if not condition:
        raise CheckFailure(message)


def _relative(gap: torch.Tensor, norm: float) -> float:
    value = float(gap.norm()) / norm
    return value if math.isfinite(value) else math.inf


def _worst(actual: torch.Tensor, expected: torch.Tensor, gap: torch.Tensor, spaces: tuple[Space, ...]) -> str:
    if gap.numel() == 0:
        return ""
    size = torch.nan_to_num(gap.abs(), nan=math.inf)
    place = tuple(int(i) for i in torch.unravel_index(size.argmax(), gap.shape))
    where = _place(place, spaces) if gap.ndim else ""
    return f"{where}: expected {float(expected[place]):.6g}, got {float(actual[place]):.6g}"


def _place(place: tuple[int, ...], spaces: tuple[Space, ...]) -> str:
    """Return the indices with the names of their axes; a dense side is one index, unravelled here."""
    if len(place) == len(spaces):
        sides = [
            _named(torch.unravel_index(torch.tensor(i), s.shape), s)
            for i, s in zip(place, spaces, strict=True)
        ]
        return f"[{' ; '.join(sides)}]"
    if len(spaces) == 1 and len(place) >= len(spaces[0].axes):
        own = place[len(place) - len(spaces[0].axes) :]
        return f"[{_named(own, spaces[0])}]"
    return f"[{', '.join(map(str, place))}]"


def _named(index: tuple[int | torch.Tensor, ...], space: Space) -> str:
    parts = []
    for i, axis in zip(index, space.axes, strict=True):
        text = f"{axis.name} {int(i)}"
        for part in axis.parts:
            if part.start <= int(i) < part.start + part.size and (len(axis.parts) > 1 or len(part.shape) > 1):
                text = f"{axis.name} {part.name}[{int(i) - part.start}]"
        parts.append(text)
    return ", ".join(parts)
