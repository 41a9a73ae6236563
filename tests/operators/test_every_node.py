"""What every operator must satisfy, whatever it is made of."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

SEEDS = st.integers(0, 2**31 - 1)
SIZES = st.tuples(st.integers(1, 3), st.integers(2, 4), st.integers(1, 2), st.integers(1, 2))
FEW = settings(max_examples=6)


@FEW
@given(seed=SEEDS, sizes=SIZES)
@pytest.mark.rows(4)
def test_linear_and_not_affine(node, draw, states, close, differ, seed, sizes) -> None:
    d = draw(seed)
    op = node(d, states(*sizes))
    q, p = d.vector(op.domain), d.vector(op.domain)
    close(op(2.5 * q - 0.5 * p), 2.5 * op(q) - 0.5 * op(p))
    assert not op(torch.zeros_like(q)).any()
    if op(q).any():
        differ(op(2.5 * q), op(q))


@FEW
@given(seed=SEEDS, sizes=SIZES)
@pytest.mark.rows(6)
def test_adjoint_under_the_inner_product(node, draw, states, seed, sizes) -> None:
    d = draw(seed)
    op = node(d, states(*sizes))
    q, r = d.vector(op.domain), d.vector(op.codomain)
    left, right = (op(q) * r).sum(), (q * op.T(r)).sum()
    scale = float(op(q).norm() * r.norm()) + float(q.norm() * op.T(r).norm())
    assert abs(float(left - right)) <= 1e-12 * scale
    if scale:
        other = d.vector(op.codomain)
        assert abs(float(left - (q * op.T(other)).sum())) > 1e-8 * scale


@FEW
@given(seed=SEEDS, sizes=SIZES)
@pytest.mark.rows(4)
def test_probes_batched_equal_probes_looped(node, draw, states, close, seed, sizes) -> None:
    d = draw(seed)
    op = node(d, states(*sizes))
    for side in (op, op.T):
        one, two = d.vector(side.domain, 3), d.vector(side.domain, 2, 3)
        close(side(one), torch.stack([side(q) for q in one]))
        close(side(two), torch.stack([torch.stack([side(q) for q in row]) for row in two]))
        assert side(one).shape == (3, *side.codomain.shape)


@FEW
@given(seed=SEEDS, sizes=SIZES)
@pytest.mark.rows(4)
def test_dense_equals_products_with_a_basis(node, draw, states, by_basis, close, differ, seed, sizes) -> None:
    op = node(draw(seed), states(*sizes))
    dense = op.to_dense()
    close(dense, by_basis(op))
    close(op.T.to_dense(), by_basis(op).T)
    close(by_basis(op.T), dense.T)
    if dense.any():
        differ(op.T.to_dense(), -dense.T)


@FEW
@given(seed=SEEDS, sizes=SIZES)
@pytest.mark.rows(6)
def test_the_adjoint_of_the_adjoint_is_the_operator(node, draw, states, seed, sizes) -> None:
    op = node(draw(seed), states(*sizes))
    assert op.T.T is op
    adjoint = op.T
    assert adjoint.T.T is adjoint
    assert (op.T is op) == op.self_adjoint
    assert (op.T.domain, op.T.codomain) == (op.codomain, op.domain)


@FEW
@given(seed=SEEDS, sizes=SIZES)
@pytest.mark.rows(4)
def test_inputs_are_neither_changed_nor_handed_back(node, draw, states, seed, sizes) -> None:
    d = draw(seed)
    op = node(d, states(*sizes))
    for side in (op, op.T):
        for q in (d.vector(side.domain), d.vector(side.domain, 2)):
            kept = q.clone()
            out = side(q)
            assert torch.equal(q, kept)
            again = out.clone()
            q.fill_(7)
            assert torch.equal(out, again)  # the product is no view of its argument
            q.copy_(kept)
            out.fill_(9)
            assert torch.equal(q, kept)
            assert torch.equal(side(q), again)  # nor of anything the operator holds


def test_strided_arguments_give_the_same_products(node, draw, states, close) -> None:
    d = draw(0)
    op = node(d, states())
    q = d.vector(op.domain, 4)
    strided = torch.stack([q, q], dim=-1)[..., 0]
    assert strided.stride() != q.stride() or q.numel() == 0
    close(op(strided), op(q))
    close(op(q.flip(0).flip(0)), op(q))


def test_tags_hold_densely(node, draw, states, close) -> None:
    for seed in range(3):
        op = node(draw(seed), states())
        assert op.tags == {tag for tag in ("self_adjoint", "positive") if getattr(op, tag)}
        dense = op.to_dense()
        if op.self_adjoint:
            close(dense, dense.T)
        if op.positive:
            assert op.self_adjoint
            assert torch.linalg.eigvalsh(dense).min() >= -1e-10 * dense.norm()


def test_float32_stays_float32(node, draw, states, close) -> None:
    single, double = draw(3, torch.float32), draw(3)
    op, twin = node(single, states()), node(double, states())
    assert op.dtype == torch.float32
    q = double.vector(twin.domain)
    out = op(q.float())
    assert out.dtype == op.to_dense().dtype == torch.float32
    close(out.double(), twin(q), rtol=1e-5)


def test_products_carry_no_graph(node, draw, states) -> None:
    d = draw(0)
    op = node(d, states())
    assert not op(d.vector(op.domain).requires_grad_()).requires_grad
