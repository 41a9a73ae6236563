"""K averaged or summed over trials: one small matrix for each unit, where its parameters act on it alone.

With what is read, ``K = Sum_g D_g Z_g Z_g* D_g*`` over preactivations, and the map R over trials acts on D Z:
``R K R* = Sum_g (R D_g Z_g) (R D_g Z_g)*``. Entries of two units do not meet, so that it is a matrix
``[n, n]`` for each unit, n its steps and components, whatever the number of trials.
"""

from __future__ import annotations

from functools import cached_property

import torch
from attrs import frozen

from kpframe.flow._parameter_operator import ParameterOperator
from kpframe.flow._weighted_steps import WeightedRead
from kpframe.operators._base import Operator
from kpframe.operators._congruences import Congruence, SumMap
from kpframe.operators._spaces import BATCH, HIDDEN, TIME

#: Most bytes of the matrices of all units.
MATRIX_BYTES = 2**28
#: Most bytes of the columns of some units that are held at once.
COLUMN_BYTES = 2**24
#: Most entries of a matrix's side to a trial: beyond it the matrices cost more than a few products.
ENTRIES_A_TRIAL = 8


@frozen(eq=False)
class UnitBlocks:
    """An operator on ``[..., hidden]`` that is block diagonal over units.

    Attributes:
        entries: ``[U, s]``, each unit's entries of the last axis.
        matrices: ``[U, n, n]`` over the other axes and these entries, together.
    """

    entries: torch.Tensor
    matrices: torch.Tensor

    def product(self, q: torch.Tensor) -> torch.Tensor:  # [p, others, H]
        """Return the products with vectors."""
        units, inner = self.entries.shape
        parts = q[..., self.entries].permute(2, 0, 1, 3).reshape(units, len(q), -1)  # [U, p, n]
        parts = torch.bmm(parts, self.matrices).reshape(units, *q.shape[:2], inner)
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        out[..., self.entries] = parts.permute(1, 2, 0, 3)
        return out


class TrialTotals(Congruence):
    """``R K R*`` with R the mean or the sum over trials, or over trials and steps.

    Its products are those of the units' matrices, made with the first one; those of K between the maps where
    parameters act on several units, and where matrices would be large or cost more than a few products.
    """

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        blocks = self.blocks
        if blocks is None:
            return super()._apply(q)
        width = q.shape[-1]
        return blocks.product(q.reshape(-1, self.domain.size // width, width)).reshape(q.shape)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return super()._apply_adjoint(r) if self.blocks is None else self._apply(r)  # symmetric

    @cached_property
    def blocks(self) -> UnitBlocks | None:
        """The units' matrices; None where products go through K."""
        K, total = self.inner, self.left
        assert isinstance(K, ParameterOperator)
        assert isinstance(total, SumMap)
        reads = K.jacobian.weighted_reads(K.parameters)
        if reads is None or (labels := self.block_labels()) is None:
            return None
        order = torch.argsort(labels, stable=True)
        count = len(torch.unique(labels))
        entries = order.reshape(count, -1) if len(order) % count == 0 else order[None]
        if bool((labels[entries] != labels[entries[:, :1]]).any()):
            return None  # units of several widths
        steps = self.domain[TIME].size if TIME in self.domain else 1
        side = steps * entries.shape[1]
        if side > ENTRIES_A_TRIAL * K.domain[BATCH].size:
            return None
        if count * side**2 * self.dtype.itemsize > MATRIX_BYTES:
            return None
        return _blocks_of(reads, entries, steps, total.weight)


def total_over(K: ParameterOperator, reduced: Operator, form: type[ParameterOperator]) -> Operator:
    """Return a mean or sum of K as one that uses units, where it is over trials and not over units.

    Args:
        K: of the form; one that is made of it may multiply otherwise.
        reduced: the mean or sum.
        form: K by Gram matrices of what is read.
    """
    total = getattr(reduced, "left", None)
    if not isinstance(reduced, Congruence) or not isinstance(total, SumMap):
        return reduced
    over_trials = BATCH not in reduced.domain and HIDDEN in reduced.domain and K.domain.shards is None
    if not over_trials or type(K) is not form:
        return reduced
    before, after = reduced.around
    return TrialTotals(total, K, total, before=before, after=after)


def _blocks_of(
    reads: tuple[WeightedRead, ...], entries: torch.Tensor, steps: int, weight: float
) -> UnitBlocks:
    units, inner = entries.shape
    unit_of = torch.empty(entries.numel(), dtype=torch.long, device=entries.device)
    place_of = torch.empty_like(unit_of)
    unit_of[entries] = torch.arange(units, device=entries.device)[:, None]
    place_of[entries] = torch.arange(inner, device=entries.device)
    like = reads[0].z
    matrices = like.new_zeros(units, steps * inner, steps * inner)
    for read in reads:
        z = read.z
        if read.biases:  # the last column counts once for each bias
            z = torch.cat([z[..., :-1], z[..., -1:] * read.biases**0.5], dim=-1)
        for block in range(read.blocks):
            gains = [(at, gain) for number, at, gain in read.gains if number == block]
            if not gains:
                continue
            width = gains[0][1].shape[-1]
            each = max(1, COLUMN_BYTES // (steps * inner * z.shape[-1] * z.element_size()))
            for start in range(0, width, each):
                stop = min(start + each, width)
                columns = z.new_zeros(stop - start, steps, inner, z.shape[-1])
                for at, gain in gains:
                    own = slice(at + start, at + stop)
                    total = torch.matmul(gain[..., start:stop].mT, z)  # [T, n, m], over trials
                    total = total.sum(0, keepdim=True) if steps < len(z) else total
                    rows = torch.arange(stop - start, device=z.device)
                    columns[rows, :, place_of[own]] += weight * total.transpose(0, 1)
                rows = unit_of[gains[0][0] + start : gains[0][0] + stop]
                flat = columns.flatten(1, 2)
                matrices[rows] += torch.bmm(flat, flat.mT)
    return UnitBlocks(entries, matrices)
