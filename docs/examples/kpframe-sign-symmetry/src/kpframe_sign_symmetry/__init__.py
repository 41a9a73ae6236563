"""The learning rule ``sign_symmetry`` for kpframe: settings and hook. No torch here: listing stays fast."""

import math
from collections.abc import Iterator

from attrs import frozen

from kpframe.plugin import RuleSpec, hookimpl, setting


@frozen
class Settings:
    """Settings of the rule ``sign_symmetry``."""

    scale: float | None = setting(
        None,
        gt=0,
        lt=math.inf,
        help="size of every feedback weight; unset: the mean size of the forward weights' entries",
    )
    readout: bool = setting(True, help="whether errors from the outputs, too, come by signs; needs a readout")


@hookimpl
def kpframe_rules() -> Iterator[RuleSpec]:
    """Offer the rule ``sign_symmetry``."""
    yield RuleSpec(
        name="sign_symmetry",
        factory="kpframe_sign_symmetry.rule:SignSymmetry",
        settings=Settings,
        api=1,
        summary="errors travel through the signs of the weights (Liao, Leibo & Poggio 2016)",
    )
