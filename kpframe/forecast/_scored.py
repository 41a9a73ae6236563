"""An operator on the outputs, between those that are scored."""

from __future__ import annotations

import torch

from kpframe.forecast._objective import Objective
from kpframe.operators._base import Operator
from kpframe.operators._shards import Shards
from kpframe.operators._spaces import OUTPUT, Axis, Space


class ScoredOperator(Operator):
    """``S op S*``, with S the scored outputs in a row: ``[n O]``, of which a rank has those of its trials."""

    def __init__(self, inner: Operator, objective: Objective) -> None:
        own = objective.start.numel()
        space = Space((Axis(OUTPUT, own, shards=_shares(objective, own)),))
        super().__init__(space, space, dtype=inner.dtype, device=inner.device)
        self.inner, self.objective = inner, objective

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return self._kept(self.inner._apply(self._placed(q)))

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return self._kept(self.inner._apply_adjoint(self._placed(r)))

    def _placed(self, q: torch.Tensor) -> torch.Tensor:
        return self.objective.placed(q.reshape(*q.shape[:-1], *self.objective.start.shape))

    def _kept(self, moved: torch.Tensor) -> torch.Tensor:
        return moved[..., self.objective.trials.scored, :].flatten(-2)

    @property
    def self_adjoint(self) -> bool:
        """Whether it is self-adjoint, as what it is of."""
        return self.inner.self_adjoint

    @property
    def positive(self) -> bool:
        """Whether it is positive, as what it is of."""
        return self.inner.positive

    def _formula(self) -> tuple[str, int]:
        return self.inner._formula()


def _shares(objective: Objective, own: int) -> Shards | None:
    """Return how many scored outputs each rank has, None where one process has all."""
    shards = objective.space.shards
    if shards is None:
        return None
    counts = torch.zeros(shards.ranks, dtype=torch.int64, device=shards.device)
    counts[shards.rank] = own
    return shards.with_counts(tuple(shards.sum(counts).tolist()))
