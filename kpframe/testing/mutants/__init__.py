"""Wrong implementations, at least one for every check: a kit that does not catch them proves nothing."""

from __future__ import annotations

from kpframe.testing.mutants import (
    algebra,
    flows,
    parameter_operators,
    propagators,
    quantities,
    ranks,
    reducers,
    rules,
    steps,
    trust,
)
from kpframe.testing.mutants.mutant import Mutant

#: Every mutant, in the order of the checks.
MUTANTS: tuple[Mutant, ...] = (
    *steps.MUTANTS,
    *flows.MUTANTS,
    *trust.MUTANTS,
    *rules.MUTANTS,
    *reducers.MUTANTS,
    *propagators.MUTANTS,
    *parameter_operators.MUTANTS,
    *quantities.MUTANTS,
    *ranks.MUTANTS,
    *algebra.MUTANTS,
)

__all__ = [
    "MUTANTS",
    "Mutant",
    "algebra",
    "flows",
    "parameter_operators",
    "propagators",
    "quantities",
    "ranks",
    "reducers",
    "rules",
    "steps",
    "trust",
]
