"""The partial trace of an operator as a small dense matrix, estimated."""

from __future__ import annotations

import math

import torch
from attrs import frozen

from kpframe.errors import ArgumentError, mismatch
from kpframe.operators import Operator
from kpframe.operators._congruences import check_same_axes
from kpframe.operators._isolation import in_isolation
from kpframe.operators._memory import check_dense_memory, chunk_size
from kpframe.operators._scale import divided, unit_of
from kpframe.operators._spaces import Space
from kpframe.spectra._arguments import check_count, check_operator
from kpframe.spectra._numerics.matvecs import Matvecs
from kpframe.spectra._numerics.probes import agreed, new_generator, probes
from kpframe.spectra._numerics.ranks import basis_rows, whole_rows
from kpframe.spectra._numerics.statistics import t_factor


@frozen(eq=False)
class MatrixEstimate:
    """A dense matrix with a standard error for each entry (zero: exact).

    Attributes:
        value: ``[rows, columns]``.
        stderr: ``[rows, columns]``.
        num_matvecs: operator products taken.
        method: how it was found.
    """

    value: torch.Tensor  # [rows, columns]
    stderr: torch.Tensor  # [rows, columns]
    num_matvecs: int
    method: str


@in_isolation
def partial_trace(
    op: Operator,
    axes: str | tuple[str, ...] | list[str],
    *,
    budget: int = 1000,
    generator: torch.Generator | None = None,
) -> MatrixEstimate:
    """Estimate ``Sum_a op[a, .; a, .]`` over the named axes as a dense matrix over the axes that are left.

    Each probe z has independent signs over the traced axes jointly (never a product of probes of single
    axes, whose variance grows with every axis), and is multiplied with every basis vector of the other
    axes: a probe costs as many products as they have entries, and gives all entries of the matrix at once.
    A budget of at least the dimension gives the exact matrix; ``Operator.partial_trace`` is the exact
    trace as an operator.

    Args:
        op: an operator that has the axes, with one size each, on both sides.
        axes: the axes to trace over, one name or several.
        budget: number of operator products, at least the number of entries of the domain's other axes.
        generator: the source of the probes; None: a new one with seed 0.

    Raises:
        ArgumentError: for a budget or generator that cannot be used.
        AxisError, SpaceMismatchError: when an axis is unknown or not the same on both sides.
        MemoryBudgetError: when the matrix is too large to be held.
        NonFiniteError: when a product is not finite.

    Source: Hutchinson 1990, an entry at a time.
    """
    check_operator(op)
    names = (axes,) if isinstance(axes, str) else tuple(axes)
    check_same_axes(op, names)
    budget = check_count(budget, "budget")
    source = agreed(new_generator(generator), op, axes=names, budget=budget)
    rows, columns = (space.without(*names).dimension for space in (op.codomain, op.domain))
    check_dense_memory(f"partial_trace of {op!r}", rows, columns, op.dtype, 2**31)
    traced = Space(tuple(op.domain[name] for name in names))
    matvec = Matvecs(op, plain=True)
    if budget >= traced.dimension * columns:
        eye = basis_rows(traced, 0, traced.dimension, op)
        total, *_ = _sums(matvec, names, eye, rows, columns, unit=1.0)  # no squares are wanted
        return MatrixEstimate(
            total.to(op.dtype), torch.zeros_like(total, dtype=op.dtype), matvec.count, "exact"
        )
    num = budget // columns
    if num < 1:
        raise ArgumentError(mismatch("budget", f"at least {columns} products, for one probe", budget))
    # For z with independent signs on the traced axes, E[z_a z_a'] = 1 where a = a' and 0 elsewhere, so that
    # entry (r, c), sum_a op[a, r; a, c], is the mean of sum_(a, a') z_a op[a, r; a', c] z_a'.
    signs = probes(
        traced, num, generator=source, kind="rademacher", dtype=op.dtype, device=op.device
    ).flatten(1)
    total, squares, unit = _sums(matvec, names, signs, rows, columns)
    mean = total / num
    spread = (squares / (num - 1) / num).sqrt() * t_factor(num) if num > 1 else mean.new_tensor(math.inf)
    stderr = spread.expand_as(mean)
    return MatrixEstimate(
        (unit * mean).to(op.dtype), (unit * stderr).to(op.dtype), matvec.count, "hutchinson"
    )


def _sums(
    matvec: Matvecs,
    names: tuple[str, ...],
    vectors: torch.Tensor,
    rows: int,
    columns: int,
    unit: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor, float]:  # [rows, columns] each
    """Return the sum over ``vectors`` z of <z, op z> on the traced axes, and that of squared deviations.

    The last number is the unit of both: the one that is given, else of the first z that does not give zero.
    """
    op = matvec.op
    traced = Space(tuple(op.domain[name] for name in names))
    rest, left = op.domain.without(*names), op.codomain.without(*names)
    total = torch.zeros(rows, columns, dtype=torch.float64, device=op.device)
    squares = torch.zeros_like(total)
    step = chunk_size(op, columns)
    for seen, vector in enumerate(vectors):
        sample = torch.empty_like(total)
        for start in range(0, columns, step):
            entries = torch.arange(start, min(start + step, columns), device=op.device)
            kept = basis_rows(rest, start, start + len(entries), op)
            out = matvec(_joined(vector[:, None] * kept[:, None], op.domain, names))
            found = torch.einsum("bar,a->rb", _split(out, op.codomain, names), vector)
            sample[:, entries] = traced.sum(whole_rows(found.mT, left)).mT.double()
        if unit is None and sample.any():
            unit = unit_of(sample)
        sample = divided(sample, unit or 1.0)
        # Welford's update keeps the digits of the squares, and no sample needs to be held.
        before = sample - (total / seen if seen else 0.0)
        total += sample
        squares += before * (sample - total / (seen + 1))
    return total, squares, unit or 1.0


def _split(rows: torch.Tensor, space: Space, names: tuple[str, ...]) -> torch.Tensor:
    """Return flat vectors ``[b, n]`` as ``[b, traced, rest]``."""
    shaped = rows.reshape(len(rows), *space.shape)
    traced = tuple(range(1, len(names) + 1))
    shaped = shaped.movedim([space.dim(name) for name in names], traced)
    size = space.without(*names).size
    return shaped.reshape(len(rows), math.prod(space[name].size for name in names), size)


def _joined(blocks: torch.Tensor, space: Space, names: tuple[str, ...]) -> torch.Tensor:
    """Return ``[b, traced, rest]`` as flat vectors ``[b, n]``."""
    traced = tuple(range(1, len(names) + 1))
    sizes = [space[name].size for name in names]
    shaped = blocks.reshape(len(blocks), *sizes, *space.without(*names).shape)
    return shaped.movedim(traced, [space.dim(name) for name in names]).flatten(1)
