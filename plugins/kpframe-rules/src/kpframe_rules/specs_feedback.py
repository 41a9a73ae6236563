"""The rules that feed errors back differently, have a metric, or are not linear: names and settings."""

from __future__ import annotations

import math
from typing import Any

from attrs import Factory, frozen

from kpframe.errors import ArgumentError, mismatch
from kpframe.plugin import RuleSpec, setting


@frozen
class FeedbackAlignmentSettings:
    """Settings of the rule ``feedback_alignment``."""

    seed: int = setting(0, ge=0, lt=2**63, help="seed of the random matrix from the outputs")
    std: float | None = setting(
        None, gt=0, lt=math.inf, help="standard deviation of its entries; unset: as a readout starts"
    )


@frozen
class DirectFeedbackAlignmentSettings:
    """Settings of the rule ``dfa``."""

    through: str = setting(
        "none",
        choices=("none", "direct", "broadcast"),
        help="errors of the same step, along leaks and gates, or of all later steps at once",
    )
    seed: int = setting(0, ge=0, lt=2**63, help="seed of the random matrix from the outputs")
    std: float | None = setting(
        None, gt=0, lt=math.inf, help="standard deviation of its entries; unset: as a readout starts"
    )


@frozen
class FeedbackThroughTimeSettings:
    """Settings of the rule ``feedback_through_time``."""

    weights: tuple[str, ...] | None = setting(
        None, help="weights to replace on the way back, * and ? match; unset: all recurrent ones"
    )
    seed: int = setting(0, ge=0, lt=2**63, help="seed of the random matrices")
    std: float | None = setting(
        None, gt=0, lt=math.inf, help="standard deviation of their entries; unset: that of the weight"
    )


@frozen
class LearningRatesSettings:
    """Settings of the rule ``learning_rates``."""

    rates: dict[str, float] = setting(
        Factory(dict), help="parameter -> rate >= 0; * and ? match, and the last match counts"
    )
    other: float = setting(1.0, ge=0, lt=math.inf, help="rate of all other parameters")

    def __attrs_post_init__(self) -> None:
        for name, rate in self.rates.items():
            if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < math.inf:
                raise ArgumentError(mismatch(f"rates[{name!r}]", "a finite number >= 0", repr(rate)))


@frozen
class FrozenAdamSettings:
    """Settings of the rule ``frozen_adam``."""

    second_moments: dict[str, Any] = setting(help="parameter -> tensor of bias-corrected second moments")
    eps: float = setting(1e-8, gt=0, lt=math.inf, help="added to the square root")


@frozen
class NaturalGradientSettings:
    """Settings of the rule ``natural_gradient``."""

    curvature: str = setting(
        "states",
        choices=("states", "mse", "cross_entropy"),
        help="metric on the states: the identity, or the curvature of a loss of the outputs",
    )
    damping: float = setting(1e-3, gt=0, lt=math.inf, help="lambda, added to the curvature of the parameters")
    tolerance: float = setting(1e-12, gt=0, lt=1, help="largest relative residual of a solution")
    max_iterations: int | None = setting(
        None, ge=1, help="largest number of conjugate gradient steps; unset: ten times the rank"
    )


@frozen
class LowRankProjectionSettings:
    """Settings of the rule ``low_rank_projection``."""

    rank: int = setting(ge=1, help="rank of the subspace")
    side: str = setting(
        "left",
        choices=("left", "right", "both", "tangent"),
        help="what is projected: columns, rows, both, or all that leave the rank-r matrices",
    )
    basis: str = setting("random", choices=("random", "weight"), help="random, or the weight's own")
    seed: int = setting(0, ge=0, lt=2**63, help="seed of random subspaces")
    weights: tuple[str, ...] = setting(("*",), help="weights to project, * and ? match")


@frozen
class ThreeFactorSettings:
    """Settings of the rule ``three_factor``."""

    post: str = setting(
        "none", choices=("none", "state"), help="the postsynaptic factor: 1, or the new state"
    )
    trace: float | None = setting(
        None, ge=0, le=1, help="decay of the eligibility trace per step; unset: the model's own leak"
    )
    modulator: str = setting(
        "error",
        choices=("error", "neuron", "global"),
        help="the third factor: the error, a random mixture for each unit, or one for all",
    )
    seed: int = setting(0, ge=0, lt=2**63, help="seed of the random mixtures")


@frozen
class RecurrentBackpropagationSettings:
    """Settings of the rule ``recurrent_backpropagation``."""

    settled: float = setting(1e-6, gt=0, help="largest relative change of the state in the last step")
    solver: str = setting(
        "gmres", choices=("gmres", "neumann"), help="how the linear equation at the fixed point is solved"
    )
    tolerance: float = setting(1e-12, gt=0, lt=1, help="largest relative residual of a solution")
    max_iterations: int = setting(10_000, ge=1, help="largest number of products with A*")


@frozen
class ClippedSettings:
    """Settings of the rule ``clipped``."""

    max_norm: float = setting(gt=0, lt=math.inf, help="largest norm of the gradient, all parameters together")
    rule: Any = setting(None, help="the LearningRule whose gradient is clipped; unset: bptt")


@frozen
class AdamFromScratchSettings:
    """Settings of the rule ``adam_from_scratch``."""

    eps: float = setting(1e-8, gt=0, lt=math.inf, help="added to the size of each entry")
    rule: Any = setting(None, help="the LearningRule whose gradient is taken; unset: bptt")


def _spec(name: str, factory: str, settings: type, summary: str) -> RuleSpec:
    return RuleSpec(name=name, factory=f"kpframe_rules.{factory}", settings=settings, api=1, summary=summary)


SPECS: tuple[RuleSpec, ...] = (
    _spec(
        "feedback_alignment",
        "feedback_alignment:FeedbackAlignment",
        FeedbackAlignmentSettings,
        "errors come from the outputs through a fixed random matrix",
    ),
    _spec(
        "dfa",
        "feedback_alignment:DirectFeedbackAlignment",
        DirectFeedbackAlignmentSettings,
        "output errors go straight to every step through a fixed random matrix",
    ),
    _spec(
        "feedback_through_time",
        "feedback_through_time:FeedbackThroughTime",
        FeedbackThroughTimeSettings,
        "errors travel back in time through fixed random matrices",
    ),
    _spec(
        "learning_rates",
        "preconditioned:LearningRates",
        LearningRatesSettings,
        "a learning rate for each parameter: a diagonal metric",
    ),
    _spec(
        "frozen_adam",
        "preconditioned:FrozenAdam",
        FrozenAdamSettings,
        "Adam's preconditioner at a moment of training, held fixed",
    ),
    _spec(
        "natural_gradient",
        "natural_gradient:NaturalGradient",
        NaturalGradientSettings,
        "damped natural gradient or Gauss-Newton, solved by conjugate gradients",
    ),
    _spec(
        "low_rank_projection",
        "low_rank:LowRankProjection",
        LowRankProjectionSettings,
        "gradients of weights in a subspace of low rank (GaLore, LoRA)",
    ),
    _spec(
        "three_factor",
        "three_factor:ThreeFactor",
        ThreeFactorSettings,
        "Hebbian traces of local activity times a modulating error; gains are dropped",
    ),
    _spec(
        "recurrent_backpropagation",
        "equilibrium:RecurrentBackpropagation",
        RecurrentBackpropagationSettings,
        "the gradient of a loss of the equilibrium, at a trajectory that has settled",
    ),
    _spec(
        "clipped",
        "nonlinear:Clipped",
        ClippedSettings,
        "another rule's gradient, clipped to a largest norm; not linear",
    ),
    _spec(
        "adam_from_scratch",
        "nonlinear:AdamFromScratch",
        AdamFromScratchSettings,
        "the first step of Adam on another rule's gradient; not linear",
    ),
)
