"""Tags are there where they are provable, and a wrong one cannot arise."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kpframe.operators import (
    DiagonalOperator,
    IdentityOperator,
    MatrixOperator,
    Operator,
    OuterProductOperator,
    ZeroOperator,
)
from kpframe.operators._spaces import Space

SPACE = Space.of(batch=2, time=2)
SYMMETRIC, POSITIVE = {"self_adjoint"}, {"self_adjoint", "positive"}


def leaves(seed: int) -> dict[str, Operator]:
    generator = torch.Generator().manual_seed(seed)

    def values(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    a, b, s, c = values(4, 4), values(4, 4), values(4, 4), values(4, 3)
    u, v = values(2, 2), values(2, 2)
    return {
        "A": MatrixOperator(a, SPACE, name="A"),
        "B": MatrixOperator(b, SPACE, name="B"),
        "S": MatrixOperator(s + s.T, SPACE, name="S"),
        "C": MatrixOperator(c @ c.T, SPACE, name="C"),
        "D": DiagonalOperator(values(2, 2), SPACE),
        "E": DiagonalOperator(values(2, 2).abs(), SPACE, name="E"),
        "I": IdentityOperator(SPACE, dtype=torch.float64),
        "0": ZeroOperator(SPACE, dtype=torch.float64),
        "uu": OuterProductOperator(u, codomain=SPACE),
        "uv": OuterProductOperator(u, v, codomain=SPACE),
    }


X = leaves(0)
A, B, S, C, D, E, UU, UV = (X[name] for name in ("A", "B", "S", "C", "D", "E", "uu", "uv"))
AT = A.T  # one object


@pytest.mark.parametrize(
    ("operator", "tags"),
    [
        (A, set()),
        (A.T, set()),
        (S, SYMMETRIC),
        (C, POSITIVE),
        (-C, SYMMETRIC),
        (0 * C, POSITIVE),
        (D, SYMMETRIC),
        (E, POSITIVE),
        (X["I"], POSITIVE),
        (X["0"], POSITIVE),
        (UU, POSITIVE),
        (UV, set()),
        (A @ A.T, POSITIVE),
        (A.T @ A, POSITIVE),
        (A @ S @ A.T, SYMMETRIC),
        (A @ C @ A.T, POSITIVE),
        (A @ B @ B.T @ A.T, POSITIVE),
        ((A @ B) @ (A @ B).T, POSITIVE),
        ((2 * A) @ (-3 * A).T, SYMMETRIC),
        ((A + B) @ (A + B).T, set()),  # two sums that look alike
        ((lambda total: total @ total.T)(A + B), POSITIVE),
        (S @ S, POSITIVE),
        (S @ S @ S, SYMMETRIC),
        (C @ C @ C, POSITIVE),
        (S @ C, set()),
        (A @ A, set()),
        (A @ B, set()),
        (A @ B.T, set()),
        (A @ C @ B.T, set()),
        (A + A.T, SYMMETRIC),
        (A - A.T, set()),
        (A + B.T, set()),
        (A + 2 * A.T, set()),
        (A + S + A.T, SYMMETRIC),
        (AT + AT + A, set()),
        (A + AT + AT, set()),
        (A + A + AT, set()),
        (AT + A + A, set()),
        (A + AT + A + AT, SYMMETRIC),
        (AT + AT + A + A, SYMMETRIC),
        (C + E, POSITIVE),
        (C - E, SYMMETRIC),
        (C.mean("time"), POSITIVE),
        (S.sum("time"), SYMMETRIC),
        (A.mean("time"), set()),
        (C.select(time=0), POSITIVE),
        (C.partial_trace("time"), POSITIVE),
        (S.partial_trace("time"), SYMMETRIC),
        (C.project(torch.ones(3, 2, dtype=torch.float64), "time", "mode"), POSITIVE),
        (C.project(torch.ones(3, 2, dtype=torch.float64), "time", "mode").mean("batch"), POSITIVE),
        (C.mean("time") @ S.mean("time"), set()),
    ],
    ids=lambda value: ",".join(sorted(value)) if isinstance(value, set) else repr(value),
)
def test_what_is_provable(operator, tags) -> None:
    assert operator.tags == tags
    check(operator)


def check(operator: Operator) -> None:
    """Assert that the tags are true of the dense matrix."""
    dense = operator.to_dense()
    tolerance = 1e-9 * (1 + float(dense.norm()))
    if operator.self_adjoint:
        assert float((dense - dense.T).norm()) <= tolerance
    if operator.positive:
        assert operator.self_adjoint
        assert float(torch.linalg.eigvalsh(dense).min()) >= -tolerance


TREES = {
    "seed": st.integers(0, 1000),
    "moves": st.lists(
        st.tuples(
            st.sampled_from(("@", "@*", "+", "+", "-", "T", "T", "scale")),
            st.integers(0, 20),
            st.integers(0, 20),
            st.sampled_from((-1.0, 0.0, 0.5, 2.0)),
        ),
        max_size=7,
    ),
    "reduction": st.sampled_from(("mean", "sum", "partial_trace", "select", "project")),
}


@settings(max_examples=60)
@given(**TREES)
def test_no_wrong_tag_on_random_trees(seed, moves, reduction) -> None:
    check_tree(seed, moves, reduction)


@pytest.mark.slow
@settings(max_examples=300)
@given(**TREES)
def test_no_wrong_tag_on_many_random_trees(seed, moves, reduction) -> None:
    check_tree(seed, moves, reduction)


def check_tree(seed, moves, reduction) -> None:
    pool = [*leaves(seed).values()]
    for move, i, j, scalar in moves:  # operands are shared: an object may stand in many places
        first, second = pool[-(i % len(pool)) - 1], pool[-(j % len(pool)) - 1]
        made = {
            "@": lambda a=first, b=second: a @ b,
            "@*": lambda a=first, b=second: a @ b @ a.T,
            "+": lambda a=first, b=second: a + b,
            "-": lambda a=first, b=second: a - b,
            "T": lambda a=first: a.T,
            "scale": lambda a=first, s=scalar: s * a,
        }[move]()
        assert made.T.T is made
        check(made)
        pool.append(made)
    last = pool[-1]
    W = torch.tensor([[1.0, 2.0], [0.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    check(
        {
            "mean": lambda: last.mean("time"),
            "sum": lambda: last.sum("batch"),
            "partial_trace": lambda: last.partial_trace("time"),
            "select": lambda: last.select(time=1),
            "project": lambda: last.project(W, "time", "mode"),
        }[reduction]()
    )


def test_almost_symmetric_is_not_symmetric() -> None:
    matrix = torch.eye(3, dtype=torch.float64)
    assert MatrixOperator(matrix).positive
    matrix = matrix.clone()
    matrix[0, 1] = 1e-300
    assert not MatrixOperator(matrix).tags
    assert MatrixOperator(torch.diag(torch.tensor([1.0, -1e-3], dtype=torch.float64))).tags == SYMMETRIC
    assert not MatrixOperator(torch.full((2, 2), torch.nan)).tags


def test_rectangular_operators_have_no_tags() -> None:
    wide = Space.of(wide=3)
    assert not ZeroOperator(wide, SPACE).tags
    assert not MatrixOperator(torch.ones(4, 4), SPACE, Space.of(other=4)).tags
    same = torch.ones(2, 2)
    assert not OuterProductOperator(same, same, codomain=SPACE, domain=Space.of(a=2, b=2)).tags
    assert OuterProductOperator(same, same.clone(), codomain=SPACE).tags == frozenset()
