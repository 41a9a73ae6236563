"""Units in which squares neither overflow nor vanish: powers of two, by which division is exact.

A binary floating-point number times a power of two has the same digits and another exponent (IEEE 754), so to
compute in a unit and come back changes no bit, within the range. That is how the norm of LAPACK is safe, too
(Blue 1978, ACM Trans. Math. Softw. 4:15).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from numbers import Real

import torch

from kpframe.operators._shards import Shards

#: Largest entries from ``1 / COMFORT`` to ``COMFORT`` are left in a unit of 1.
COMFORT = 2.0**16

#: Numbers from ``1 / PULLED`` to ``PULLED`` are pulled to the front of a product.
PULLED = 2.0**32


def as_scalar(value: object) -> float | None:
    """Return a real number or a one-element real tensor as a float, anything else as None."""
    if isinstance(value, bool):
        return None
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, torch.Tensor) and value.ndim == 0 and not value.is_complex():
        return float(value)
    return None


def unit_of(*tensors: torch.Tensor, shards: Shards | None = None) -> float:
    """Return a power of two in whose units the largest entry is near 1; 1 where it is ordinary or zero.

    With shards it is that of all ranks.

    What does not depend on scale (a cosine, a rank) is computed from ``values / unit``; what does (a norm) is
    multiplied by the unit afterwards, as a Python number. Squares of float32 leave its range beyond 1e±19.
    """
    largest = max((float(values.abs().max()) for values in tensors if values.numel()), default=0.0)
    if shards is not None:
        largest = float(shards.max(torch.tensor([largest], dtype=torch.float64, device=shards.device)))
    if not math.isfinite(largest) or largest == 0 or 1 / COMFORT <= largest <= COMFORT:
        return 1.0
    return 2.0 ** (math.frexp(largest)[1] - 1)


def row_units(values: torch.Tensor) -> torch.Tensor:  # [..., n] -> [..., 1]
    """Return the unit of each row, see ``unit_of``, in the dtype of the values."""
    largest = values.detach().abs().amax(dim=-1, keepdim=True)
    ordinary = (largest == 0) | (largest >= 1 / COMFORT) & (largest <= COMFORT) | ~largest.isfinite()
    exponent = torch.frexp(torch.where(ordinary, 1.0, largest)).exponent - 1
    return torch.where(ordinary, 1.0, torch.ldexp(torch.ones_like(largest), exponent))


def divided(values: torch.Tensor, unit: float) -> torch.Tensor:
    """Return ``values / unit`` for a power of two, the values themselves for 1.

    In two steps, since the reciprocal of a unit need not lie within the range of the dtype.
    """
    if unit == 1:
        return values
    half = 2.0 ** ((math.frexp(unit)[1] - 1) // 2)
    return values / half / (unit / half)


def multiplied(number: float, values: torch.Tensor) -> torch.Tensor:
    """Return ``number * values``, in several steps where the number lies beyond the range of the dtype."""
    limits, step = torch.finfo(values.dtype), 2.0**100
    while abs(number) > limits.max:
        number, values = number / step, step * values
    while 0 < abs(number) < limits.tiny:
        number, values = number * step, values / step
    return number * values


def gathered(*numbers: float) -> float | None:
    """Return the product of numbers; None where it overflows or loses digits though no factor is zero."""
    product = math.prod(numbers)
    kept = product == 0 or sys.float_info.min <= abs(product) <= sys.float_info.max
    return product if kept and (product != 0 or 0 in numbers) else None


def norm(values: torch.Tensor, shards: Shards | None = None) -> float:
    """Return the Euclidean norm of all entries, of all ranks with shards, summed in float64.

    It is right wherever it can be held.
    """
    unit = unit_of(values, shards=shards)
    square = divided(values, unit).double().square().sum()
    return unit * math.sqrt(float(square if shards is None else shards.sum(square)))


def cosine(one: torch.Tensor, other: torch.Tensor, shards: Shards | None = None) -> float:
    """Return the cosine of the angle between two tensors of equal shape, NaN where one of them is zero.

    With shards each rank has its own part of both.
    """
    first, second = (divided(values, unit_of(values, shards=shards)).double() for values in (one, other))
    inner = torch.stack([first.square().sum(), second.square().sum(), (first * second).sum()])
    mine, others, both = (inner if shards is None else shards.sum(inner)).tolist()
    sizes = math.sqrt(mine) * math.sqrt(others)
    return clamped(both / sizes) if sizes > 0 else math.nan


def row_cosines(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:  # [n, m] each -> [n], float64
    """Return the cosine of each row with the other's, NaN where one of the two is zero."""
    first, second = ((values / row_units(values)).double() for values in (one, other))
    sizes = first.square().sum(-1).sqrt() * second.square().sum(-1).sqrt()
    return ((first * second).sum(-1) / sizes).clamp(-1, 1)  # 0 / 0 is NaN and stays so


def clamped(cosine: float) -> float:
    """Return a cosine without what rounding put beyond ±1; NaN stays NaN, which ``max`` may hide."""
    return cosine if math.isnan(cosine) else min(1.0, max(-1.0, cosine))


def is_far(number: float) -> bool:
    """Whether a number stays with its factor of a product; see ``PULLED``."""
    return number != 0 and not 1 / PULLED <= abs(number) <= PULLED


def scaled_product(
    number: float, apply: Callable[[torch.Tensor], torch.Tensor], q: torch.Tensor
) -> torch.Tensor:
    """Return ``number * apply(q)``, also where ``apply(q)`` leaves the range of the dtype and this does not.

    Then, ``apply`` being linear, it is ``(number / h) * apply(h * q)`` with h a power of two near the root of
    the number, by which multiplying is exact.
    """
    out = apply(q)
    if is_far(number) and out.numel():
        limits, largest = torch.finfo(out.dtype), float(out.abs().max())
        if largest < limits.tiny / limits.eps if abs(number) > 1 else not math.isfinite(largest):
            half = 2.0 ** (math.frexp(number)[1] // 2)
            return multiplied(number / half, apply(multiplied(half, q)))
    return times(number, out)


def times(number: float, out: torch.Tensor) -> torch.Tensor:
    """Return ``number * out``, ``out`` itself for 1."""
    return out if number == 1 else multiplied(number, out)
