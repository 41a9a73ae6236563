"""What the parameters of one step do to a direction of the state, for each trial and step."""

from __future__ import annotations

import torch

from kpframe import Operator
from kpframe.models._sites.gains import gather
from kpframe.models._sites.parameter_operator import SiteParameterJacobian
from kpframe.operators._memory import chunk_size
from kpframe.rules._initial_path import RestartedJacobian


def eligibilities(J: Operator, directions: torch.Tensor) -> torch.Tensor:  # [B, T, H] -> [B, T, M]
    """Return ``J_t* nu_t`` of each trial, where ``J*`` adds up trials and steps.

    One pass for weight sites. Others take B T products with ``J*``, several at a time.
    """
    if isinstance(J, RestartedJacobian):
        out = eligibilities(J.inner, directions)
        alone = torch.eye(len(directions), dtype=directions.dtype, device=directions.device)
        out[:, 0] = J.restarted(out[:, 0], alone.unsqueeze(-1) * directions[:, 0])
        return out
    if isinstance(J, SiteParameterJacobian):
        names = [part.name for part in J.domain.axes[0].parts]
        if not any(group.per_step for group in J.groups(names)):
            return _of_sites(J, names, directions)
    batch, time, hidden = directions.shape
    out = directions.new_empty(batch * time, J.domain.size)
    each = chunk_size(J, batch * time)
    for start in range(0, batch * time, each):
        rows = torch.arange(start, min(start + each, batch * time), device=directions.device)
        probes = directions.new_zeros(len(rows), batch * time, hidden)
        probes[rows - start, rows] = directions.reshape(batch * time, hidden)[rows]
        out[rows] = J.T(probes.reshape(len(rows), batch, time, hidden))
    return out.reshape(batch, time, -1)


def _of_sites(J: SiteParameterJacobian, names: list[str], directions: torch.Tensor) -> torch.Tensor:
    batch, time, _ = directions.shape
    out = directions.new_zeros(time, batch, J.domain.size)
    parts = {part.name: part.slice for part in J.domain.axes[0].parts}
    turned = directions.transpose(0, 1).contiguous()
    with torch.no_grad():
        _, pulled = J.gains.cotangent(slice(None), J.gains.split(turned), state=False)
        for group in J.groups(names):
            columns = gather(group.targets, pulled)
            if columns is not None:
                for name, value in group.gradients(columns.unsqueeze(-1) * group.z.unsqueeze(-2)):
                    out[..., parts[name]] += value.flatten(2)
        if J.first_step is not None:
            out[0][:, parts["h0"]] += J.first_step.step_adjoint(0, turned[0])
    return out.transpose(0, 1)
