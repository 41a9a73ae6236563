"""Effective ranks, traces and norms of operators, estimated from their products."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import numpy as np
import xarray as xr

from kpframe.operators._base import Operator
from kpframe.plugin._core_quantities import ErrorSettings
from kpframe.plugin._takes import takes_settings
from kpframe.spectra import Estimate, effective_rank, frobenius_norm, trace
from kpframe.study._moment import Moment
from kpframe.study._operator_quantity import OperatorQuantity
from kpframe.study._quantities.dims import attributes, operator_coordinate

#: What is said of the probes of estimates of several operators.
SHARED = "all operators of a step meet the same random probes"


class OperatorEstimate(OperatorQuantity):
    """A number of each operator, ``[operator]``, with its standard error and how it was found.

    All operators draw from ``moment.generator(0)``, so that those that begin by the same factor share its
    products: errors of different operators go together. With an ``rtol`` an operator ``X X*`` is estimated
    from products with X* alone where these suffice.

    Attributes:
        name: of the variable; ``<name>_stderr`` and ``<name>_method`` go with it.
        text: what it is, and ``noun``, what its standard error is of.
        estimate: from an operator, a ``budget`` and a ``generator``.
    """

    on_ranks = "all"

    name: ClassVar[str]
    text: ClassVar[str]
    noun: ClassVar[str]
    estimate: ClassVar[Callable[..., Estimate]]

    @takes_settings(ErrorSettings)
    def __init__(self, settings: ErrorSettings) -> None:
        self.rtol = settings.rtol

    def among(self, moment: Moment) -> Mapping[str, Operator]:
        """Return the operators, whose products are shared with other estimates."""
        return moment.remembered

    def of(self, moment: Moment, place: int, operator: Operator) -> Estimate:
        """Return the estimate of one operator."""
        estimate: Callable[..., Estimate] = type(self).estimate
        budget, source = moment.around.budget, moment.generator()
        return estimate(operator, budget=budget, rtol=self.rtol, generator=source)

    def together(self, moment: Moment, found: Sequence[Estimate]) -> xr.Dataset:
        """Return the estimates."""
        values = np.array([one.value for one in found])
        errors = np.array([one.stderr for one in found])
        methods = [one.method for one in found]
        how = f"how {self.noun} was found; {SHARED}"
        return xr.Dataset(
            {
                self.name: ("operator", values, attributes(self.text)),
                f"{self.name}_stderr": ("operator", errors, attributes(f"standard error of {self.noun}")),
            },
            coords={
                "operator": operator_coordinate(moment.operators),
                f"{self.name}_method": (
                    "operator",
                    methods,
                    attributes(how),
                ),
            },
        )


class EffectiveRank(OperatorEstimate):
    """Effective ranks, participation ratios of the spectra; ``state_dimension`` is the most they can be."""

    name = "effective_rank"
    text = "effective rank tr(G)^2 / tr(G^2)"
    noun = "the effective rank"
    estimate = effective_rank

    def together(self, moment: Moment, found: Sequence[Estimate]) -> xr.Dataset:
        """Return the estimates."""
        data = super().together(moment, found)
        text = "dimension of the state space: trials x steps x width"
        data["state_dimension"] = ((), moment.flow.P.domain.dimension, attributes(text))
        return data


class Trace(OperatorEstimate):
    """Traces."""

    name = "trace"
    text = "trace"
    noun = "the trace"
    estimate = trace


class Norm(OperatorEstimate):
    """Frobenius norms."""

    name = "norm"
    text = "Frobenius norm"
    noun = "the Frobenius norm"
    estimate = frobenius_norm
