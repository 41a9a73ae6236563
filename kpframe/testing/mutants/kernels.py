"""Models whose own J or K is wrong: a bias forgotten, a metric ignored, an axis counted once."""

from __future__ import annotations

import torch

from kpframe.flow._parameter_jacobian import ParameterJacobian
from kpframe.flow._parameter_operator import ParameterOperator, ProductParameterOperator
from kpframe.flow._trajectory import Trajectory
from kpframe.models._sites.model import SiteModel
from kpframe.operators import Operator
from kpframe.operators._spaces import PARAMETER
from kpframe.testing._toys import Elman

Tensor = torch.Tensor


class _WrongJ(ParameterJacobian):
    """J that sees no bias, or whose adjoint does not."""

    def __init__(self, right: ParameterJacobian, forward: bool) -> None:
        super().__init__(right.domain, right.codomain, dtype=right.dtype, device=right.device)
        self.right, self.forward = right, forward

    def _drop(self, q: Tensor) -> Tensor:
        q = q.clone()
        for part in self.domain[PARAMETER].parts:
            if part.name.startswith("bias_hh"):
                q[..., part.slice] = 0
        return q

    def _apply(self, q: Tensor) -> Tensor:
        return self.right._apply(self._drop(q) if self.forward else q)

    def _apply_adjoint(self, r: Tensor) -> Tensor:
        return self._drop(self.right._apply_adjoint(r))


class _NoBias(ProductParameterOperator):
    def _sandwich(self, metric: Operator, q: Tensor) -> Tensor:
        keep = torch.ones(self.jacobian.domain.size, dtype=q.dtype)
        for part in self.jacobian.domain[PARAMETER].parts:
            if part.name.startswith("bias_hh"):
                keep[part.slice] = 0
        return self.jacobian._apply(keep * metric._apply(self.jacobian._apply_adjoint(q)))


class _Negative(ProductParameterOperator):
    def _sandwich(self, metric: Operator, q: Tensor) -> Tensor:
        return -super()._sandwich(metric, q)


class _Damped(ProductParameterOperator):
    def _sandwich(self, metric: Operator, q: Tensor) -> Tensor:
        return super()._sandwich(metric, q) + 0.1 * q


class _Asymmetric(ProductParameterOperator):
    def _apply(self, q: Tensor) -> Tensor:
        return super()._apply(q) * torch.linspace(1, 2, q.shape[-2], dtype=q.dtype).unsqueeze(-1)

    def _apply_adjoint(self, r: Tensor) -> Tensor:
        return super()._apply(r) * torch.linspace(2, 3, r.shape[-2], dtype=r.dtype).unsqueeze(-1)

    @property
    def self_adjoint(self) -> bool:
        """Not."""
        return False


class _Unfrozen(ProductParameterOperator):
    def _sandwich(self, metric: Operator, q: Tensor) -> Tensor:
        return self.jacobian._apply(self.jacobian._apply_adjoint(q))


class _GroupTwice(ProductParameterOperator):
    def groups(self) -> dict[str, ParameterOperator]:
        """Return the groups, the first one as the whole."""
        return {name: self if i == 0 else group for i, (name, group) in enumerate(super().groups().items())}


class _Doubles(ProductParameterOperator):
    def _apply(self, q: Tensor) -> Tensor:
        return super()._apply(q).double()


class _CountedOnce(ProductParameterOperator):
    def mean(self, *axes: str) -> Operator:
        """Return the average over one copy of the axes, the sum over the other."""
        count = 1
        for axis in axes:
            count *= self.domain[axis].size
        return count * super().mean(*axes)


class _SumForTrace(ProductParameterOperator):
    def partial_trace(self, *axes: str) -> Operator:
        """Return a contraction with ones."""
        return self.sum(*axes)


class _OneSided(ProductParameterOperator):
    def project(self, directions: Tensor, axis: str = "hidden", name: str = "output") -> Operator:
        """Return a projection with another matrix on the right."""
        right = super().project(directions.flip(0), axis, name)
        return super().project(directions, axis, name) - right - right


class _Apart(ProductParameterOperator):
    def block_labels(self) -> Tensor:
        """The trainable initial state acts on all units."""
        return torch.arange(self.domain.shape[-1])


class SharedStart(Elman):
    """K that says each parameter acts on one unit, beside one initial state for all."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, trainable_initial_state=True)

    def parameter_operator(self, trajectory: Trajectory) -> ParameterOperator:
        """Return K with the wrong labels."""
        return _Apart(super().parameter_operator(trajectory).jacobian)


def with_parameter_operator(wrong: type[ParameterOperator], base: type[SiteModel] = Elman) -> type[SiteModel]:
    """Return a model whose parameter operator is of the class ``wrong``, everything else right."""

    class Model(base):  # type: ignore[valid-type, misc]
        def parameter_operator(self, trajectory: Trajectory) -> ParameterOperator:
            return wrong(super().parameter_operator(trajectory).jacobian)

    Model.__name__ = Model.__qualname__ = f"K{wrong.__name__}"
    return Model


class NoBiasInJ(Elman):
    """J that does not see a bias."""

    def parameter_operator(self, trajectory: Trajectory) -> ParameterOperator:
        """Return K of the wrong J."""
        return ProductParameterOperator(_WrongJ(super().parameter_operator(trajectory).jacobian, True))


class HalfJ(Elman):
    """J* that does not see a bias, where J does."""

    def parameter_operator(self, trajectory: Trajectory) -> ParameterOperator:
        """Return K of the wrong J."""
        return ProductParameterOperator(_WrongJ(super().parameter_operator(trajectory).jacobian, False))
