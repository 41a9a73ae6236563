"""Specs of the rules that change what flows through time, and of the exact ones."""

from attrs import frozen

from kpframe.errors import ArgumentError, mismatch
from kpframe.plugin import RuleSpec, setting

_PATHS = "names of preactivations, of weights, or direct; * and ? match"


@frozen
class BPTTSettings:
    """Settings of the rule ``bptt``: none."""


@frozen
class FrozenSettings:
    """Settings of the rule ``frozen``."""

    parameters: tuple[str, ...] = setting(help="parameters that do not learn; * and ? match, as in weight_*")


@frozen
class TruncatedBPTTSettings:
    """Settings of the rule ``truncated_bptt``; ``window``, or ``k1`` and ``k2``, must be given."""

    window: int | None = setting(
        None, ge=1, help="terms kept (sliding; 1 means P = I) or steps in a chunk (chunked)"
    )
    mode: str = setting(
        "sliding",
        choices=("sliding", "chunked", "k1k2"),
        help="a window behind each step, chunks cut off, or k2 steps back every k1",
    )
    offset: int = setting(0, ge=0, help="chunked only: step at which the first cut lies, below window")
    k1: int | None = setting(None, ge=1, help="k1k2 only: steps between two backward passes")
    k2: int | None = setting(None, ge=1, help="k1k2 only: steps a backward pass goes through, at least k1")

    def __attrs_post_init__(self) -> None:
        blocks = {"k1": self.k1, "k2": self.k2}
        taken, refused = (blocks, {"window": self.window})
        if self.mode != "k1k2":
            taken, refused = refused, blocks
        for name, value in refused.items():
            if value is not None:
                raise ArgumentError(mismatch(name, f"nothing with mode={self.mode!r}", value))
        least = 1
        for name, value in taken.items():
            if value is None or value < least:
                bound = f"{least} (k1)" if least > 1 else "1"
                expected = f"a whole number >= {bound} with mode={self.mode!r}"
                raise ArgumentError(mismatch(name, expected, value))
            least = value
        last = self.window - 1 if self.mode == "chunked" and self.window is not None else 0
        if self.offset > last:
            raise ArgumentError(mismatch("offset", f"a whole number in [0, {last}]", self.offset))


@frozen
class RTRLSettings:
    """Settings of the rule ``rtrl``."""

    max_bytes: int = setting(2 * 2**30, ge=2**20, help="largest memory of influence matrices [bytes]")


@frozen
class DuhamelSettings:
    """Settings of the rule ``duhamel``."""

    order: int = setting(ge=1, help="number of terms; 1 is the propagator of the base alone")
    base: str = setting(
        "diagonal",
        choices=("zero", "leak", "direct", "diagonal", "units"),
        help="the simpler step Jacobian that the series starts from",
    )


@frozen
class Snap1Settings:
    """Settings of the rule ``snap1``: none."""


@frozen
class SnapNSettings:
    """Settings of the rule ``snap_n``."""

    n: int = setting(ge=1, help="steps within which a parameter must reach a unit")


@frozen
class RFLOSettings:
    """Settings of the rule ``rflo``."""

    feedback: str = setting(
        "readout", choices=("readout", "random"), help="errors come through the readout, or a fixed matrix"
    )
    seed: int = setting(0, ge=0, lt=2**63, help="seed of the random feedback matrix")


@frozen
class EPropSettings:
    """Settings of the rule ``eprop``."""

    feedback: str = setting(
        "readout", choices=("readout", "random"), help="symmetric e-prop, or a fixed feedback matrix"
    )
    seed: int = setting(0, ge=0, lt=2**63, help="seed of the random feedback matrix")


@frozen
class KeRNLSettings:
    """Settings of the rule ``kernl``."""

    kernel: str = setting("identity", choices=("identity", "random"), help="from unit to unit")
    decay: float | None = setting(
        None, ge=0, le=1, help="factor for one step; unset: the model's leak, 1 - alpha"
    )
    seed: int = setting(0, ge=0, lt=2**63, help="seed of the random kernel")


@frozen
class GateStopSettings:
    """Settings of the rule ``gate_stop``."""

    paths: tuple[str, ...] = setting((), help=f"paths that errors do not take: {_PATHS}")


@frozen
class HDetachSettings:
    """Settings of the rule ``h_detach``."""

    probability: float = setting(ge=0, le=1, help="of a cut at each step")
    paths: tuple[str, ...] | None = setting(
        None, help=f"what is cut: {_PATHS}; unset: every recurrent weight"
    )
    seed: int = setting(0, ge=0, lt=2**63, help="seed of the draw")


SPECS: tuple[RuleSpec, ...] = (
    RuleSpec(
        name="bptt",
        factory="kpframe_rules.bptt:BPTT",
        settings=BPTTSettings,
        api=1,
        summary="backpropagation through time: the exact gradient J* P* Err",
    ),
    RuleSpec(
        name="rtrl",
        factory="kpframe_rules.rtrl:RTRL",
        settings=RTRLSettings,
        api=1,
        summary="the exact gradient forward in time, from influence matrices",
    ),
    RuleSpec(
        name="frozen",
        factory="kpframe_rules.frozen:Frozen",
        settings=FrozenSettings,
        api=1,
        summary="some parameters do not learn: a 0/1 metric on the parameters",
    ),
    RuleSpec(
        name="truncated_bptt",
        factory="kpframe_rules.truncated:TruncatedBPTT",
        settings=TruncatedBPTTSettings,
        api=1,
        summary="the error travels a limited number of steps back: sliding window, chunks, or k1 and k2",
    ),
    RuleSpec(
        name="duhamel",
        factory="kpframe_rules.duhamel:Duhamel",
        settings=DuhamelSettings,
        api=1,
        summary="the first terms of the series of P around a simpler step Jacobian",
    ),
    RuleSpec(
        name="snap1",
        factory="kpframe_rules.snap:Snap1",
        settings=Snap1Settings,
        api=1,
        summary="errors reach a unit's past through the unit itself alone: the blocks of A within units",
    ),
    RuleSpec(
        name="snap_n",
        factory="kpframe_rules.snap:SnapN",
        settings=SnapNSettings,
        api=1,
        summary="influences on units that a parameter reaches within n steps, for sparse networks",
    ),
    RuleSpec(
        name="rflo",
        factory="kpframe_rules.rflo:RFLO",
        settings=RFLOSettings,
        api=1,
        summary="random feedback local online learning: traces that decay by the leak",
    ),
    RuleSpec(
        name="eprop",
        factory="kpframe_rules.eprop:EProp",
        settings=EPropSettings,
        api=1,
        summary="eligibility propagation: the direct path of A, around all recurrent weights",
    ),
    RuleSpec(
        name="kernl",
        factory="kpframe_rules.kernl:KeRNL",
        settings=KeRNLSettings,
        api=1,
        summary="kernel RNN learning with a given kernel and decay in the place of P",
    ),
    RuleSpec(
        name="gate_stop",
        factory="kpframe_rules.gate_stop:GateStop",
        settings=GateStopSettings,
        api=1,
        summary="errors do not travel through chosen gates or other paths of a step",
    ),
    RuleSpec(
        name="h_detach",
        factory="kpframe_rules.gate_stop:HDetach",
        settings=HDetachSettings,
        api=1,
        summary="at random steps errors do not travel through the recurrent weights",
    ),
)
