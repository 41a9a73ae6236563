"""Reducers are the reductions of an operator as objects."""

from __future__ import annotations

import pytest
import torch

from kpframe.errors import AxisError
from kpframe.reducer import Mean, PartialTrace, Project, Reducer, Select, Sum

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
