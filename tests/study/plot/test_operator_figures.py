"""Figures of one operator: its spectrum, eigenfunctions and matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kpframe import MatrixOperator, Space, plot
from kpframe.errors import ArgumentError, MemoryBudgetError
from kpframe.study._plot.look import on

from .data import few_ticks

STATES = Space.of(batch=2, time=5, hidden=3)


def symmetric(space: Space = STATES, size: float = 1.0) -> MatrixOperator:
    draw = torch.Generator().manual_seed(0)
    half = size * torch.randn(space.size, space.size, dtype=torch.float64, generator=draw)
    return MatrixOperator(half + half.T, space, self_adjoint=True)


def test_the_spectrum_is_that_of_the_matrix() -> None:
    op = symmetric()
    panel = plot.spectrum(op, k=7)
    values = np.linalg.eigvalsh(op.to_dense().numpy())
    expected = values[np.argsort(-np.abs(values))][:7]
    x, y = panel.get_lines()[0].get_data()
    np.testing.assert_array_equal(x, np.arange(1, 8))
    np.testing.assert_allclose(y, expected, rtol=1e-10)
    assert min(expected) < 0
    assert panel.get_ylabel() == "eigenvalue"
    assert few_ticks(on(panel)) == []
    plain = MatrixOperator(op.to_dense()[:, :20], Space.of(place=20), STATES)
    panel = plot.spectrum(plain, k=50)  # no more than there are
    expected = np.linalg.svd(plain.to_dense().numpy(), compute_uv=False)
    np.testing.assert_allclose(panel.get_lines()[0].get_ydata(), expected, rtol=1e-10)
    assert panel.get_ylabel() == "singular value"


def test_what_did_not_converge_is_open() -> None:
    op = symmetric(Space.of(time=300))
    panel = plot.spectrum(op, k=4, budget=16)
    line, open_ = panel.get_lines()[:2]
    assert open_.get_markerfacecolor() == "w"
    np.testing.assert_array_equal(open_.get_ydata(), line.get_ydata())
    assert "Open: 4 eigenvalues that did not converge, lower bounds" in " ".join(
        on(panel).get_supxlabel().split()
    )
    known = plot.spectrum(op, k=4)
    assert np.isnan(known.get_lines()[1].get_ydata()).all()
    assert "Open" not in on(known).get_supxlabel()
    np.testing.assert_array_less(
        np.abs(line.get_ydata()), np.abs(known.get_lines()[0].get_ydata()) * (1 + 1e-9)
    )


def test_eigenfunctions_are_lines_over_one_axis_and_maps_over_more() -> None:
    op = symmetric()
    values, vectors = np.linalg.eigh(op.to_dense().numpy())
    best = np.argsort(-np.abs(values))[:2]
    panels = plot.eigenfunctions(op, k=2)
    for panel, place in zip(panels.flat, best, strict=True):
        shown = np.asarray(panel.images[0].get_array())  # [batch x hidden, time]
        own = vectors[:, place].reshape(2, 5, 3).transpose(0, 2, 1).reshape(6, 5)
        np.testing.assert_allclose(np.abs(shown), np.abs(own), atol=1e-10)
        assert f"= {values[place]:.3g}" in panel.get_title()
        assert panel.get_xlabel() == "time"
    assert panels.flat[0].get_ylabel() == "batch × hidden"
    alone = symmetric(Space.of(batch=1, time=6, hidden=1))
    (panel,) = plot.eigenfunctions(alone, k=1).flat
    vectors = np.linalg.eigh(alone.to_dense().numpy())[1]
    line = panel.get_lines()[0].get_ydata()
    assert np.abs(line @ vectors).max() == pytest.approx(1, abs=1e-10)
    assert panel.get_xlabel() == "time"


def test_the_matrix_has_the_names_of_its_axes() -> None:
    op = symmetric()
    panel = plot.matrix(op)
    (image,) = panel.images
    np.testing.assert_array_equal(image.get_array(), op.to_dense())
    most = float(op.to_dense().abs().max())
    assert (image.cmap.name, image.get_clim()) == ("RdBu_r", (-most, most))
    assert panel.get_xlabel() == panel.get_ylabel() == "batch 2 × time 5 × hidden 3"
    assert [text.get_text() for text in panel.get_yticklabels()] == ["batch 0", "batch 1"]
    assert panel.get_yticks().tolist() == [7, 22]
    with pytest.raises(
        MemoryBudgetError, match=r"budget: expected a matrix within 100 bytes.*7200 bytes; red"
    ):
        plot.matrix(op, budget=100)


def test_an_operator_takes_no_selection_and_a_run_no_k() -> None:
    with pytest.raises(
        ArgumentError, match="spectrum: network: expected of an operator one of ax, k, budget"
    ):
        plot.spectrum(symmetric(), network="RNN")
    with pytest.raises(ArgumentError, match="op: expected an Operator, got 3"):
        plot.matrix(3)
    with pytest.raises(ArgumentError, match="data: expected a Dataset, a DataTree or the folder of a run"):
        plot.spectrum(3)
