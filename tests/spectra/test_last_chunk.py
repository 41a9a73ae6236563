"""Loops over a basis send it in chunks; the last one, which is shorter, counts like the others."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch

from kpframe.operators import MatrixOperator
from kpframe.operators import _memory as chunks
from kpframe.operators._spaces import Space
from kpframe.spectra import alignment, frobenius_norm, partial_trace, trace
from kpframe.spectra._numerics.matvecs import Matvecs

F64 = torch.float64
ROWS, COLUMNS = Space.of(time=3, hidden=7), Space.of(time=3, hidden=8)
CHUNK = 5  # of 21, of 24, of 3 times 7: none is a multiple


def matrix(seed: int, rows: Space, columns: Space) -> MatrixOperator:
    seeded = torch.Generator().manual_seed(seed)
    return MatrixOperator(torch.randn(rows.size, columns.size, generator=seeded, dtype=F64), columns, rows)


SQUARE, OTHER = matrix(0, ROWS, ROWS), matrix(1, ROWS, ROWS)
WIDE, TALL = matrix(2, ROWS, COLUMNS), matrix(3, COLUMNS, ROWS)


@pytest.fixture(autouse=True)
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Cut every chunk at five vectors, and say what was asked for."""
    asked: list[int] = []

    def chunk_size(operator: object, limit: int, held: int = 1) -> int:
        asked.append(limit)
        return min(limit, CHUNK)

    for module in (
        "operators._contractions",
        "operators._dense",
        "spectra._trace",
        "spectra._frobenius",
        "spectra._alignment",
        "spectra._partial",
        "spectra._numerics.matvecs",
    ):
        monkeypatch.setattr(import_module(f"kpframe.{module}"), "chunk_size", chunk_size)
    return asked


def blocks(op: MatrixOperator) -> torch.Tensor:
    """``[time, rows, time, columns]``."""
    return op.matrix.reshape(3, op.codomain["hidden"].size, 3, op.domain["hidden"].size)


def test_the_chunks_are_cut(sizes: list[int]) -> None:
    assert chunks.chunk_size(SQUARE, 21) == 21  # else these would be one chunk
    trace(SQUARE, budget=100)
    assert 21 in sizes
    assert 21 % CHUNK


@pytest.mark.parametrize("op", [SQUARE, WIDE, TALL], ids=["square", "wide", "tall"])
def test_of_any_shape(op: MatrixOperator) -> None:
    assert torch.allclose(op.to_dense(), op.matrix, rtol=1e-13, atol=0)
    assert torch.allclose(op.T.to_dense(), op.matrix.mT, rtol=1e-13, atol=0)
    assert torch.allclose(Matvecs(op).dense(), op.matrix, rtol=1e-13, atol=0)
    assert torch.allclose(op.cached().to_dense(), op.matrix, rtol=1e-13, atol=0)
    assert frobenius_norm(op, budget=100).value == pytest.approx(float(op.matrix.norm()), rel=1e-12)
    other = MatrixOperator(
        op.matrix * torch.linspace(0, 1, op.matrix.shape[1], dtype=F64), op.domain, op.codomain
    )
    right = float((op.matrix * other.matrix).sum() / op.matrix.norm() / other.matrix.norm())
    assert alignment(op, other, budget=100).value == pytest.approx(right, rel=1e-12)
    traced = torch.einsum("irij->rj", blocks(op))
    assert torch.allclose(partial_trace(op, "time", budget=1000).value, traced, rtol=1e-12)
    units = partial_trace(op.select(hidden=slice(0, 7)), "hidden", budget=1000).value
    right_units = torch.einsum("iaja->ij", blocks(op)[:, :7, :, :7])
    assert torch.allclose(units, right_units, rtol=1e-12)


def test_traces() -> None:
    assert trace(SQUARE, budget=100).value == pytest.approx(float(SQUARE.matrix.trace()), rel=1e-12)
    without = float(SQUARE.matrix.diagonal()[:20].sum())
    assert abs(without - float(SQUARE.matrix.trace())) > 1e-3


@pytest.mark.parametrize("axes", [("hidden",), ("time",), ("time", "hidden")])
def test_contractions(axes: tuple[str, ...]) -> None:
    """Seven, three and 21 entries in chunks of five; those of the time are cut to two below."""
    dense = blocks(SQUARE)
    eye = {axis: torch.eye(SQUARE.domain[axis].size, dtype=F64) for axis in ("time", "hidden")}
    kept = dense.clone()
    if "time" in axes:
        kept = kept * eye["time"][:, None, :, None]
    if "hidden" in axes:
        kept = kept * eye["hidden"][None, :, None, :]
    found = SQUARE.block_diagonal(*axes).to_dense()
    assert torch.allclose(found, kept.reshape(21, 21), rtol=1e-12)
    assert float((found - SQUARE.matrix).norm()) > 1
    if len(axes) == 1:
        traced = torch.einsum("irij->rj" if axes == ("time",) else "iaja->ij", dense)
        assert torch.allclose(SQUARE.partial_trace(*axes).to_dense(), traced, rtol=1e-12)
    else:
        q = torch.ones((), dtype=F64)
        assert float(SQUARE.partial_trace(*axes)(q)) == pytest.approx(float(SQUARE.matrix.trace()), rel=1e-12)


def test_a_contraction_of_many_probes_with_two_entries_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "kpframe.operators._contractions.chunk_size", lambda operator, limit, held=1: min(limit, 2)
    )
    q = torch.randn(4, 7, generator=torch.Generator().manual_seed(0), dtype=F64)
    right = torch.einsum("irij,pj->pr", blocks(SQUARE), q)
    assert torch.allclose(SQUARE.partial_trace("time")(q), right, rtol=1e-12)
    back = torch.einsum("irij,pr->pj", blocks(SQUARE), q)
    assert torch.allclose(SQUARE.partial_trace("time").T(q), back, rtol=1e-12)
