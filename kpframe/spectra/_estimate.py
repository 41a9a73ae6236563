"""What an estimator returns, and how it spends its budget of operator products."""

from __future__ import annotations

import math
from collections.abc import Callable

from attrs import evolve, field, frozen
from scipy.special import ndtri

from kpframe.errors import ArgumentError, mismatch
from kpframe.operators._cards import card


@frozen(repr=False)
class Estimate:
    """A number with its uncertainty; prints as ``0.123 ± 0.004 (xtrace, 60 products)``.

    Attributes:
        value: the estimate, a scalar.
        stderr: its standard error: 0 for an exact value and infinite where one sample tells nothing of the
            spread. With few samples it is widened to what Student's t asks for, so that the normal interval
            ``value ± 1.96 stderr`` covers the truth in 95 of 100 runs.
        num_matvecs: operator products taken.
        method: how it was found.

    Examples:
        >>> import kpframe
        >>> estimate = kpframe.Estimate(0.123, 0.004, 60, "xtrace")
        >>> estimate
        0.123 ± 0.004 (xtrace, 60 products)
        >>> low, high = estimate.interval()
        >>> round(low, 3), round(high, 3)
        (0.115, 0.131)
    """

    value: float = field(converter=float)
    stderr: float = field(converter=float)
    num_matvecs: int = field(converter=int)
    method: str = field()

    @property
    def exact(self) -> bool:
        """Whether the value was computed, not estimated."""
        return self.stderr == 0

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the interval that covers the truth with probability ``level``.

        Raises:
            ArgumentError: when ``level`` is not between 0 and 1.
        """
        if not 0 < level < 1:
            raise ArgumentError(mismatch("level", "a number between 0 and 1", level))
        half = float(ndtri(0.5 + level / 2)) * self.stderr if self.stderr else 0.0
        return self.value - half, self.value + half

    def __float__(self) -> float:
        return self.value

    def __repr__(self) -> str:
        unit = "product" if self.num_matvecs == 1 else "products"
        return f"{pair_text(self.value, self.stderr)} ({self.method}, {self.num_matvecs} {unit})"

    def _repr_html_(self) -> str:
        rows = [
            ("95% interval", interval_text(self)),
            ("method", self.method),
            ("products", str(self.num_matvecs)),
        ]
        return card(pair_text(self.value, self.stderr), rows)


def interval_text(estimate: Estimate) -> str:
    """Return the 95% interval as text: ``11.8 to 12.7``, ``exact``, or that there is none."""
    if estimate.exact:
        return "exact"
    if not (math.isfinite(estimate.stderr) and math.isfinite(estimate.value)):
        return "unknown"
    digits = 1 + math.ceil(math.log10(max(abs(estimate.value) / estimate.stderr, 1.0)))
    return " to ".join(f"{end:#.{min(digits, 15) + 1}g}".rstrip(".") for end in estimate.interval())


def pair_text(value: float, stderr: float) -> str:
    """Return ``value ± stderr`` with the digits that the error leaves standing."""
    if not (math.isfinite(stderr) and math.isfinite(value)):
        return f"{value:.4g} ± {stderr:.2g}"
    if stderr == 0:
        return f"{value:.10g} ± 0"
    place = -math.floor(math.log10(stderr))  # of the error's first digit
    size = max(abs(value), stderr)
    if 1e-4 <= size < 1e6:
        places = min(max(place, 0), 15)
        return (
            f"{value:.{places}f} ± {stderr:.{places}f}"
            if place <= 6
            else f"{value:.{places}f} ± {stderr:.0e}"
        )
    power = math.floor(math.log10(size))
    places = min(max(place + power, 0), 15)
    scaled = 10.0**-power
    return f"({value * scaled:.{places}f} ± {stderr * scaled:.{places}f})e{power:+d}"


def within_budget(
    estimate: Callable[[int], Estimate],
    exact: Callable[[], Estimate],
    *,
    budget: int,
    exact_cost: int,
    rtol: float | None,
    max_budget: int,
) -> Estimate:
    """Return the exact value when the budget pays for it, else an estimate, within ``rtol`` if it can be.

    Without ``rtol`` there is one estimate from ``budget`` products. With it, ``estimate`` is asked again for
    twice as many, keeping what is already paid for, until ``stderr <= rtol * |value|``; once a doubled budget
    would pay for the exact value, that is computed instead.
    """
    if budget >= exact_cost:
        return exact()
    found = estimate(budget)
    while rtol is not None and found.stderr > rtol * abs(found.value):  # NaN ends it
        budget *= 2
        if min(budget, max_budget) >= exact_cost:
            value = exact()
            return evolve(value, num_matvecs=value.num_matvecs + found.num_matvecs)
        if budget > max_budget:
            return evolve(found, method=f"{found.method}, rtol not reached")
        found = estimate(budget)
    return found
