"""``K = J M J*``: the kernel that parameters make of the state within one step, with a metric M."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch

from kpframe.errors import SpaceMismatchError, UnsupportedError
from kpframe.flow._named_parameters import match_parameters
from kpframe.flow._parameter_jacobian import ParameterJacobian
from kpframe.operators._algebra import Composition
from kpframe.operators._base import Operator, SelfAdjointOperator, check_together
from kpframe.operators._elementary import IdentityOperator
from kpframe.operators._spaces import PARAMETER, Space


class GroupProjector(SelfAdjointOperator):
    """The projector on named parameter groups of ``space``: ones on ``names``, zeros elsewhere.

    Any name of a shared parameter stands for all of it. It takes tensors of ``dtype`` on ``device``.
    """

    def __init__(
        self, space: Space, names: Iterable[str], *, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__(space, space, dtype=dtype, device=device)
        chosen = set(names)
        self.names = tuple(part.name for part in space[PARAMETER].parts if chosen.intersection(part.names))
        self.name = f"1[{', '.join(self.names)}]"

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        out = torch.zeros_like(q)
        for part in self.domain[PARAMETER].parts:
            if part.name in self.names:
                out[..., part.slice] = q[..., part.slice]
        return out

    @property
    def positive(self) -> bool:
        """Always true."""
        return True


class ParameterOperator(Operator):
    """``K = J M J*`` on the state space, with a metric ``M`` on the parameters; abstract.

    A form supplies ``_sandwich``, the product for a metric; it says by ``fits`` which parameter Jacobians it
    takes and by ``settings`` how it was made. What is restricted, or given another metric, stays of its form.

    Args:
        jacobian: ``J``.
        metric: ``M``; the identity when left out.
        name: how it prints.

    Attributes:
        device_type: of the devices that the form is for, such as ``"cuda"``; None for any.

    Raises:
        SpaceMismatchError: for a metric that is not on the space of the parameters.
        UnsupportedError: for a parameter Jacobian that the form does not fit; says why.
    """

    device_type: ClassVar[str | None] = None

    def __init__(
        self, jacobian: ParameterJacobian, metric: Operator | None = None, *, name: str = "K"
    ) -> None:
        reason = self.fits(jacobian)
        if reason is not None:
            how = getattr(jacobian, "method", type(jacobian).__name__)
            raise UnsupportedError(f"{type(self).__name__} does not fit {jacobian!r} ({how} form): {reason}")
        space = jacobian.domain
        if metric is None:
            metric = IdentityOperator(space, dtype=jacobian.dtype, device=jacobian.device)
        if (metric.domain, metric.codomain) != (space, space):
            raise SpaceMismatchError(
                f"metric: expected an operator on ({space}), "
                f"got one from ({metric.domain}) to ({metric.codomain})"
            )
        check_together(jacobian, metric, "@")
        super().__init__(jacobian.codomain, jacobian.codomain, dtype=jacobian.dtype, device=jacobian.device)
        self.jacobian = jacobian
        self.metric = metric
        self.name = name

    @property
    def method(self) -> str:
        """How the products are computed: the form of ``J``."""
        return self.jacobian.method

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return self._sandwich(self.metric, q)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return self._sandwich(self.metric.T, r)

    @abstractmethod
    def _sandwich(self, metric: Operator, q: torch.Tensor) -> torch.Tensor:
        """Return ``J metric J* q`` for ``q`` ``[..., B, T, H]``; the metric is M or its adjoint."""

    @classmethod
    def fits(cls, jacobian: ParameterJacobian) -> str | None:
        """Return why this form cannot take a ``jacobian``, such as its device; None where it can."""
        if cls.device_type in (None, jacobian.device.type):
            return None
        return f"it is for {cls.device_type} devices, and J is on {jacobian.device}"

    @property
    def settings(self) -> dict[str, Any]:
        """What a form takes beside J, M and its name: the keywords that ``with_metric`` hands on."""
        return {}

    @property
    def self_adjoint(self) -> bool:
        """Whether the metric is self-adjoint."""
        return self.metric.self_adjoint

    @property
    def positive(self) -> bool:
        """Whether the metric is positive."""
        return self.metric.positive

    def block_labels(self) -> torch.Tensor | None:  # [H], int64
        """Return the unit of each entry where each parameter acts on one alone; see ``J.unit_labels``."""
        if not isinstance(self.metric, IdentityOperator | GroupProjector):  # others may mix parameters
            return None
        return self.jacobian.unit_labels(self.parameters)

    @property
    def parameters(self) -> tuple[str, ...]:
        """The parameters that can move: all of them, or those that a restriction kept."""
        outer = self.metric.factors[0] if isinstance(self.metric, Composition) else self.metric
        if isinstance(outer, GroupProjector):
            return outer.names
        return tuple(part.name for part in self.jacobian.domain[PARAMETER].parts)

    def with_metric(self, metric: Operator, *, name: str = "K_M") -> ParameterOperator:
        """Return ``J M J*`` with another ``metric`` M on the parameter space, in this form, as ``name``."""
        return type(self)(self.jacobian, metric, name=name, **self.settings)

    def restrict(self, names: Iterable[str]) -> ParameterOperator:
        """Return the operator of the parameters ``names`` alone; ``*`` and ``?`` match as in file names.

        A parameter that the model shares between places is one: any of its names means all of it.

        Raises:
            ArgumentError: when a name matches no parameter; lists those there are.
        """
        return self._keep(match_parameters(self.jacobian.domain, names))

    def freeze(self, names: Iterable[str]) -> ParameterOperator:
        """Return the operator of all parameters but ``names``; see ``restrict``."""
        frozen = match_parameters(self.jacobian.domain, names)
        return self._keep(tuple(name for name in self.parameters if name not in frozen))

    def groups(self) -> dict[str, ParameterOperator]:
        """Return ``K_g`` of each parameter alone; with an identity metric they add up to ``K``."""
        return {name: self._keep((name,)) for name in self.parameters}

    def _keep(self, names: tuple[str, ...]) -> ParameterOperator:
        kept = tuple(name for name in self.parameters if name in names)
        J = self.jacobian
        projector = GroupProjector(J.domain, kept, dtype=self.dtype, device=self.device)
        metric: Operator = projector
        if not isinstance(self.metric, IdentityOperator | GroupProjector):
            metric = projector @ self.metric @ projector
        return self.with_metric(metric, name=f"K[{', '.join(kept)}]")


class ProductParameterOperator(ParameterOperator):
    """``K = J M J*`` as its three products, whatever the form of J and M."""

    def _sandwich(self, metric: Operator, q: torch.Tensor) -> torch.Tensor:
        return self._begun(metric, q)()

    @property
    def _splits(self) -> bool:
        """Whether ranks share the trials; a form that overrides ``_sandwich`` alone has but one part."""
        own = type(self)._sandwich is ProductParameterOperator._sandwich
        return own and self.domain.shards is not None

    def _begin(self, q: torch.Tensor) -> Callable[[], torch.Tensor]:
        return self._begun(self.metric, q) if self._splits else super()._begin(q)

    def _begun(self, metric: Operator, q: torch.Tensor) -> Callable[[], torch.Tensor]:
        """Make ``J* q`` of this rank's trials, start its sum, and return what makes ``J metric`` of that."""
        jacobian = self.jacobian
        wait = jacobian.start_adjoint(q)

        def finish() -> torch.Tensor:
            moved = wait()
            return jacobian._apply(moved if isinstance(metric, IdentityOperator) else metric._apply(moved))

        return finish
