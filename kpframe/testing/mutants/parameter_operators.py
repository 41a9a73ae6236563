"""Forms of parameter operator that are wrong."""

from __future__ import annotations

from typing import Any

import torch

from kpframe.flow._parameter_jacobian import ParameterJacobian
from kpframe.flow._parameter_operator import ParameterOperator, ProductParameterOperator
from kpframe.models._sites.parameter_operator import SiteParameterJacobian
from kpframe.operators import IdentityOperator, Operator
from kpframe.testing.mutants.mutant import Mutant

Tensor = torch.Tensor


def not_an_operator(J: ParameterJacobian) -> Any:
    """Return J itself."""
    return J


class NoMetric(ProductParameterOperator):
    """Forgets the metric."""

    def _sandwich(self, metric: Operator, q: Tensor) -> Tensor:
        return self.jacobian._apply(self.jacobian._apply_adjoint(q))


class ForwardAdjoint(ProductParameterOperator):
    """K* with the metric of K."""

    def _apply_adjoint(self, r: Tensor) -> Tensor:
        return self._apply(r)


class AlwaysPositive(ProductParameterOperator):
    """Tagged positive whatever the metric."""

    @property
    def positive(self) -> bool:
        """Always true."""
        return True


class NeverTagged(ProductParameterOperator):
    """Not tagged self-adjoint where it is."""

    @property
    def self_adjoint(self) -> bool:
        """Always false."""
        return False


class GroupTwice(ProductParameterOperator):
    """The first parameter counts twice among the groups."""

    def groups(self) -> dict[str, ParameterOperator]:
        """Return groups that do not add up."""
        groups = super().groups()
        first = next(iter(groups))
        return {**groups, first: groups[first].with_metric(2.0 * groups[first].metric)}


class FallsBack(ProductParameterOperator):
    """Gives up its form with a metric."""

    def with_metric(self, metric: Operator, *, name: str = "K_M") -> ParameterOperator:
        """Return the three products."""
        return ProductParameterOperator(self.jacobian, metric, name=name)


class ProbesForTrials(ProductParameterOperator):
    """Adds probes up as if they were trials."""

    def _sandwich(self, metric: Operator, q: Tensor) -> Tensor:
        return super()._sandwich(metric, q.cumsum(0) if q.ndim > 3 else q)


class DropsTiny(ProductParameterOperator):
    """Takes what is tiny for zero."""

    def _sandwich(self, metric: Operator, q: Tensor) -> Tensor:
        return super()._sandwich(metric, q.where(q.abs() > 1e-12, 0.0))


class Spoils(ProductParameterOperator):
    """Works in its argument."""

    def _sandwich(self, metric: Operator, q: Tensor) -> Tensor:
        q *= 0.5
        return super()._sandwich(metric, 2 * q)


class Doubles(ProductParameterOperator):
    """Computes in float64 and stays there."""

    def _sandwich(self, metric: Operator, q: Tensor) -> Tensor:
        return super()._sandwich(metric, q).double()


class HoldsAFunction(ProductParameterOperator):
    """Keeps a function that cannot be pickled."""

    def __init__(
        self, jacobian: ParameterJacobian, metric: Operator | None = None, *, name: str = "K"
    ) -> None:
        super().__init__(jacobian, metric, name=name)
        self.gram = lambda q: q


class TakesSitesForAll(ProductParameterOperator):
    """Says that it takes any J, and halves what is not of weight sites."""

    def _sandwich(self, metric: Operator, q: Tensor) -> Tensor:
        out = super()._sandwich(metric, q)
        return out if isinstance(self.jacobian, SiteParameterJacobian) else 0.5 * out


class BuiltAllTheSame(ProductParameterOperator):
    """Says that it takes J of weight sites alone, and is made of any."""

    def __init__(
        self, jacobian: ParameterJacobian, metric: Operator | None = None, *, name: str = "K"
    ) -> None:
        space = jacobian.codomain
        Operator.__init__(self, space, space, dtype=jacobian.dtype, device=jacobian.device)
        own = IdentityOperator(jacobian.domain, dtype=jacobian.dtype, device=jacobian.device)
        self.jacobian, self.name = jacobian, name
        self.metric = own if metric is None else metric

    @classmethod
    def fits(cls, jacobian: ParameterJacobian) -> str | None:
        """Return a reason for any J that is not of weight sites."""
        return None if isinstance(jacobian, SiteParameterJacobian) else "it is not of weight sites"


MUTANTS = tuple(
    Mutant(wrong, check, says, "parameter_operator")
    for wrong, check, says in (
        (not_an_operator, "parameter_operator_builds", "expected a kpframe.ParameterOperator, got"),
        (NoMetric, "products_equal_JMJ", "K with the metric"),
        (ForwardAdjoint, "adjoint_products_equal_JMJ", "K* with the metric"),
        (AlwaysPositive, "tags_of_K_are_true", "tagged"),
        (NeverTagged, "tags_of_K_are_true", "K.self_adjoint: expected True"),
        (GroupTwice, "groups_add_up", "K.groups()["),
        (FallsBack, "with_metric_keeps_the_form", "expected a FallsBack, got a ProductParameterOperator"),
        (ProbesForTrials, "probes_batched", "K of probes [2, 2]"),
        (DropsTiny, "linear_at_every_scale", "K(8e-31 q)"),
        (Spoils, "products_are_pure", "K: it changed its argument"),
        (Doubles, "single_precision_kept", "K of a float32 vector: expected torch.float32"),
        (HoldsAFunction, "copies_are_alike", "attributes that cannot be pickled"),
        (TakesSitesForAll, "fits_is_honest", "which fits() takes"),
        (BuiltAllTheSame, "fits_is_honest", "it was built, and fits() says: it is not of weight sites"),
    )
)
