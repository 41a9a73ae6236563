"""Spending more products until an estimate is good enough."""

from __future__ import annotations

from collections.abc import Callable

from attrs import evolve

from kpframe.spectra._estimate import Estimate


def spend(
    measure: Callable[[int], Estimate],
    exact: Callable[[], Estimate],
    *,
    budget: int,
    exact_cost: int,
    rtol: float | None,
    max_budget: int,
) -> Estimate:
    """Return the exact value when the budget pays for it, else an estimate within ``rtol`` if it can.

    ``measure`` is asked for twice the budget each time, and keeps what it has already paid for; once a
    doubled budget would pay for the exact value, that is computed instead.
    """
    if budget >= exact_cost:
        return exact()
    estimate = measure(budget)
    while rtol is not None and estimate.stderr > rtol * abs(estimate.value):  # NaN ends it
        budget *= 2
        if min(budget, max_budget) >= exact_cost:
            value = exact()
            return evolve(value, num_matvecs=value.num_matvecs + estimate.num_matvecs)
        if budget > max_budget:
            return evolve(estimate, method=f"{estimate.method}, rtol not reached")
        estimate = measure(budget)
    return estimate
