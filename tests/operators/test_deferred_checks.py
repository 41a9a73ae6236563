"""Products whose finiteness is looked at together, where their block ends."""

from __future__ import annotations

import threading

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kpframe import MatrixOperator, trace
from kpframe.errors import NonFiniteError, NonFiniteProductError
from kpframe.operators import deferred_checks

F64 = torch.float64


class Reads(TorchDispatchMode):
    """How many numbers are read back from the device: the host waits for each."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_how_many_reads() -> None:
    op = 3.0 * MatrixOperator(torch.randn(4, 4, dtype=F64))
    q = torch.ones(4, dtype=F64)
    with Reads() as reads:
        op(q), op(q), op(q)
    assert reads.count == 3
    with Reads() as reads:
        found = op(q, check=False)
    assert reads.count == 0
    with Reads() as reads, deferred_checks():
        for _ in range(3):
            assert torch.equal(op(q), found)
        assert reads.count == 0
    assert reads.count == 0  # the flags of all are one tensor, copied at once


def test_the_first_product_that_is_not_finite_is_an_error_of_the_block() -> None:
    bad = MatrixOperator(torch.tensor([[1.0, 0.0], [0.0, torch.finfo(F64).max]], dtype=F64))
    small, large = torch.tensor([1.0, 1.0], dtype=F64), torch.tensor([1.0, 10.0], dtype=F64)
    kept = []
    with pytest.raises(NonFiniteProductError) as caught, deferred_checks():
        kept += [bad(small), bad(large), bad(small)]
    with pytest.raises(NonFiniteProductError) as at_once:
        bad(large)
    assert str(caught.value) == str(at_once.value)
    assert kept[1].isinf().any()
    with deferred_checks():
        kept = [bad(small)]
    q = torch.tensor([torch.nan, 1.0], dtype=F64)
    with (
        pytest.raises(NonFiniteError, match=r"argument of M: expected finite numbers, got nan"),
        deferred_checks(),
    ):
        kept = [bad(q)]


def test_products_that_are_gone_or_were_written_to() -> None:
    """The flag is of the product as it was; its place is not known any more."""
    bad = MatrixOperator(torch.tensor([[torch.finfo(F64).max]], dtype=F64))
    one, ten = torch.ones(1, dtype=F64), torch.full((1,), 10.0, dtype=F64)
    told = (
        r"product of M: expected finite numbers, got NaN or infinity in product 2 of 3 of the block; "
        r"without deferred_checks\(\) the first place is named"
    )
    with pytest.raises(NonFiniteError, match=told), deferred_checks():
        bad(one), bad(ten), bad(one)
    kept = []
    with pytest.raises(NonFiniteError, match=told), deferred_checks():
        kept += [bad(one), bad(ten).zero_(), bad(one)]
    assert torch.stack(kept).isfinite().all()
    with deferred_checks():  # what becomes infinite later is the caller's
        kept = [bad(one)]
        kept[0].fill_(torch.inf)


def test_what_is_checked_at_once_all_the_same() -> None:
    bad = MatrixOperator(torch.tensor([[torch.finfo(F64).max]], dtype=F64))
    ten = torch.full((1,), 10.0, dtype=F64)
    with deferred_checks(), pytest.raises(NonFiniteError):
        trace(bad @ bad)
    errors: list[BaseException] = []

    def elsewhere() -> None:
        try:
            bad(ten)
        except NonFiniteError as error:
            errors.append(error)

    with deferred_checks():
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert len(errors) == 1
    with deferred_checks():
        bad(ten, check=False)
    with pytest.raises(ZeroDivisionError), deferred_checks():
        1 // int(bad(ten).isfinite().sum())  # an error of the block's own goes on
    with pytest.raises(NonFiniteProductError):  # after a block, each by itself again
        bad(ten)


def test_a_block_within_a_block() -> None:
    bad = MatrixOperator(torch.tensor([[torch.finfo(F64).max]], dtype=F64))
    ten = torch.full((1,), 10.0, dtype=F64)
    with deferred_checks():
        with pytest.raises(NonFiniteError, match="product 1 of 1"), deferred_checks():
            bad(ten)
        bad(torch.ones(1, dtype=F64))
