"""Effective ranks, traces and norms of operators, estimated from their products."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np
import xarray as xr

from kpframe.operators._base import Operator
from kpframe.spectra import Estimate, effective_rank, frobenius_norm, trace
from kpframe.study._moment import Moment
from kpframe.study._quantities.dims import attributes, operator_coordinate
from kpframe.study._quantity import Quantity


class OperatorEstimate(Quantity):
    """A number of each operator, ``[operator]``, with its standard error and how it was found.

    Attributes:
        name: of the variable; ``<name>_stderr`` and ``<name>_method`` go with it.
        text: what it is, and ``noun``, what its standard error is of.
        estimate: from an operator, a ``budget`` and a ``generator``.
    """

    name: ClassVar[str]
    text: ClassVar[str]
    noun: ClassVar[str]
    estimate: ClassVar[Callable[..., Estimate]]

    def measure(self, moment: Moment) -> xr.Dataset:
        """Return the estimates; the operators draw from ``moment.generator(0)``, ``(1)``, ..."""
        budget = moment.around.budget
        found = moment.over_operators(
            lambda place, operator: self.of(operator, budget, moment, place), moment.remembered
        )
        values = np.array([one.value for one in found])
        errors = np.array([one.stderr for one in found])
        methods = [one.method for one in found]
        return xr.Dataset(
            {
                self.name: ("operator", values, attributes(self.text)),
                f"{self.name}_stderr": ("operator", errors, attributes(f"standard error of {self.noun}")),
            },
            coords={
                "operator": operator_coordinate(moment.operators),
                f"{self.name}_method": ("operator", methods, attributes(f"how {self.noun} was found")),
            },
        )

    def of(self, operator: Operator, budget: int, moment: Moment, place: int) -> Estimate:
        """Return the estimate of one operator."""
        estimate: Callable[..., Estimate] = type(self).estimate
        return estimate(operator, budget=budget, generator=moment.generator(place))


class EffectiveRank(OperatorEstimate):
    """Effective ranks, participation ratios of the spectra; ``state_dimension`` is the most they can be."""

    name = "effective_rank"
    text = "effective rank tr(G)^2 / tr(G^2)"
    noun = "the effective rank"
    estimate = effective_rank

    def measure(self, moment: Moment) -> xr.Dataset:
        """Return the estimates."""
        data = super().measure(moment)
        text = "dimension of the state space: trials x steps x width"
        data["state_dimension"] = ((), moment.flow.P.domain.size, attributes(text))
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
