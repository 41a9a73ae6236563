"""Named datasets, plain arrays and other libraries' operators hold the same numbers."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from attrs import evolve

from kpframe import Flow, eigsh, linearize, spectral_density, svd, wrap
from kpframe.errors import ArgumentError, DtypeError, MissingDependencyError, ShapeError
from kpframe.spectra._lyapunov import lyapunov_exponents
from kpframe.study._reading.interchange import (
    dsa_arrays,
    named_array,
    netrep_array,
    to_curvlinops,
    to_numpy,
    to_xarray,
)

F64 = torch.float64


@pytest.fixture(scope="module")
def flow() -> Flow:
    torch.manual_seed(0)
    mask = torch.tensor([[True, True, True, True], [True, True, False, False], [True, True, True, False]])
    return linearize(wrap(torch.nn.LSTMCell(2, 3)).double(), torch.randn(3, 4, 2, dtype=F64), mask=mask)


def test_trajectory(flow: Flow) -> None:
    data = to_xarray(flow.trajectory)
    assert data.states.dims == ("batch", "time", "hidden")
    assert data.hidden_part.values.tolist() == ["h"] * 3 + ["c"] * 3
    cell = data.states.where(data.hidden_part == "c", drop=True)
    np.testing.assert_array_equal(cell, flow.trajectory.component("c"))
    assert not np.array_equal(cell, flow.trajectory.component("h"))
    assert int(data.mask.sum()) == 9


def test_eigenpairs_and_triplets(flow: Flow) -> None:
    pairs = eigsh(flow.Phi, k=3)
    data = to_xarray(pairs, flow.Phi)
    assert data.eigenvector.dims == ("k", "batch", "time", "hidden")
    np.testing.assert_array_equal(data.eigenvalue, pairs.eigenvalues)
    assert data.attrs["operator"] == "P K P*"
    G = flow.P @ flow.J
    triplets = to_xarray(svd(G, k=2), G)
    assert triplets.left.dims == ("k", "left_batch", "left_time", "left_hidden")
    assert triplets.right.dims == ("k", "right_parameter")
    assert to_xarray(svd(flow.P, k=2), flow.P).right.dims == ("k", "batch", "time", "hidden")
    with pytest.raises(ArgumentError, match="operator: expected the operator of these EigenPairs"):
        to_xarray(pairs)


def test_density_and_exponents(flow: Flow) -> None:
    density = spectral_density(flow.Phi, budget=20)
    data = to_xarray(density, flow.Phi)
    np.testing.assert_array_equal(data.node, density.nodes)
    assert data.attrs["dimension"] == flow.Phi.domain.size
    exponents = to_xarray(lyapunov_exponents(flow.A, dt=0.1))
    assert exponents.exponent.dims == ("batch", "k")
    assert exponents.attrs["dt"] == 0.1
    assert exponents.steps.dims == ("batch",)
    assert exponents.steps.values.tolist() == [4, 2, 3]  # each trial has its own
    whole = to_xarray(evolve(lyapunov_exponents(flow.A), steps=4))
    assert whole.attrs["steps"] == 4
    with pytest.raises(ArgumentError, match=r"result: expected .*, got int"):
        to_xarray(3)


def test_named_array_checks_its_dims(flow: Flow) -> None:
    with pytest.raises(ShapeError, match=r"tensor: expected shape \[k, batch=3, time=4, hidden=6\]"):
        named_array(flow.trajectory.states, flow.P.domain, "k")


def test_arrays_of_trials_leave_padding_out(flow: Flow) -> None:
    trials = dsa_arrays(flow.trajectory)
    assert [trial.shape for trial in trials] == [(4, 6), (2, 6), (3, 6)]
    np.testing.assert_array_equal(np.concatenate(trials), netrep_array(flow.trajectory))
    np.testing.assert_array_equal(trials[1], flow.trajectory.states[1, :2])
    whole = linearize(flow.model, flow.trajectory.inputs)
    assert netrep_array(whole.trajectory).shape == (12, 6)
    assert to_numpy(whole.trajectory.states).dtype == np.float64


def test_curvlinops_form(flow: Flow) -> None:
    pytest.importorskip("curvlinops")
    G = flow.P @ flow.J
    other = to_curvlinops(G)
    vectors = torch.randn(G.domain.size, 3, dtype=F64)
    torch.testing.assert_close(other @ vectors, G.to_dense() @ vectors, rtol=1e-10, atol=1e-12)
    back = torch.randn(G.codomain.size, dtype=F64)
    torch.testing.assert_close(other.adjoint() @ back, G.to_dense().T @ back, rtol=1e-10, atol=1e-12)


def test_the_scipy_form_by_way_of_curvlinops_is_ours(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for the library's base class, which holds the shapes alone."""

    class Base:
        def __init__(self, in_shape: list, out_shape: list) -> None:
            self.shapes = in_shape, out_shape

    monkeypatch.setitem(sys.modules, "curvlinops._torch_base", SimpleNamespace(PyTorchLinearOperator=Base))
    G = flow.P @ flow.J
    other = to_curvlinops(G)
    assert other.shapes == ([G.domain.shape], [G.codomain.shape])
    rng = np.random.default_rng(0)
    vector = rng.normal(size=G.domain.size) + 1j * rng.normal(size=G.domain.size)
    right = G.to_dense().numpy() @ vector
    assert np.linalg.norm(other.to_scipy() @ vector - right) <= 1e-12 * np.linalg.norm(right)
    assert np.linalg.norm(right.imag) > 0.1 * np.linalg.norm(right)
    assert other.to_scipy(np.float64).dtype == np.float64
    with pytest.raises(DtypeError, match="dtype: expected float64 or None"):
        other.to_scipy(np.float32)


def test_a_missing_library_is_named(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "curvlinops._torch_base", None)
    with pytest.raises(MissingDependencyError, match="pip install curvlinops-for-pytorch"):
        to_curvlinops(flow.P)
