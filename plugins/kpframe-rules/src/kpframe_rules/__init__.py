"""Learning rules for kpframe, as operator compositions."""

from collections.abc import Iterator

from attrs import frozen

from kpframe.plugin import RuleSpec, hookimpl, setting


@frozen
class BPTTSettings:
    """Settings of the rule ``bptt``: none."""


@frozen
class FrozenSettings:
    """Settings of the rule ``frozen``."""

    parameters: tuple[str, ...] = setting(help="parameters that do not learn; * and ? match, as in weight_*")


@frozen
class TruncatedBPTTSettings:
    """Settings of the rule ``truncated_bptt``."""

    window: int = setting(ge=1, help="terms kept (sliding; 1 means P = I) or steps in a chunk (chunked)")
    mode: str = setting(
        "sliding", choices=("sliding", "chunked"), help="a window behind each step, or chunks cut off"
    )
    offset: int = setting(0, ge=0, help="chunked only: step at which the first cut lies, below window")


@hookimpl
def kpframe_rules() -> Iterator[RuleSpec]:
    """Offer the rules ``bptt``, ``frozen`` and ``truncated_bptt``."""
    yield RuleSpec(
        name="bptt",
        factory="kpframe_rules.bptt:BPTT",
        settings=BPTTSettings,
        capabilities=frozenset({"exact"}),
        api=1,
        summary="backpropagation through time: the exact gradient J* P* Err",
    )
    yield RuleSpec(
        name="frozen",
        factory="kpframe_rules.frozen:Frozen",
        settings=FrozenSettings,
        api=1,
        summary="some parameters do not learn: a 0/1 metric on the parameters",
    )
    yield RuleSpec(
        name="truncated_bptt",
        factory="kpframe_rules.truncated:TruncatedBPTT",
        settings=TruncatedBPTTSettings,
        api=1,
        summary="the error travels a limited number of steps back: sliding window or chunks",
    )
