"""Probes go together in chunks: by themselves where there are many, or as asked for."""

from __future__ import annotations

import pytest
import torch

from kpframe import MatrixOperator, Space
from kpframe.errors import ArgumentError, MemoryBudgetError
from kpframe.operators import _memory as chunks

SPACE = Space.of(batch=2, time=3)


@pytest.fixture
def counted(monkeypatch):
    """An operator, and the numbers of probes that reached it."""
    op = MatrixOperator(torch.arange(36, dtype=torch.float64).reshape(6, 6), SPACE)
    seen: list[int] = []
    apply = op._apply

    def watch(q: torch.Tensor) -> torch.Tensor:
        seen.append(q.numel() // 6)
        return apply(q)

    monkeypatch.setattr(op, "_apply", watch)
    return op, seen


def test_chunks_give_the_same(counted) -> None:
    op, seen = counted
    q = torch.randn(2, 5, 2, 3, dtype=torch.float64)
    whole = op(q)
    assert seen == [10]
    assert torch.equal(op(q, chunk=4), whole)
    assert seen == [10, 4, 4, 2]
    assert op(q[0, 0], chunk=1).shape == (2, 3)
    assert not torch.equal(op(2 * q, chunk=4), whole)


def test_many_probes_are_cut_by_themselves(counted, monkeypatch) -> None:
    op, seen = counted
    monkeypatch.setattr(chunks, "CHUNK_LIMIT", 3 * 12 * 8 * 7)  # seven probes
    monkeypatch.setattr(chunks, "STEP_BYTES", 0)
    q = torch.randn(20, 2, 3, dtype=torch.float64)
    found = op(q)
    assert seen == [7, 7, 6]
    assert torch.equal(found, op(q, chunk=20))
    op(q[:8])
    assert seen == [7, 7, 6, 20, 4, 4]  # even shares


def test_short_steps_are_filled(counted, monkeypatch) -> None:
    op, _ = counted  # 2 trials of 3 steps: 16 bytes a step
    monkeypatch.setattr(chunks, "CHUNK_LIMIT", 1)
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1)
    monkeypatch.setattr(chunks, "STEP_BYTES", 16 * 5)
    assert chunks.even_share(op, 100) == 5
    assert chunks.chunk_size(op, 100) == 5
    assert chunks.chunk_size(op, 3) == 3
    monkeypatch.setattr(chunks, "CEILING", 12 * 8 * 2)  # two vectors and their products
    assert chunks.chunk_size(op, 100) == 2
    assert chunks.even_share(op, 100) == 1  # more ride on each there
    no_steps = MatrixOperator(op.matrix)
    monkeypatch.setattr(chunks, "CEILING", 2**30)
    assert chunks.even_share(no_steps, 100) == 1


def test_what_is_made_of_a_larger_operator_works_on_its_vectors(monkeypatch) -> None:
    space = Space.of(batch=50, hidden=2)
    op = MatrixOperator(torch.eye(100, dtype=torch.float64), space)
    small = Space.of(hidden=2)
    monkeypatch.setattr(chunks, "STEP_BYTES", 0)
    into = MatrixOperator(torch.ones(2, 100, dtype=torch.float64), space, small)
    alone = MatrixOperator(torch.eye(2, dtype=torch.float64), small)
    made = [op.mean("batch"), 2 * op.mean("batch"), op.partial_trace("batch"), op.mean("batch") + alone]
    made += [into @ into.T, (into @ into.T).declare(positive=True)]
    wide = chunks.working_bytes(op)
    assert [chunks.working_bytes(one) / wide for one in made] == [1, 1, 1, 1, 102 / 200, 102 / 200]
    assert chunks.working_bytes(alone) == wide / 50


def test_what_would_not_fit_is_refused(counted) -> None:
    op, seen = counted
    q = torch.zeros(1, 2, 3, dtype=torch.float64).expand(2**42, 2, 3)
    with pytest.raises(MemoryBudgetError, match=r"product of .* with 4398046511104 probes: .* set chunk="):
        op(q)
    assert seen == []


@pytest.mark.parametrize("chunk", [0, -1, 2.0, True, "all"])
def test_bad_chunks(counted, chunk) -> None:
    with pytest.raises(ArgumentError, match="chunk: expected 'auto' or a whole number >= 1, got"):
        counted[0](torch.zeros(4, 2, 3, dtype=torch.float64), chunk=chunk)
