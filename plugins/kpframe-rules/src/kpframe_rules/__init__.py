"""Learning rules for kpframe, as operator compositions."""

from collections.abc import Iterator

from kpframe.plugin import RuleSpec, hookimpl
from kpframe_rules import specs_feedback, specs_stochastic, specs_structural
from kpframe_rules.specs_structural import FrozenSettings, TruncatedBPTTSettings

__all__ = ["FrozenSettings", "TruncatedBPTTSettings", "kpframe_rules"]


@hookimpl
def kpframe_rules() -> Iterator[RuleSpec]:
    """Offer the rules of every family."""
    for family in (specs_structural, specs_feedback, specs_stochastic):
        yield from family.SPECS
