"""Between the moves of targets, side by side, and those of the state, for a cell of one stage: its gains."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kpframe.models._sites.gains import SiteGains


def push_columns(
    gains: SiteGains, steps: slice, moved: Sequence[tuple[Sequence[str], torch.Tensor]], out: torch.Tensor
) -> None:
    """Write what targets' moves ``[..., t, B, G n]``, side by side, do to the state: ``[..., t, B, H]``."""
    (stage,) = gains.stages
    states, begun = gains.split(out), set()
    for targets, y in moved:
        for target, block in zip(targets, torch.split(y, stage.units, dim=-1), strict=True):
            for output in stage.outputs:
                if target not in output.gains:
                    continue
                if output.name in begun:
                    states[output.name].addcmul_(output.gains[target][steps], block)
                else:
                    torch.mul(output.gains[target][steps], block, out=states[output.name])
                    begun.add(output.name)
    for name, state in states.items():
        if name not in begun:
            state.zero_()


def pull_columns(
    gains: SiteGains, steps: slice, targets: Sequence[str], r: torch.Tensor, room: torch.Tensor
) -> torch.Tensor | None:  # [..., t, B, H] -> [..., t, B, G n]
    """Write what a state vector sends to targets, side by side; None where nothing reaches them."""
    (stage,) = gains.stages
    states = gains.split(r)
    sent = {
        target: [
            (output.gains[target], states[output.name]) for output in stage.outputs if target in output.gains
        ]
        for target in targets
    }
    if not any(sent.values()):
        return None
    for entries, block in zip(sent.values(), torch.split(room, stage.units, dim=-1), strict=True):
        if not entries:
            block.zero_()
        for place, (gain, state) in enumerate(entries):
            if place:
                block.addcmul_(gain[steps], state)
            else:
                torch.mul(gain[steps], state, out=block)
    return room
