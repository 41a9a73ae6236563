"""``J`` of trials sharded over ranks: every rank moves its own trials, ``J*`` adds up what they say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from kpframe.flow._parameter_jacobian import ParameterJacobian, WeightGroup


class ShardedParameterJacobian(ParameterJacobian):
    """``J`` from parameters, the same on all ranks, to the states of this rank's trials.

    ``J`` itself is local. ``J*`` sums over trials, hence over ranks: one all-reduce of M numbers, k M for k
    probes. It is the only one in a product with ``K = J M J*`` or ``Phi = P K P*``, as P is block diagonal
    over trials.

    Args:
        local: J of this rank's trials, on a space whose batch axis knows its shards.
    """

    def __init__(self, local: ParameterJacobian) -> None:
        super().__init__(local.domain, local.codomain, dtype=local.dtype, device=local.device)
        self.local = local
        self.method = f"{local.method}, sharded"

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return self.local._apply(q)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return self.codomain.sum(self.local._apply_adjoint(r))

    def weight_groups(self, names: Iterable[str]) -> Sequence[WeightGroup]:
        """Return those of this rank's trials; see ``ParameterJacobian.weight_groups``."""
        return self.local.weight_groups(names)

    def with_gains(self, values: torch.Tensor, *, name: str) -> ParameterJacobian:
        """Return J with given gains for this rank's trials; see ``ParameterJacobian.with_gains``."""
        return ShardedParameterJacobian(self.local.with_gains(values, name=name))
