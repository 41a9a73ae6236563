"""Dense and SciPy forms: the memory budget, dtypes, products and an eigensolver."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import eigsh, svds

from kpframe.errors import MemoryBudgetError
from kpframe.operators import IdentityOperator
from kpframe.operators._spaces import Space, parameter_space


def test_over_budget_is_refused_with_the_size(draw) -> None:
    op = draw(0).matrix(Space.of(column=5), Space.of(row=7))
    with pytest.raises(MemoryBudgetError) as caught:
        op.to_dense(max_bytes=279)
    message = str(caught.value)
    assert message.startswith(
        "to_dense of A: expected a matrix within max_bytes=279, got [7, 5] torch.float64"
    )
    assert "needs 280 bytes" in message
    assert "reduce the operator first" in message
    assert op.to_dense(max_bytes=280).shape == (7, 5)
    assert isinstance(caught.value, MemoryError)


def test_the_default_budget_stops_a_large_request_before_it_allocates() -> None:
    op = IdentityOperator(Space.of(batch=1000, time=1000, hidden=100), dtype=torch.float64)
    with pytest.raises(MemoryBudgetError, match=r"needs 80000000000000000 bytes \(7\.45e\+07 GiB\)"):
        op.to_dense()


def test_empty_sides(draw) -> None:
    op = draw(0).matrix(parameter_space({}), Space.of(row=3))
    assert op.to_dense().shape == (3, 0)
    assert op.T.to_dense().shape == (0, 3)
    assert not (op @ op.T).to_dense().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scipy_products(draw, states, dtype) -> None:
    d = draw(1, dtype)
    op = d.matrix(Space.of(parameter=5), states())
    linear, dense = op.to_scipy(), op.to_dense().numpy()
    assert linear.dtype == dense.dtype
    assert linear.shape == (12, 5)
    rng = np.random.default_rng(0)
    v, w = rng.normal(size=5).astype(dense.dtype), rng.normal(size=12).astype(dense.dtype)
    many = rng.normal(size=(5, 3)).astype(dense.dtype)
    rtol = 1e-5 if dtype == torch.float32 else 1e-12
    for out, expected in [
        (linear.matvec(v), dense @ v),
        (linear @ v, dense @ v),
        (linear.matvec(v[:, None]), dense @ v[:, None]),
        (linear.rmatvec(w), dense.T @ w),
        (linear.T @ w, dense.T @ w),
        (linear.H @ w, dense.T @ w),
        (linear.matmat(many), dense @ many),
        (linear @ many, dense @ many),
        (linear.rmatmat(dense), dense.T @ dense),
        ((linear.T @ linear) @ v, dense.T @ (dense @ v)),
    ]:
        assert out.dtype == dense.dtype
        np.testing.assert_allclose(out, expected, rtol=rtol, atol=rtol)
    assert np.abs(linear @ v - linear @ (2 * v)).max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", [np.complex64, np.complex128])
def test_scipy_products_of_complex_vectors(draw, states, dtype, kind) -> None:
    """A real operator multiplies the real and the imaginary parts apart."""
    op = draw(1, dtype).matrix(Space.of(parameter=5), states())
    linear, dense = op.to_scipy(), op.to_dense().numpy()
    assert linear.dtype == dense.dtype
    rng = np.random.default_rng(0)

    def complex_(*shape: int) -> np.ndarray:
        return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(kind)

    v, w, many, back = complex_(5), complex_(12), complex_(5, 3), complex_(12, 2)
    frozen = complex_(10)[::2]
    frozen.setflags(write=False)
    expected_kind = np.result_type(dense.dtype, np.complex64)
    for out, expected in [
        (linear @ v, dense @ v),
        (linear.matvec(v), dense @ v),
        (linear.matvec(v[:, None]), dense @ v[:, None]),
        (linear @ frozen, dense @ frozen),
        (linear.rmatvec(w), dense.T @ w),
        (linear.T @ w, dense.T @ w),
        (linear.H @ w, dense.T @ w),
        (linear.matmat(many), dense @ many),
        (linear @ many, dense @ many),
        (linear.rmatmat(back), dense.T @ back),
        ((linear.H @ linear) @ v, dense.T @ (dense @ v)),
    ]:
        assert out.dtype == expected_kind
        assert out.shape == expected.shape
        assert np.linalg.norm(out - expected) <= 3e-6 * np.linalg.norm(expected)
        assert np.linalg.norm(out - expected.real) >= 0.1 * np.linalg.norm(expected)


def test_scipy_takes_read_only_and_strided_vectors(draw) -> None:
    op = draw(1).matrix(Space.of(index=4))
    v = np.arange(8.0)[::2]
    frozen = v.copy()
    frozen.setflags(write=False)
    np.testing.assert_allclose(op.to_scipy() @ frozen, op.matrix.numpy() @ v)
    np.testing.assert_allclose(op.to_scipy() @ v, op.matrix.numpy() @ v)
    out = IdentityOperator(Space.of(index=4), dtype=torch.float64).to_scipy() @ v.copy()
    out[:] = 0
    assert v.tolist() == [0, 2, 4, 6]


def test_scipy_eigsh_and_svds(draw, states) -> None:
    d = draw(2)
    g = d.matrix(Space.of(parameter=5), states())
    kernel = g @ g.T
    values = eigsh(kernel.to_scipy(), k=3, return_eigenvectors=False)
    expected = torch.linalg.eigvalsh(kernel.to_dense())[-3:].numpy()
    np.testing.assert_allclose(np.sort(values), expected, rtol=1e-10)
    singular = svds(g.to_scipy(), k=2, return_singular_vectors=False, random_state=0)
    np.testing.assert_allclose(np.sort(singular) ** 2, expected[-2:], rtol=1e-8)
