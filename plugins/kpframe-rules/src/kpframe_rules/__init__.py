"""Learning rules for kpframe, as operator compositions."""

from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec

from kpframe.plugin import RuleSpec, hookimpl
from kpframe_rules.specs_structural import (
    FrozenSettings,
    TruncatedBPTTSettings,
)

__all__ = ["FrozenSettings", "TruncatedBPTTSettings", "kpframe_rules"]

#: Modules with ``SPECS``, one for each family of rules.
FAMILIES = ("structural", "feedback", "stochastic")


@hookimpl
def kpframe_rules() -> Iterator[RuleSpec]:
    """Offer the rules of all families."""
    for family in FAMILIES:
        if find_spec(f"{__name__}.specs_{family}"):
            yield from import_module(f"{__name__}.specs_{family}").SPECS
