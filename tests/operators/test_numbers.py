"""Operators whose vectors are single numbers, on the space without axes: one vector, or probes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from kpframe.operators import (
    BlockOperator,
    FunctionOperator,
    KroneckerOperator,
    MatrixOperator,
    Operator,
    OuterProductOperator,
    Space,
    direct_sum,
)

NUMBER, LINE = Space(()), Space.of(index=3)
A = MatrixOperator(torch.arange(9.0, dtype=torch.float64).reshape(3, 3) + torch.eye(3).double(), LINE)
ROW = MatrixOperator(torch.tensor([[1.0, -2.0, 4.0]], dtype=torch.float64), LINE, NUMBER, name="r")
ONE = MatrixOperator(torch.tensor([[3.0]], dtype=torch.float64), NUMBER, name="c")
TWO = torch.tensor(2.0, dtype=torch.float64)

MADE: dict[str, Callable[[], Operator]] = {
    "row": lambda: ROW,
    "number": lambda: ONE,
    "inverse": lambda: ONE.inverse,
    "declared": lambda: FunctionOperator(NUMBER, NUMBER, lambda q: 2 * q, dtype=torch.float64, positive=True),
    "cached row": lambda: ROW.cached(),
    "cached trace": lambda: A.partial_trace("index").cached(),
    "mean": lambda: A.mean("index"),
    "one entry": lambda: A.select(index=1),
    "product": lambda: ROW @ A @ ROW.T,
    "sum": lambda: ONE + 2 * ONE,
    "outer": lambda: OuterProductOperator(TWO, codomain=NUMBER),
    "outer, a column": lambda: OuterProductOperator(A.matrix[0], TWO, codomain=LINE, domain=NUMBER),
    "outer, a row": lambda: OuterProductOperator(TWO, A.matrix[0], codomain=NUMBER, domain=LINE),
    "kronecker": lambda: KroneckerOperator(ONE, ONE),
    "kronecker, one side": lambda: KroneckerOperator(ROW, ONE),
    "blocks": lambda: BlockOperator([[ROW, ONE]]),
    "direct sum": lambda: direct_sum(ONE, A),
}


@pytest.mark.parametrize("probes", [(), (2,), (2, 3)], ids=str)
@pytest.mark.parametrize("name", sorted(MADE))
def test_products_are_those_of_the_matrix(name, probes, close, differ) -> None:
    op = MADE[name]()
    for side, matrix in ((op, op.to_dense()), (op.T, op.to_dense().T)):
        q = torch.arange(1.0, 1 + side.domain.size * max(1, torch.Size(probes).numel()), dtype=torch.float64)
        q = q.reshape((*probes, *side.domain.shape))
        expected = q.reshape((*probes, side.domain.size)) @ matrix.T
        close(side(q), expected.reshape((*probes, *side.codomain.shape)))
        close(side(q, chunk=1), side(q))
        differ(side(q), side(2 * q))


def test_the_matrices_are_right(close) -> None:
    close(MADE["product"]().to_dense(), ROW.matrix @ A.matrix @ ROW.matrix.T)
    close(MADE["outer"]().to_dense(), torch.tensor([[4.0]], dtype=torch.float64))
    close(MADE["cached trace"]().to_dense(), A.matrix.trace().reshape(1, 1))
    close(MADE["kronecker"]().to_dense(), torch.tensor([[9.0]], dtype=torch.float64))
    close(MADE["inverse"]().to_dense(), torch.tensor([[1 / 3]], dtype=torch.float64))
