"""Specs of the rules that draw at random and give the exact gradient in the mean."""

import math

from attrs import frozen

from kpframe.plugin import RuleSpec, setting

_SEED = "seed of the draw"


@frozen
class ARTBPSettings:
    """Settings of the rule ``artbp``."""

    length: float = setting(gt=1, help="mean number of steps between cuts")
    alpha: float | None = setting(
        None,
        gt=2,
        lt=math.inf,
        help="decay of the probability of long stretches, k^(1-alpha); unset: geometric",
    )
    shared: bool = setting(False, help="whether all trials are cut at the same steps")
    seed: int = setting(0, ge=0, lt=2**63, help=_SEED)


@frozen
class UOROSettings:
    """Settings of the rule ``uoro``."""

    normalise: bool = setting(True, help="whether the factors rho keep the two vectors of one size")
    draws: int = setting(1, ge=1, help="independent estimates that are averaged")
    seed: int = setting(0, ge=0, lt=2**63, help=_SEED)
    max_bytes: int = setting(2 * 2**30, ge=2**20, help="largest memory of the vectors theta [bytes]")


@frozen
class PerturbationSettings:
    """Settings of the rules ``node_perturbation`` and ``weight_perturbation``."""

    directions: int = setting(1, ge=1, help="random directions that are averaged")
    distribution: str = setting("signs", choices=("signs", "normal"), help="of the directions' entries")
    seed: int = setting(0, ge=0, lt=2**63, help=_SEED)


@frozen
class KFRTRLSettings:
    """Settings of the rule ``kf_rtrl``."""

    seed: int = setting(0, ge=0, lt=2**63, help=_SEED)
    max_bytes: int = setting(2 * 2**30, ge=2**20, help="largest memory of the matrices F [bytes]")


SPECS: tuple[RuleSpec, ...] = (
    RuleSpec(
        name="artbp",
        factory="kpframe_rules.artbp:ARTBP",
        settings=ARTBPSettings,
        api=1,
        summary="truncation at random steps, with factors that keep it unbiased",
    ),
    RuleSpec(
        name="uoro",
        factory="kpframe_rules.uoro:UORO",
        settings=UOROSettings,
        api=1,
        summary="real-time recurrent learning with an unbiased influence matrix of rank one",
    ),
    RuleSpec(
        name="node_perturbation",
        factory="kpframe_rules.perturbation:NodePerturbation",
        settings=PerturbationSettings,
        api=1,
        summary="states move at random at each step, and learn by how the loss changes",
    ),
    RuleSpec(
        name="weight_perturbation",
        factory="kpframe_rules.perturbation:WeightPerturbation",
        settings=PerturbationSettings,
        api=1,
        summary="weights move along a random direction, and learn by how the loss changes",
    ),
    RuleSpec(
        name="kf_rtrl",
        factory="kpframe_rules.kf_rtrl:KFRTRL",
        settings=KFRTRLSettings,
        api=1,
        summary="real-time recurrent learning with an unbiased influence matrix that is a Kronecker product",
    ),
)
