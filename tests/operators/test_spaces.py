"""Named axes: order, parts, lookups that say what they expected, and checks of tensors."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kpframe.errors import ArgumentError, AxisError, DtypeError, KpframeError, ShapeError
from kpframe.operators import IdentityOperator
from kpframe.operators._shards import Shards
from kpframe.operators._spaces import Axis, Part, Space, check_axes, parameter_space, state_space

SPACE = Space.of(batch=2, time=5, hidden=3)
SIZES = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 5), min_size=1, max_size=4)


@given(SIZES)
def test_space_keeps_order_and_sizes(sizes) -> None:
    space = Space.of(**sizes)
    assert space.names == tuple(sizes)
    assert space.shape == tuple(sizes.values())
    assert space.size == math.prod(sizes.values())
    for place, name in enumerate(sizes):
        assert space.position(name) == place
        assert space.dim(name) == place - len(sizes)
        assert space[name] == Axis(name, sizes[name])
        assert name in space
    assert str(space) == ", ".join(f"{name}={size}" for name, size in sizes.items())


@given(SIZES, st.data())
def test_without_drops_the_named_axes_only(sizes, data) -> None:
    dropped = data.draw(st.sets(st.sampled_from(sorted(sizes))))
    left = Space.of(**sizes).without(*dropped)
    assert left == Space.of(**{name: size for name, size in sizes.items() if name not in dropped})


@pytest.mark.parametrize(("counts", "text"), [((3,), "3 of 3 on 1 rank"), ((2, 1), "2 of 3 on 2 ranks")])
def test_an_axis_says_on_how_many_ranks_it_is(counts: tuple[int, ...], text: str) -> None:
    axis = Axis("batch", counts[0], shards=Shards(object(), 0, counts))
    assert str(axis) == f"batch={text}"


def test_spaces_are_equal_by_axes_order_and_parts() -> None:
    assert Space.of(a=2, b=3) == Space.of(a=2, b=3)
    assert Space.of(a=2, b=3) != Space.of(b=3, a=2)
    assert Space.of(a=2) != Space.of(a=3)
    assert state_space(1, 1, {"h": 2}) != state_space(1, 1, {"c": 2})
    assert hash(Space.of(a=2, b=3)) == hash(Space.of(a=2, b=3))


def test_dim_counts_from_the_end_so_that_probes_do_not_shift_it() -> None:
    probes = torch.zeros(7, 4, *SPACE.shape)
    assert [probes.shape[SPACE.dim(name)] for name in SPACE.names] == list(SPACE.shape)


def test_replace_puts_an_axis_in_place() -> None:
    assert SPACE.replace("time", Axis("lag", 4)) == Space.of(batch=2, lag=4, hidden=3)
    with pytest.raises(AxisError, match="'hidden' appears 2 times"):
        SPACE.replace("time", Axis("hidden", 4))


def test_an_axis_appears_once() -> None:
    with pytest.raises(AxisError, match="axis 'a' appears 2 times in one space"):
        Space((Axis("a", 1), Axis("a", 2)))


@pytest.mark.parametrize("axis", [0, -1, True, 1.0, None])
def test_an_axis_that_is_no_name_is_refused(axis) -> None:
    with pytest.raises(AxisError, match=r"expected a name, one of batch, time, hidden, got .*always named"):
        SPACE.position(axis)
    with pytest.raises(AxisError, match=type(axis).__name__):
        SPACE[axis]
    with pytest.raises(AxisError, match="always named"):
        check_axes((axis,), SPACE)


@pytest.mark.parametrize(("typo", "meant"), [("tim", "time"), ("hiden", "hidden"), ("bach", "batch")])
def test_an_unknown_axis_names_the_closest(typo, meant) -> None:
    with pytest.raises(AxisError, match=rf"got '{typo}'; did you mean '{meant}'\?"):
        SPACE.dim(typo)
    with pytest.raises(AxisError, match=r"expected one of batch, time, hidden, got 'zzz'$"):
        SPACE.without("zzz")
    with pytest.raises(AxisError, match=r"expected one of \(no axes\)"):
        Space(()).position("time")


def test_check_axes() -> None:
    wide = Space.of(parameter=4)
    assert check_axes(["time", "parameter"], SPACE, wide) == ("time", "parameter")
    with pytest.raises(AxisError, match="expected at least one of batch, time, hidden, got none"):
        check_axes([], SPACE)
    with pytest.raises(AxisError, match="'time' is named 2 times"):
        check_axes(["time", "time"], SPACE)
    with pytest.raises(AxisError, match="did you mean 'time'"):
        check_axes(["tine"], SPACE, wide)


@given(st.lists(st.lists(st.integers(1, 4), max_size=3), min_size=1, max_size=4))
def test_parts_tile_their_axis(shapes) -> None:
    axis = Axis.of_parts("p", {f"w{i}": tuple(shape) for i, shape in enumerate(shapes)})
    entries = torch.arange(axis.size)
    tiles = [entries[axis.part(f"w{i}").slice] for i in range(len(shapes))]
    assert torch.equal(torch.cat(tiles), entries)
    for part, shape in zip(axis.parts, shapes, strict=True):
        assert part.size == math.prod(shape)
        assert part.shape == tuple(shape)


def test_part_lookup_says_what_there_is() -> None:
    hidden = state_space(2, 3, {"cell": 4, "gate": 4})["hidden"]
    assert hidden.part("gate") == Part("gate", 4, (4,))
    assert hidden.part("gate").slice == slice(4, 8)
    with pytest.raises(
        AxisError, match=r"axis 'hidden' has no part 'gat' \(it has cell, gate\); did you mean"
    ):
        hidden.part("gat")
    with pytest.raises(AxisError, match=r"has no part 'h' \(it has no named parts\)$"):
        SPACE["hidden"].part("h")


def test_the_two_usual_spaces() -> None:
    state = state_space(2, 5, {"h": 3, "c": 4})
    assert (state.names, state.shape) == (("batch", "time", "hidden"), (2, 5, 7))
    parameters = parameter_space({"weight": (3, 2), "bias": (3,), "scale": ()})
    assert (parameters.names, parameters.shape) == (("parameter",), (10,))
    assert parameters["parameter"].part("scale").slice == slice(9, 10)
    assert parameter_space({}).size == 0


@given(st.lists(st.integers(0, 3), max_size=3))
def test_check_lets_any_leading_probes_through(probes) -> None:
    SPACE.check(torch.zeros(*probes, 2, 5, 3), "q", dtype=torch.float32, device=torch.device("cpu"))


@pytest.mark.parametrize("shape", [(), (3,), (5, 3), (2, 3, 5), (2, 5, 4), (2, 5, 3, 1)])
def test_check_states_expected_and_got_shape(shape) -> None:
    with pytest.raises(ShapeError) as caught:
        SPACE.check(torch.zeros(shape), "q")
    expected = f"q: expected shape [..., batch=2, time=5, hidden=3], got shape {list(shape)}"
    assert str(caught.value) == expected
    assert isinstance(caught.value, ValueError | KpframeError)


def test_check_refuses_other_types_dtypes_and_devices() -> None:
    with pytest.raises(ShapeError, match=r"q: expected a torch.Tensor, got list"):
        SPACE.check([[0.0]], "q")
    with pytest.raises(DtypeError, match=r"q: expected dtype torch.float64, got torch.float32 \(nothing is"):
        SPACE.check(torch.zeros(2, 5, 3), "q", dtype=torch.float64)
    with pytest.raises(ArgumentError, match=r"q: expected device cpu, got meta \(nothing is moved\)"):
        SPACE.check(torch.zeros(2, 5, 3, device="meta"), "q", device=torch.device("cpu"))


@pytest.mark.parametrize("size", [-1, 2.5, True, "3"])
def test_a_size_is_a_whole_number(size) -> None:
    with pytest.raises(AxisError, match=r"size of axis 'time': expected a whole number >= 0, got"):
        Space.of(time=size)
    assert Space.of(time=0).size == 0


def test_the_name_of_an_axis_is_a_string() -> None:
    with pytest.raises(AxisError, match=r"^name of an axis: expected a string, got 3 \(int\)$"):
        Axis(3, 2)
    op = IdentityOperator(SPACE)
    with pytest.raises(AxisError, match=r"^name of an axis: expected a string, got None"):
        op.project(torch.ones(1, 3), "hidden", None)
    assert op.project(torch.ones(1, 3), "hidden", "3").domain.names == ("batch", "time", "3")
