"""What is no linear operator, or does not fit, is refused with what was expected and what came."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kpframe.errors import (
    ArgumentError,
    DeviceError,
    DtypeError,
    NotLinearError,
    ShapeError,
    SpaceMismatchError,
)
from kpframe.operators import (
    BlockOperator,
    DiagonalOperator,
    FunctionOperator,
    IdentityOperator,
    KroneckerOperator,
    MatrixOperator,
    Mean,
    OuterProductOperator,
    ZeroOperator,
    compose,
    direct_sum,
    principal_components,
)
from kpframe.operators._spaces import Space

SPACE = Space.of(time=3)
OP = MatrixOperator(torch.arange(9.0, dtype=torch.float64).reshape(3, 3), SPACE, name="A")
TENSOR = torch.ones(3, dtype=torch.float64)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        (lambda: OP + 3.0, r"^A \+ 3.0: a constant is not linear; write op \+ 3.0 \* IdentityOperator$"),
        (lambda: 3.0 + OP, r"a constant is not linear"),
        (lambda: OP - 3.0, r"^A - 3.0: a constant is not linear"),
        (lambda: 3.0 - OP, r"a constant is not linear; write 3.0 \* IdentityOperator - op"),
        (lambda: OP * OP, r"^A \* A: an elementwise product is no composition; write A @ B$"),
        (lambda: OP @ TENSOR, r"^A @ Tensor \[3\]: .* apply one to a tensor with op\(q\)$"),
        (lambda: TENSOR @ OP, r"apply one to a tensor with op\(q\)"),
        (lambda: TENSOR + OP, r"a constant is not linear"),
        (lambda: OP + TENSOR, r"^A \+ Tensor \[3\]: a constant is not linear"),
        (lambda: OP * np.ones(3), r"only a real number"),
        (lambda: np.ones(3) * OP, r"only a real number"),
        (lambda: np.ones(3) @ OP, r"apply one to a tensor"),
        (lambda: OP * 1j, r"^A \* 1j: only a real number"),
        (lambda: OP * torch.tensor(1j), r"only a real number"),
        (lambda: OP * True, r"^A \* True: only a real number"),
        (lambda: OP * "2", r"only a real number"),
        (lambda: OP / OP, r"^A / A: only a real number divides"),
        (lambda: OP**0.5, r"^A \*\* 0.5: the exponent is a whole number >= 0$"),
        (lambda: OP**True, r"the exponent is a whole number"),
        (lambda: OP @ 2, r"^A @ 2: compose operators with @"),
        (lambda: sum([OP, OP]), r"a constant is not linear"),
    ],
)
def test_not_linear(expression, message) -> None:
    with pytest.raises(NotLinearError, match=message) as caught:
        expression()
    assert isinstance(caught.value, TypeError)


def test_numbers_that_scale_nothing() -> None:
    with pytest.raises(ZeroDivisionError, match="A / 0"):
        OP / 0
    for value in (float("nan"), float("inf"), np.float64("nan")):
        with pytest.raises(ArgumentError, match=r"scalar: expected a finite number, got (nan|inf)"):
            value * OP
    with pytest.raises(ArgumentError, match="exponent: expected a whole number >= 0, got -1"):
        OP**-1


def test_spaces_that_do_not_fit() -> None:
    wide = MatrixOperator(torch.ones(3, 5, dtype=torch.float64), Space.of(parameter=5), SPACE, name="J")
    with pytest.raises(SpaceMismatchError) as caught:
        wide @ OP
    assert str(caught.value) == ("J @ A: the domain of J is (parameter=5), the codomain of A is (time=3)")
    with pytest.raises(
        SpaceMismatchError, match=r"J \+ A: they map \(parameter=5\) to \(time=3\) and \(time=3\)"
    ):
        wide + OP
    with pytest.raises(SpaceMismatchError, match=r"J \*\* 2: a power needs a square operator"):
        wide**2
    renamed = MatrixOperator(OP.matrix, Space.of(lag=3), name="B")
    with pytest.raises(SpaceMismatchError, match=r"\(time=3\), the codomain of B is \(lag=3\)"):
        OP @ renamed
    assert (OP @ wide).domain == wide.domain


def test_spaces_that_differ_in_their_parts_alone_say_so(states) -> None:
    one, two = states(2, 3, 1, 1), Space.of(batch=2, time=3, hidden=2)
    first, second = (IdentityOperator(space, dtype=torch.float64) for space in (one, two))
    with pytest.raises(SpaceMismatchError) as caught:
        first @ second
    left, right = str(caught.value).split("the domain of ")[1].split(", the codomain of ")
    assert left.removeprefix("I is ") != right.removeprefix("I is ")


def test_dtypes_and_devices_that_do_not_fit() -> None:
    single = MatrixOperator(torch.ones(3, 3), SPACE, name="B")
    for expression in (lambda: OP @ single, lambda: OP + single):
        with pytest.raises(DtypeError, match=r"A [@+] B: dtypes torch.float64 and torch.float32; nothing is"):
            expression()
    elsewhere = ZeroOperator(SPACE, dtype=torch.float64, device="meta")
    for expression in (lambda: OP @ elsewhere, lambda: OP + elsewhere):
        with pytest.raises(DeviceError, match="devices cpu and meta; nothing is moved"):
            expression()
    for dtype in (torch.float16, torch.int64, torch.complex128):
        with pytest.raises(DtypeError, match=r"dtype: expected torch.float32 or torch.float64, got torch"):
            MatrixOperator(torch.ones(2, 2, dtype=dtype))


@pytest.mark.parametrize("side", [OP, OP.T, OP @ OP, OP.mean("time").T, OP + OP.T])
def test_arguments_that_do_not_fit(side) -> None:
    with pytest.raises(
        ShapeError, match=r"argument of .*: expected shape \[\.\.\., .*\], got shape \[2, 4\]"
    ):
        side(torch.ones(2, 4, dtype=torch.float64)) if side.domain.axes else OP(torch.ones(2, 4))
    with pytest.raises(DtypeError, match=r"argument of .*: expected dtype torch.float64, got torch.float32"):
        side(torch.ones(side.domain.shape))
    with pytest.raises(DeviceError, match="expected device cpu, got meta"):
        side(torch.ones(side.domain.shape, dtype=torch.float64, device="meta"))
    with pytest.raises(ShapeError, match=r"expected a torch.Tensor, got list"):
        side([1.0, 2.0, 3.0])


def test_values_that_do_not_fit_their_space() -> None:
    with pytest.raises(ShapeError, match=r"matrix: expected two dimensions, got shape \[3\]"):
        MatrixOperator(torch.ones(3))
    with pytest.raises(ShapeError, match=r"matrix: expected shape \[3, 3\], got shape \[2, 3\]"):
        MatrixOperator(torch.ones(2, 3), SPACE, SPACE)
    with pytest.raises(ShapeError, match=r"values: expected shape \[time=3\], got shape \[4\]"):
        DiagonalOperator(torch.ones(4), SPACE)
    with pytest.raises(ShapeError, match=r"u: expected shape \[\.\.\., time=3\], got shape \[4\]"):
        OuterProductOperator(torch.ones(4), codomain=SPACE)
    with pytest.raises(DtypeError, match=r"v: expected dtype torch.float32, got torch.float64"):
        OuterProductOperator(torch.ones(3), TENSOR, codomain=SPACE)


def test_a_function_that_returns_something_else_is_named() -> None:
    short = FunctionOperator(SPACE, SPACE, lambda q: q[..., :2], lambda r: r.float(), dtype=torch.float64)
    with pytest.raises(ShapeError, match=r"product of F: expected shape \[\.\.\., time=3\], got shape \[2\]"):
        short(TENSOR)
    with pytest.raises(DtypeError, match=r"product of F\*: expected dtype torch.float64, got torch.float32"):
        short.T(TENSOR)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: compose(OP, 3), r"^argument of compose: expected an operator, got 3 \(int\)$"),
        (
            lambda: KroneckerOperator(OP, TENSOR),
            r"^second: expected an operator, got .*; MatrixOperator\(m",
        ),
        (lambda: KroneckerOperator("A", OP), r"^first: expected an operator, got 'A' \(str\)$"),
        (lambda: direct_sum(OP, 3), r"^block: expected an operator, got 3 \(int\)$"),
        (lambda: BlockOperator(OP), r"^rows: expected rows of operators, \[\[A, B\], \[C, D\]\], got A"),
        (lambda: BlockOperator([OP, OP]), r"^rows: expected rows of operators"),
        (lambda: IdentityOperator.like(SPACE), r"^operator: expected an operator, got .*\(Space\)$"),
        (lambda: Mean("time")(TENSOR), r"^argument of Mean: expected an operator, got "),
        (lambda: principal_components([1.0], 1), r"^states: expected a torch.Tensor, got list$"),
        (lambda: OP.to_dense("1 GB"), r"^max_bytes: expected a number of bytes, got '1 GB' \(str\)$"),
        (lambda: OP.cached(float("nan")), r"^max_bytes: expected a number of bytes, got nan"),
    ],
)
def test_what_is_no_operator_or_no_number_of_bytes(make, message) -> None:
    with pytest.raises((ArgumentError, ShapeError), match=message):
        make()


def test_an_unlimited_number_of_bytes_is_one() -> None:
    assert torch.equal(OP.to_dense(float("inf")), OP.matrix)
    assert BlockOperator([[OP, None], [None, OP]]).to_dense().shape == (6, 6)
