"""One product of an operator: what goes in and what comes out is checked, many probes are cut into shares."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch

from kpframe.errors import NonFiniteProductError
from kpframe.finite import check_finite, is_finite
from kpframe.isolation import constant

if TYPE_CHECKING:
    from kpframe.operators.base import Operator

_HINT = (
    " though the argument is finite: a derivative of the model is not (a root or a norm at 0), or numbers "
    "overflow; check=False returns the product as it is"
)


def multiply(op: Operator, q: torch.Tensor, chunk: int | Literal["auto"], check: bool) -> torch.Tensor:
    """Return the product of an operator; see ``Operator.__call__`` for arguments and errors."""
    shape = getattr(q, "shape", None)
    if shape != op.domain.shape or q.dtype != op.dtype or q.device != op.device:  # printing op takes a while
        op.domain.check(q, f"argument of {op!r}", dtype=op.dtype, device=op.device)
    q = constant(q, op)
    with torch.no_grad():
        out = _product(op, q, chunk)
        if check and not is_finite(out):
            check_finite(q, f"argument of {op!r}", op.domain)
            check_finite(out, f"product of {op!r}", op.codomain, hint=_HINT, error=NonFiniteProductError)
        return out


def _product(op: Operator, q: torch.Tensor, chunk: int | Literal["auto"]) -> torch.Tensor:
    probes = q.shape[: q.ndim - len(op.domain.axes)]
    if q.numel() == 0:  # no probe, or no dimension
        return q.new_zeros((*probes, *op.codomain.shape))
    size = op._probes_together(chunk, math.prod(probes))
    if size >= math.prod(probes):
        return op._apply(q)
    rows = q.reshape(-1, *op.domain.shape)
    out = q.new_empty(len(rows), *op.codomain.shape)
    for start in range(0, len(rows), size):
        out[start : start + size] = op._apply(rows[start : start + size])
    return out.reshape(*probes, *op.codomain.shape)
