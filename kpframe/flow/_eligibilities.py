"""What the parameters of one step do to a direction of the state, for each trial and step."""

from __future__ import annotations

from functools import singledispatch

import torch

from kpframe.errors import UnsupportedError
from kpframe.flow._parameter_jacobian import ParameterJacobian
from kpframe.operators._base import Operator
from kpframe.operators._memory import chunk_size


@singledispatch
def eligibilities(J: Operator, r: torch.Tensor) -> torch.Tensor:  # [B, T, H] -> [B, T, M]
    """Return ``J_t* r_t`` of each trial and step, ``[B, T, M]``, which a product with ``J*`` adds up.

    One pass for the parameter Jacobian of a ``SiteModel``. Others take B T products with ``J*``, several at
    a time.

    Args:
        J: an operator from the parameter space to the state space, at each step apart.
        r: ``[B, T, H]``, one vector of the state space.

    Raises:
        UnsupportedError: for an operator that adds up over ranks by itself.
    """
    local = isinstance(J, ParameterJacobian)
    if J.codomain.shards is not None and not local:
        raise UnsupportedError(
            f"{J!r} adds up over the ranks of {J.codomain.shards}; its parts by trial and step are not known "
            "apart (without group= they are)"
        )
    batch, time, hidden = r.shape
    out = r.new_empty(batch * time, J.domain.size)
    each = chunk_size(J, batch * time)
    for start in range(0, batch * time, each):
        rows = torch.arange(start, min(start + each, batch * time), device=r.device)
        probes = r.new_zeros(len(rows), batch * time, hidden)
        probes[rows - start, rows] = r.reshape(batch * time, hidden)[rows]
        probes = probes.reshape(len(rows), batch, time, hidden)
        out[rows] = J.T(probes) if J.codomain.shards is None else J._apply_adjoint(probes)  # of this rank
    return out.reshape(batch, time, -1)
