"""Padded steps: where a step is evaluated that holds the state, so that no derivative of it is taken."""

from __future__ import annotations

from collections.abc import Callable

import torch

from kpframe.flow._trajectory import Trajectory


def where_valid(
    valid: torch.Tensor | None, step: Callable[..., torch.Tensor], h: torch.Tensor, *others: torch.Tensor
) -> torch.Tensor:  # [N], [N, H], [N, ...] each -> [N, H]
    """Return ``step(h, *others)``, the rows of ``h`` held that are not valid."""
    if valid is None or bool(valid.all()):
        return step(h, *others)
    if not bool(valid.any()):
        return h.clone()
    return torch.where(valid.unsqueeze(-1), step(*_at_valid_rows(valid, h, *others)), h)


def starts(trajectory: Trajectory) -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs ``[B, T, I]`` and states ``[B, T, H]`` at which derivatives of all steps are taken."""
    x, previous = trajectory.inputs.detach(), trajectory.previous.detach()
    if trajectory.mask is None:
        return x, previous
    rows = _at_valid_rows(trajectory.mask.flatten(), x.flatten(0, 1), previous.flatten(0, 1))
    return rows[0].reshape(x.shape), rows[1].reshape(previous.shape)


def _at_valid_rows(valid: torch.Tensor, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:  # [N], [N, ...]
    """Return tensors whose rows that are not ``valid`` repeat the first valid one, as constants.

    What a model makes of a padded row is not used, but a derivative there that is not finite would spread as
    0 * inf. At a valid row it is finite, or an error of its own. Where no row is valid they stay.
    """
    if bool(valid.all()) or not bool(valid.any()):
        return tensors
    first = int(valid.nonzero()[0])
    return tuple(
        torch.where(valid.reshape(-1, *[1] * (rows.ndim - 1)), rows, rows[first].detach()) for rows in tensors
    )
