"""The core's quantities of how learning moves a network, and of what it has become; imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator

from attrs import frozen

from kpframe.plugin._settings import setting
from kpframe.plugin._specs import QuantitySpec

_ROOM = "kpframe.study._quantities"


@frozen
class GroupSettings:
    """Which trials belong together."""

    by: str | None = setting(
        None,
        help="coordinate of the trials; left out, the first that puts some of them into 2 to `most` groups",
    )
    most: int = setting(12, ge=2, help="largest number of groups")


@frozen
class LyapunovSettings:
    """How many exponents, over which steps."""

    k: int = setting(10, ge=1, help="number of exponents, from the largest; at most the width of the state")
    dt: float = setting(1.0, gt=0, help="time per step; exponents are per unit of it")
    discard: int = setting(0, ge=0, help="steps at the start of each trial that are not counted")


@frozen
class FiniteTimeSettings:
    """Over which steps perturbations grow."""

    window: int | None = setting(
        None, ge=1, help="steps over which growth is measured; all since a trial's start when left out"
    )
    dt: float = setting(1.0, gt=0, help="time per step; exponents are per unit of it")


@frozen
class ComponentSettings:
    """How many components, and whose trajectories."""

    k: int = setting(3, ge=1, help="principal components kept; at most the width of the state")
    trajectories: int = setting(
        8, ge=0, help="trials, from the first on, whose trajectories are kept beside the mean"
    )


@frozen
class RoutingSettings:
    """How well the routing map is known."""

    draws: int = setting(
        4, ge=2, help="random perturbations for each step; as many as the state is wide make it exact"
    )


@frozen
class PropagatorSettings:
    """Whose propagators are compared, and how well."""

    by: str | None = setting(
        None,
        help="coordinate of the trials; left out, the first that puts some of them into 2 to `most` groups",
    )
    most: int = setting(12, ge=2, help="largest number of groups")
    draws: int = setting(
        32, ge=2, help="random perturbations; as many as steps times the state's width make it exact"
    )


@frozen
class ActionSettings:
    """Which operators act, on how many random inputs."""

    operators: tuple[str, ...] = setting(
        ("K", "P K", "P K P*"), help="operators that act: products of P, K, Phi, J, G, and P* ..."
    )
    draws: int = setting(8, ge=2, help="random inputs")


@frozen
class CutSettings:
    """Whose change is cut, and to which ranks."""

    weights: tuple[str, ...] = setting(
        (), help="weights whose change is cut, by name; all matrices when left out"
    )
    ranks: tuple[int, ...] = setting(
        (0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 16), ge=0, help="ranks that the change is cut to"
    )


@frozen
class ForecastSettings:
    """What is forecast."""

    learning_rate: float | None = setting(
        None,
        gt=0,
        lt=math.inf,
        help="of plain gradient descent; that of the training when left out, which must be of that kind",
    )
    law: str = setting(
        "descent", choices=("descent", "flow"), help="updates of that rate, or their limit of many small ones"
    )


@frozen
class AheadSettings:
    """How far ahead, and how fast."""

    updates: int = setting(20, ge=1, help="updates of gradient descent that a copy of the network makes")
    share: float = setting(0.5, gt=0, lt=math.inf, help="learning rate, as a share of the largest stable one")


@frozen
class TruncationSettings:
    """How far errors travel back, and how well the norms are known."""

    windows: tuple[int, ...] = setting(
        (), ge=1, help="steps that errors travel back, and their own; 1, 2, 4, ... up to all when left out"
    )
    draws: int = setting(
        16, ge=2, help="random signs; as many as the states have dimensions make the errors exact"
    )


@frozen
class StableRateSettings:
    """How well curvatures are known."""

    tolerance: float = setting(
        1e-3, gt=0, help="residual of a curvature's eigenvector, relative to its own value"
    )


_QUANTITIES = (
    (
        "predicted_change",
        "change:PredictedChange",
        None,
        "how states and outputs changed since the step before, beside two predictions",
    ),
    (
        "contributions",
        "contributions:Contributions",
        None,
        "the loss's descent and the trace of Phi by parameter, trial, time and epoch",
    ),
    (
        "interference",
        "interference:Interference",
        GroupSettings,
        "what learning one group of trials does to the others",
    ),
    ("lyapunov", "dynamics:Lyapunov", LyapunovSettings, "Lyapunov exponents along each trial"),
    (
        "ftle",
        "dynamics:FiniteTimeExponents",
        FiniteTimeSettings,
        "finite-time Lyapunov exponents by trial and time",
    ),
    (
        "loss_by_epoch",
        "epochs:LossByEpoch",
        None,
        "loss and accuracy, or R^2, by task epoch and by time within the trial",
    ),
    (
        "states",
        "states:States",
        ComponentSettings,
        "participation ratio and principal components of the states, with the readout's rows",
    ),
    (
        "parameters",
        "parameters:Parameters",
        None,
        "norms of the parameters, distances from the first network, effective ranks",
    ),
    (
        "routing",
        "routing:Routing",
        RoutingSettings,
        "how much of a perturbation at one step arrives at another",
    ),
    ("credit", "routing:Credit", None, "the loss's descent by steps that errors travel back"),
    (
        "propagator_similarity",
        "propagators:PropagatorSimilarity",
        PropagatorSettings,
        "how alike the propagators of groups of trials are, tasks or classes, beside those of one group",
    ),
    (
        "truncation",
        "truncation:Truncation",
        TruncationSettings,
        "what is lost of P, of the flow and of the gradient where errors travel a few steps back",
    ),
    (
        "cut_change",
        "cut_change:CutChange",
        CutSettings,
        "the loss with the learned change of weights cut to a low rank",
    ),
    (
        "dimensions",
        "dimensions:Dimensions",
        None,
        "dimensions in which inputs, targets, errors, states and their changes vary",
    ),
    (
        "forecast",
        "forecast:ForecastGap",
        ForecastSettings,
        "outputs and loss beside those that gradient descent would have reached with an earlier Phi",
    ),
    (
        "forecast_ahead",
        "forecast_ahead:ForecastAhead",
        AheadSettings,
        "how far off a forecast of a short gradient descent from here is, whatever made the updates so far",
    ),
    (
        "stable_rate",
        "stable_rate:StableRates",
        StableRateSettings,
        "the largest stable learning rate, the sharpness of the loss, and the rate used",
    ),
    (
        "kernel_change",
        "kernel_change:KernelChange",
        None,
        "how far the operators are from those of the untrained network",
    ),
    (
        "random_action",
        "action:RandomAction",
        ActionSettings,
        "what operators make of random input: strength by step, directions",
    ),
)


def learning_quantities() -> Iterator[QuantitySpec]:
    """Yield the quantities."""
    for name, factory, settings, summary in _QUANTITIES:
        yield QuantitySpec(name, f"{_ROOM}.{factory}", settings=settings, summary=summary)
