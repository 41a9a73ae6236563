"""``J`` of trials sharded over ranks: every rank moves its own trials, ``J*`` adds up what they say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import singledispatch

import torch

from kpframe.errors import UnsupportedError
from kpframe.flow._eligibilities import eligibilities
from kpframe.flow._parameter_jacobian import ParameterJacobian, WeightGroup
from kpframe.operators._base import Operator
from kpframe.operators._spaces import Space


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
        self.name = local.name
        self.method = f"{local.method}, sharded"

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return self.local._apply(q)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return self.start_adjoint(r)()

    def start_adjoint(self, r: torch.Tensor) -> Callable[[], torch.Tensor]:
        """Start the sum of ``J* r`` over ranks, and return what waits for it."""
        return self.codomain.start_sum(self.local._apply_adjoint(r))

    def weight_groups(self, names: Iterable[str]) -> Sequence[WeightGroup]:
        """Return those of this rank's trials; see ``ParameterJacobian.weight_groups``."""
        return self.local.weight_groups(names)

    def unit_labels(self, names: Iterable[str]) -> torch.Tensor | None:  # [H], int64
        """Return the unit of each entry, which is the same on all ranks; see ``ParameterJacobian``.

        Where this rank's J does not know it, all ranks find out by products with J* of all trials.
        """
        known = self.local.unit_labels(names)
        return self._unit_probes.labels(names) if known is None else known

    def with_gains(self, values: torch.Tensor, *, name: str) -> ParameterJacobian:
        """Return J with given gains for this rank's trials; see ``ParameterJacobian.with_gains``."""
        return ShardedParameterJacobian(self.local.with_gains(values, name=name))


@eligibilities.register
def _(J: ShardedParameterJacobian, r: torch.Tensor) -> torch.Tensor:  # [B, T, H] -> [B, T, M]
    """Return ``J_t* r_t`` of each trial and step of this rank."""
    return eligibilities(J.local, r)


@singledispatch
def local_jacobian(J: Operator) -> Operator:
    """Return ``J`` of this rank's trials alone, J itself where trials are not sharded.

    Raises:
        UnsupportedError: for another operator than a parameter Jacobian, that adds up over ranks by itself.
    """
    if J.codomain.shards is None or isinstance(J, ParameterJacobian):
        return J
    raise UnsupportedError(f"{J!r} adds up over ranks: its part of this rank's trials is not known apart")


@local_jacobian.register
def _(J: ShardedParameterJacobian) -> Operator:
    return J.local


def summed_over_ranks(
    space: Space, found: Sequence[torch.Tensor | None], probes: Sequence[int]
) -> list[torch.Tensor | None]:
    """Return tensors ``[*probes, ...]`` added up over the ranks of a sharded space, by one all-reduce."""
    return sum_over_ranks(space, found, probes)()


def sum_over_ranks(
    space: Space, found: Sequence[torch.Tensor | None], probes: Sequence[int]
) -> Callable[[], list[torch.Tensor | None]]:
    """Start to add up tensors ``[*probes, ...]`` over ranks, and return what waits for the sums."""
    shapes = [None if values is None else values.shape for values in found]
    flat = [values.reshape(*probes, -1) for values in found if values is not None]
    if not flat:
        return lambda: [None for _ in shapes]
    sizes = [part.shape[-1] for part in flat]
    wait = space.start_sum(torch.cat(flat, dim=-1))

    def finish() -> list[torch.Tensor | None]:
        parts = iter(torch.split(wait(), sizes, dim=-1))
        return [None if shape is None else next(parts).reshape(shape) for shape in shapes]

    return finish
