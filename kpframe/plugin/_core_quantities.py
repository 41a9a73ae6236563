"""The quantities that the core offers to studies: names, settings and factories; imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from attrs import frozen

from kpframe.plugin._settings import setting
from kpframe.plugin._specs import QuantitySpec

_ROOM = "kpframe.study._quantities"


@frozen
class SpectrumSettings:
    """How many singular values, and how well."""

    k: int = setting(16, ge=1, help="leading singular values kept")
    tolerance: float = setting(1e-2, gt=0, help="residual of a singular vector, relative to its own value")


@frozen
class KernelSettings:
    """What an exact kernel may take."""

    most: int = setting(
        4096, ge=1, help="largest number of products with each operator: steps, or trials, times units"
    )


@frozen
class OperatorAlignmentSettings:
    """Which operators are compared with those that are measured."""

    others: tuple[str, ...] = setting(
        ("P K",), help="further operators that they are compared with: products of P, K, Phi, J, G and P* ..."
    )


@frozen
class ViewSettings:
    """How operators are reduced, and what is kept of them; reductions are done in the order they stand in."""

    select: dict[str, Any] | None = setting(None, help="entries to keep, by the name of the axis: time = -1")
    bin: dict[str, Any] | None = setting(None, help="steps that one average spans, by axis: time = 5")
    mean: tuple[str, ...] = setting(("batch",), help="axes that are averaged over: batch, time, hidden")
    sum: tuple[str, ...] = setting((), help="axes that are summed over")
    trace: tuple[str, ...] = setting((), help="axes that are traced over")
    k: int = setting(10, ge=1, help="leading eigenfunctions kept")
    tolerance: float = setting(1e-2, gt=0, help="residual of an eigenfunction, relative to its own value")
    budget: int | None = setting(
        None, ge=2, help="operator products for rank and trace; those of the study when left out"
    )


@frozen
class EstimatorSettings:
    """Which estimators, what they may cost, and over how many draws their error is taken."""

    methods: tuple[str, ...] = setting(
        ("hutchinson", "one_sided", "hutchpp", "xtrace", "xnystrace"),
        choices=("hutchinson", "one_sided", "hutchpp", "xtrace", "xnystrace"),
        help="estimators of the trace",
    )
    rank_methods: tuple[str, ...] = setting(
        ("two_sided", "one_sided", "nystrom"),
        choices=("two_sided", "one_sided", "nystrom"),
        help="estimators of the effective rank",
    )
    budgets: tuple[int, ...] = setting((10, 30, 100), ge=4, help="operator products that an estimate takes")
    draws: int = setting(20, ge=2, help="estimates, each from probes of its own")
    most: int = setting(
        4096, ge=64, help="largest number of products with each operator, for the exact values"
    )


@frozen
class ErrorSettings:
    """How well an estimate has to be known."""

    rtol: float | None = setting(
        None,
        gt=0,
        help="standard error to reach, relative to the value, by as few products as it takes, at most 16 "
        "times the budget; unset: what the budget gives",
    )


@frozen
class InfiniteWidthSettings:
    """Which weights a random network has, and of which variances."""

    nonlinearity: str = setting("tanh", choices=("tanh", "erf", "relu"), help="pointwise function phi")
    recurrent: str = setting("weight_hh_l0", help="parameter W [H, H]")
    inputs: str = setting("weight_ih_l0", help="parameter U [H, I]")
    biases: tuple[str, ...] = setting((), help="bias vectors [H]")
    recurrent_variance: float = setting(1.0, gt=0, help="variance of an entry of W, times its columns")
    input_variance: float = setting(1.0, ge=0, help="variance of an entry of U, times its columns")
    bias_variance: float = setting(0.0, ge=0, help="variance of an entry of each bias vector")
    most: int = setting(
        16384, ge=64, help="largest number of products with each operator: trials times steps times units"
    )


_OPERATORS = (
    ("effective_rank", "ranks:EffectiveRank", ErrorSettings, "effective ranks of the operators"),
    ("trace", "ranks:Trace", ErrorSettings, "traces of the operators"),
    ("norm", "ranks:Norm", ErrorSettings, "Frobenius norms of the operators"),
    ("spectrum", "spectra:Spectrum", SpectrumSettings, "leading singular values of the operators"),
    (
        "time_kernel",
        "kernels:TimeKernel",
        KernelSettings,
        "the operators over time: kernels and eigenfunctions",
    ),
    ("trial_kernel", "kernels:TrialKernel", KernelSettings, "the operators over trials: kernels"),
    ("views", "views:Views", ViewSettings, "reduced operators: ranks, spectra and eigenfunctions"),
    ("alignment", "alignments:Alignment", None, "alignments of the operators with those at other steps"),
    (
        "operator_alignment",
        "alignments:OperatorAlignment",
        OperatorAlignmentSettings,
        "alignments of the operators with each other",
    ),
    (
        "estimator_error",
        "estimator_error:EstimatorError",
        EstimatorSettings,
        "errors of estimated traces and effective ranks, by method and cost",
    ),
    (
        "infinite_width",
        "infinite_width:InfiniteWidth",
        InfiniteWidthSettings,
        "the operators of a random network, traced over units, beside their limits of infinite width",
    ),
    ("rules", "rules:Rules", None, "learning rules beside the exact gradient"),
)
_NETWORK = (("scores", "scores:Scores", None, "loss and accuracy, or R^2, on test trials"),)


def quantities() -> Iterator[QuantitySpec]:
    """Yield the core's quantities."""
    for name, factory, settings, summary in (*_NETWORK, *_OPERATORS):
        yield QuantitySpec(name, f"{_ROOM}.{factory}", settings=settings, summary=summary)
