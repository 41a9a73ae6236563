"""Each trial's last step where a mask is True, in place of the axis ``time``: a congruence, too."""

from __future__ import annotations

from functools import partial

import torch

from kpframe.errors import ArgumentError, AxisError, ShapeError, mismatch
from kpframe.operators._base import Operator, last_valid
from kpframe.operators._congruences import Congruence, _sides
from kpframe.operators._spaces import BATCH, TIME, Space, check_axes


class LastValidMap(Operator):
    """``R``: each trial's last step at which a mask is True, in place of the axis ``time``."""

    name = "[last]"

    def __init__(self, space: Space, mask: torch.Tensor, *, like: Operator) -> None:
        if space.names[:2] != (BATCH, TIME):
            raise AxisError(mismatch("last_valid", f"an operator on ({BATCH}, {TIME}, ...)", f"({space})"))
        if tuple(mask.shape) != space.shape[:2] or mask.dtype != torch.bool:
            raise ShapeError(
                mismatch(
                    "mask",
                    f"a bool tensor [{space.axes[0]}, {space.axes[1]}]",
                    f"{mask.dtype} {list(mask.shape)}",
                )
            )
        check = partial(_check_valid, mask, 0 if space.shards is None else space.shards.start)
        check() if space.shards is None else space.shards.together(check)
        super().__init__(space, space.without(TIME), dtype=like.dtype, device=like.device)
        steps = torch.arange(mask.shape[1], device=mask.device)
        self._last = torch.where(mask, steps, -1).amax(dim=1).to(like.device)  # [B]
        self._trials = torch.arange(mask.shape[0], device=like.device)

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        ahead = q.movedim((self.domain.dim(BATCH), self.domain.dim(TIME)), (0, 1))
        return ahead[self._trials, self._last].movedim(0, self.codomain.dim(BATCH))

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        out = r.new_zeros(*r.shape[: r.ndim - len(self.codomain.axes)], *self.domain.shape)
        ahead = out.movedim((self.domain.dim(BATCH), self.domain.dim(TIME)), (0, 1))
        ahead[self._trials, self._last] = r.movedim(self.codomain.dim(BATCH), 0)
        return out


def _check_valid(mask: torch.Tensor, start: int) -> None:
    if not bool(mask.any(dim=1).all()):
        trial = start + int((~mask.any(dim=1)).nonzero()[0])
        raise ArgumentError(
            mismatch("mask", "at least one valid step in each trial", f"none in trial {trial}")
        )


@last_valid.register
def _last_valid(operator: Operator, mask: torch.Tensor) -> Operator:
    check_axes((TIME,), operator.codomain, operator.domain)
    left, right = _sides(operator, (TIME,), lambda space: LastValidMap(space, mask, like=operator))
    return Congruence(left, operator, right, after="[time=last]")
