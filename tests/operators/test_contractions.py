"""The partial trace against einsum on the dense array."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kpframe.errors import SpaceMismatchError
from kpframe.operators import ZeroOperator
from kpframe.operators import _memory as chunks
from kpframe.operators._spaces import Space, parameter_space

LETTER = {"batch": "b", "time": "t", "hidden": "h"}


def traced(op, axes) -> torch.Tensor:
    full = op.matrix.reshape(*op.codomain.shape, *op.domain.shape)
    columns = "".join(letter if axis in axes else letter.upper() for axis, letter in LETTER.items())
    keep = "".join(letter for axis, letter in LETTER.items() if axis not in axes)
    size = op.domain.without(*axes).size
    return torch.einsum(f"bth{columns}->{keep}{keep.upper()}", full).reshape(size, size)


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**31 - 1),
    sizes=st.tuples(st.integers(1, 3), st.integers(2, 4), st.integers(1, 2), st.integers(1, 2)),
    axes=st.lists(st.sampled_from(sorted(LETTER)), min_size=1, max_size=3, unique=True),
)
def test_partial_trace(draw, states, close, differ, seed, sizes, axes) -> None:
    op = draw(seed).matrix(states(*sizes))
    partial = op.partial_trace(*axes)
    close(partial.to_dense(), traced(op, axes))
    assert partial.domain == op.domain.without(*axes)
    total, rest = op.matrix.trace(), partial.to_dense().trace()
    assert abs(float(total - rest)) <= 1e-10 * float(op.matrix.norm())
    if "time" in axes:
        differ(partial.to_dense(), op.sum(*axes).to_dense())


def test_in_chunks_it_is_the_same(draw, states, close, monkeypatch) -> None:
    op = draw(3).matrix(states(3, 4))
    whole = op.partial_trace("batch", "time").to_dense()
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 5 * 2 * op.domain.size * 8)
    monkeypatch.setattr(chunks, "STEP_BYTES", 0)
    close(op.partial_trace("batch", "time").to_dense(), whole)
    close(op.to_dense(), op.matrix)


def test_rectangular_off_the_traced_axis(draw, close) -> None:
    op = draw(5).matrix(Space.of(batch=3, parameter=4), Space.of(time=2, batch=3))
    full = op.matrix.reshape(2, 3, 3, 4)
    close(op.partial_trace("batch").to_dense(), torch.einsum("tbbp->tp", full))


def test_an_axis_without_entries_traces_to_zero(draw) -> None:
    nothing = ZeroOperator(parameter_space({}), dtype=torch.float64)
    partial = nothing.partial_trace("parameter")
    assert partial(torch.ones((), dtype=torch.float64)) == 0
    assert partial.to_dense().tolist() == [[0.0]]


def test_a_trace_needs_the_axis_on_both_sides(draw) -> None:
    op = draw(0).matrix(Space.of(parameter=4), Space.of(time=2))
    with pytest.raises(SpaceMismatchError, match=r"^A: a trace over 'time' needs the axis on both sides$"):
        op.partial_trace("time")
    op = draw(0).matrix(Space.of(time=4), Space.of(time=2))
    with pytest.raises(SpaceMismatchError, match="needs one size on both sides, got 4 and 2"):
        op.partial_trace("time")
