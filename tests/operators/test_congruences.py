"""Congruences over named axes against einsum on the dense array, and what tells them apart."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kpframe.errors import ArgumentError, AxisError, DtypeError, ShapeError
from kpframe.operators import MatrixOperator
from kpframe.operators._spaces import Space

SEEDS = st.integers(0, 2**31 - 1)
SIZES = st.tuples(st.integers(1, 3), st.integers(2, 4), st.integers(1, 2), st.integers(1, 2))
LETTER = {"batch": "b", "time": "t", "hidden": "h"}
AXES = st.lists(st.sampled_from(sorted(LETTER)), min_size=1, max_size=3, unique=True)


def array(op: MatrixOperator) -> torch.Tensor:
    """Return the matrix with one dimension for each axis: codomain's, then domain's."""
    return op.matrix.reshape(*op.codomain.shape, *op.domain.shape)


def contracted(op: MatrixOperator, axes: list[str]) -> torch.Tensor:
    """Return the dense operator summed over both copies of the axes."""
    keep = "".join(letter for axis, letter in LETTER.items() if axis not in axes)
    out = torch.einsum(f"bthBTH->{keep}{keep.upper()}", array(op))
    size = op.domain.without(*axes).size
    return out.reshape(size, size)


@settings(max_examples=30)
@given(seed=SEEDS, sizes=SIZES, axes=AXES)
def test_sum_and_mean(draw, states, close, differ, seed, sizes, axes) -> None:
    op = draw(seed).matrix(states(*sizes))
    count = torch.tensor([op.domain[axis].size for axis in axes]).prod().item()
    close(op.sum(*axes).to_dense(), contracted(op, axes))
    close(op.mean(*axes).to_dense(), contracted(op, axes) / count**2)
    if count > 1:
        differ(op.mean(*axes).to_dense(), op.sum(*axes).to_dense())


@settings(max_examples=30)
@given(seed=SEEDS, sizes=SIZES, axes=AXES)
def test_mean_of_mean_is_the_joint_mean(draw, states, close, seed, sizes, axes) -> None:
    op = draw(seed).matrix(states(*sizes))
    one_by_one = op
    for axis in reversed(axes):
        one_by_one = one_by_one.mean(axis)
    close(one_by_one.to_dense(), op.mean(*axes).to_dense())
    assert one_by_one.domain == op.domain.without(*axes)


def test_mean_sum_and_trace_are_three_things() -> None:
    space = Space.of(time=2)
    op = MatrixOperator(torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64), space)
    assert op.sum("time").to_dense().item() == 10
    assert op.mean("time").to_dense().item() == 2.5
    assert op.partial_trace("time").to_dense().item() == 5
    one = torch.tensor(1.0, dtype=torch.float64)
    assert (op.sum("time")(one), op.partial_trace("time")(one)) == (10, 5)


@settings(max_examples=30)
@given(seed=SEEDS, sizes=SIZES, data=st.data())
def test_select_takes_rows_and_columns(draw, states, close, differ, seed, sizes, data) -> None:
    op = draw(seed).matrix(states(*sizes))
    time = op.domain["time"].size
    kept = data.draw(st.lists(st.integers(0, time - 1), min_size=1, unique=True))
    full = array(op)
    expected = full[:, kept][:, :, :, :, kept]
    size = op.domain.size // time * len(kept)
    close(op.select(time=kept).to_dense(), expected.reshape(size, size))
    mask = torch.zeros(time, dtype=torch.bool)
    mask[kept] = True
    close(op.select(time=mask).to_dense(), op.select(time=sorted(kept)).to_dense())
    one = kept[0]
    close(op.select(time=one).to_dense(), full[:, one, :, :, one].reshape(size // len(kept), -1))
    close(op.select(time=one - time).to_dense(), op.select(time=one).to_dense())
    other = (one + 1) % time
    differ(op.select(time=one).to_dense(), op.select(time=other).to_dense())


@pytest.mark.parametrize(
    "index", [[0, 2], (0, 2), slice(0, None, 2), torch.tensor([0, 2]), torch.tensor([True, False, True])]
)
def test_every_way_to_select_two_times(draw, states, close, index) -> None:
    op = draw(4).matrix(states())
    selected = op.select(time=index)
    assert selected.domain["time"].size == 2
    close(selected.to_dense(), op.select(time=[-3, 2]).to_dense())


def test_select_keeps_the_order_that_was_asked_for(draw, states, differ) -> None:
    op = draw(4).matrix(states())
    differ(op.select(time=[0, 2]).to_dense(), op.select(time=[2, 0]).to_dense())


def test_select_a_part_and_several_axes(draw, states, close) -> None:
    op = draw(2).matrix(states(2, 3, h=2, c=1))
    full = array(op)
    close(op.select(hidden="c").to_dense(), full[..., 2:, :, :, 2:].reshape(6, 6))
    assert [part.name for part in op.select(hidden="c").domain["hidden"].parts] == ["c"]
    both = op.select(time=1, hidden="h")
    close(both.to_dense(), full[:, 1, :2, :, 1, :2].reshape(4, 4))
    assert both.domain.names == ("batch", "hidden")


@settings(max_examples=20)
@given(seed=SEEDS, sizes=SIZES, k=st.integers(1, 4), axis=st.sampled_from(sorted(LETTER)))
def test_project_is_a_congruence(draw, states, close, differ, seed, sizes, k, axis) -> None:
    d = draw(seed)
    op = d.matrix(states(*sizes))
    W = d.tensor(k, op.domain[axis].size)
    a = LETTER[axis]
    new = "bth".replace(a, "k")
    einsum = f"k{a},bthBTH,K{a.upper()}->{new}{new.upper()}"
    size = op.domain.size // op.domain[axis].size * k
    projected = op.project(W, axis, "mode")
    close(projected.to_dense(), torch.einsum(einsum, W, array(op), W).reshape(size, size))
    assert projected.domain.names[op.domain.position(axis)] == "mode"
    differ(projected.to_dense(), op.project(2 * W, axis, "mode").to_dense())


def test_project_on_unit_directions_is_select(draw, states, close) -> None:
    op = draw(2).matrix(states())
    unit = torch.eye(3, dtype=torch.float64)[[2, 0]]
    close(op.project(unit, "time", "time").to_dense(), op.select(time=[2, 0]).to_dense())


def test_each_side_is_reduced_if_it_has_the_axis(draw, states, close) -> None:
    d = draw(7)
    space, wide = states(2, 3, 1, 1), Space.of(parameter=5)
    jacobian = d.matrix(wide, space)
    full = jacobian.matrix.reshape(2, 3, 2, 5)
    close(jacobian.mean("time").to_dense(), full.mean(1).reshape(4, 5))
    close(jacobian.T.mean("time").to_dense(), full.mean(1).reshape(4, 5).T)
    close(jacobian.sum("time", "parameter").to_dense(), full.sum((1, 3)).reshape(4, 1))
    close(jacobian.select(time=-1, parameter=[0, 4]).to_dense(), full[:, -1, :, [0, 4]].reshape(4, 2))
    W = d.tensor(3, 2)
    close(jacobian.project(W).to_dense(), torch.einsum("kh,bthp->btkp", W, full).reshape(18, 5))


def test_sides_of_unlike_sizes_are_each_averaged(draw, close) -> None:
    d = draw(8)
    test, train = Space.of(batch=2, time=3), Space.of(batch=4, time=5)
    op = d.matrix(train, test)
    full = op.matrix.reshape(2, 3, 4, 5)
    close(op.mean("time").to_dense(), full.mean((1, 3)))
    close(op.sum("batch").to_dense(), full.sum((0, 2)))
    close(op.select(time=-1).to_dense(), full[:, -1, :, -1])


def test_reductions_of_integer_and_unknown_axes_are_refused(draw, states) -> None:
    op = draw(0).matrix(states())
    for reduce in (op.mean, op.sum, op.partial_trace):
        with pytest.raises(AxisError, match=r"expected a name, one of batch, time, hidden, got 1 \(int\)"):
            reduce(1)
        with pytest.raises(AxisError, match="got 'tme'; did you mean 'time'"):
            reduce("tme")
        with pytest.raises(AxisError, match="expected at least one of batch, time, hidden, got none"):
            reduce()
        with pytest.raises(AxisError, match="'time' is named 2 times"):
            reduce("time", "time")
    with pytest.raises(AxisError, match="did you mean 'time'"):
        op.select(times=0)
    with pytest.raises(AxisError, match="expected at least one of"):
        op.select()
    with pytest.raises(AxisError, match="did you mean 'hidden'"):
        op.project(torch.ones(1, 2, dtype=torch.float64), "hiden")


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (3, r"select\(time=...\): expected an index in \[-3, 2\], got 3"),
        (-4, r"expected an index in \[-3, 2\], got -4"),
        ([0, 5], r"expected an index in \[-3, 2\], got 5"),
        ([0, -3], "expected distinct entries"),
        ([], "expected at least one entry, got none"),
        (slice(2, 1), "expected at least one entry, got none"),
        (torch.zeros(3, dtype=torch.bool), "expected at least one entry, got none"),
        (torch.ones(2, dtype=torch.bool), r"expected a mask of shape \[3\], got \[2\]"),
        (1.5, r"expected an integer, a slice, .*, got 1.5 \(float\)"),
        (None, r"got None \(NoneType\)"),
        (True, r"got True \(bool\)"),
        ([0.5, 1.7], r"expected .*integers.*, got 0.5 \(float\)"),
        ([True, False], r"expected .*, got True \(bool\)"),
        (torch.tensor([0.5, 1.0]), r"expected .*integers.*, got 0.5 \(float\)"),
        ("h", r"axis 'time' has no part 'h' \(it has no named parts\)"),
    ],
)
def test_select_refuses(draw, states, index, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        draw(0).matrix(states()).select(time=index)


def test_a_tensor_without_dimensions_selects_one_entry(draw, states, close) -> None:
    op = draw(0).matrix(states())
    close(op.select(time=torch.tensor(2)).to_dense(), op.select(time=2).to_dense())


def test_project_refuses_what_does_not_fit(draw, states) -> None:
    op = draw(0).matrix(states())
    with pytest.raises(ShapeError, match=r"directions: expected shape \[k, hidden=2\], got \[1, 3\]"):
        op.project(torch.ones(1, 3, dtype=torch.float64))
    with pytest.raises(ShapeError, match=r"expected shape \[k, hidden=2\], got \[2\]"):
        op.project(torch.ones(2, dtype=torch.float64))
    with pytest.raises(AxisError, match="name: 'time' is already an axis"):
        op.project(torch.ones(1, 2, dtype=torch.float64), "hidden", "time")
    with pytest.raises(DtypeError, match=r"dtypes torch.float64 and torch.float32; nothing is cast"):
        op.project(torch.ones(1, 2))
