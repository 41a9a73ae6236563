"""Reducers are the reductions of an operator as objects."""

from __future__ import annotations

import pytest
import torch

from kpframe import create_reducer
from kpframe.errors import ArgumentError, AxisError, SettingsError, UnknownNameError
from kpframe.operators import (
    Bin,
    BlockDiagonal,
    LastValid,
    Mean,
    PartialTrace,
    Project,
    Reducer,
    Select,
    Sum,
    principal_components,
)

W = torch.tensor([[1.0, -2.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("reducer", "method"),
    [
        (Mean("time"), lambda op: op.mean("time")),
        (Mean("time", "batch"), lambda op: op.mean("time", "batch")),
        (Sum("batch"), lambda op: op.sum("batch")),
        (Select(time=[0, 2], hidden="c"), lambda op: op.select(time=[0, 2], hidden="c")),
        (Project(W), lambda op: op.project(W)),
        (Project(W, "hidden", "mode"), lambda op: op.project(W, "hidden", "mode")),
        (PartialTrace("time", "hidden"), lambda op: op.partial_trace("time", "hidden")),
        (BlockDiagonal("time"), lambda op: op.block_diagonal("time")),
        (Bin(time=2), lambda op: op.bin(time=2)),
    ],
)
def test_a_reducer_is_the_method(draw, states, close, reducer, method) -> None:
    op = draw(1).matrix(states())
    reduced, expected = reducer(op), method(op)
    assert isinstance(reducer, Reducer)
    close(reduced.to_dense(), expected.to_dense())
    assert (reduced.domain, reduced.codomain) == (expected.domain, expected.codomain)
    assert repr(reduced) == repr(expected)


def test_reducers_differ(draw, states, differ) -> None:
    op = draw(1).matrix(states())
    forms = [Mean("time"), Sum("time"), PartialTrace("time"), Select(time=0)]
    for place, one in enumerate(forms):
        for other in forms[place + 1 :]:
            differ(one(op).to_dense(), other(op).to_dense())


def test_a_reducer_reads_its_axes_when_it_is_used(draw, states) -> None:
    reducer = Mean("tme")
    with pytest.raises(AxisError, match="did you mean 'time'"):
        reducer(draw(0).matrix(states()))
    with pytest.raises(TypeError, match="abstract"):
        Reducer()


def test_reducers_by_name(draw, states, close) -> None:
    op = draw(1).matrix(states())
    close(create_reducer("mean", axes=["time"])(op).to_dense(), op.mean("time").to_dense())
    close(create_reducer("select", time=-1)(op).to_dense(), op.select(time=-1).to_dense())
    close(create_reducer("project", directions=W)(op).to_dense(), op.project(W).to_dense())
    mask = torch.ones(op.domain.shape[:2], dtype=torch.bool)
    close(create_reducer("last_valid", mask=mask)(op).to_dense(), LastValid(mask)(op).to_dense())
    close(LastValid(mask)(op).to_dense(), op.select(time=-1).to_dense())
    with pytest.raises(SettingsError, match=r"reducer .mean.*axis"):
        create_reducer("mean", axis=["time"])
    with pytest.raises(UnknownNameError, match="'maen'"):
        create_reducer("maen", axes=["time"])


def test_principal_components(close, differ) -> None:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(20, 5, 3, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 5.0, 2.0])
    directions = principal_components(states, 2)
    rows = states.reshape(-1, 3)
    _, vectors = torch.linalg.eigh(torch.cov(rows.T))
    close((directions @ vectors).abs()[:, [2, 1]], torch.eye(2, dtype=torch.float64))
    assert (directions.gather(1, directions.abs().argmax(1, keepdim=True)) > 0).all()
    differ(principal_components(states + torch.randn_like(states), 2), directions)
    with pytest.raises(ArgumentError, match=r"k: expected a whole number in \[1, 3\], got 4"):
        principal_components(states, 4)
