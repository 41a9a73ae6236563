"""Operators made of another one, which they are self-adjoint and positive with."""

from __future__ import annotations

import pytest
import torch

from kpframe import MatrixOperator, Space
from kpframe.operators._tagged import TaggedAsInner
from kpframe.spectra._numerics.matvecs import ScaledOperator
from kpframe.study._remembered import Remembered

F64 = torch.float64
SPACE = Space.of(a=3, b=4)


@pytest.mark.parametrize("tags", [(True, True), (True, False), (False, False)])
def test_tags_are_those_of_the_inner_operator(tags: tuple[bool, bool]) -> None:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(12, 12, generator=generator, dtype=F64)
    matrix = {(True, True): root @ root.T, (True, False): root + root.T, (False, False): root}[tags]
    inner = MatrixOperator(matrix, SPACE, self_adjoint=tags[0], positive=tags[1])
    made = (ScaledOperator(inner), Remembered(inner), inner.partial_trace("a"), inner.block_diagonal("a"))
    for op in made:
        assert isinstance(op, TaggedAsInner)
        assert (op.self_adjoint, op.positive) == tags
        dense = op.to_dense()
        assert bool(torch.allclose(dense, dense.T)) == tags[0]
    assert made[2].domain.shape == (4,)
    assert made[3].domain.shape == (3, 4)
