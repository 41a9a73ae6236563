"""Blocks of K where no structure names them: found by products with J*, and no more than there are."""

from __future__ import annotations

import pytest
import torch

from kpframe import MatrixOperator, Operator, Space, linearize, wrap
from kpframe.flow._unit_probes import UnitProbes
from kpframe.operators._spaces import Axis, parameter_space
from kpframe.spectra import eigsh

F64 = torch.float64


def kernel(cell: torch.nn.Module) -> Operator:
    x = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(1), dtype=F64)
    state = {"h": 6, "c": 6} if isinstance(cell, torch.nn.LSTMCell) else 6
    return linearize(wrap(cell.double(), input_size=2, state=state), x).K


def between(K: Operator, labels: torch.Tensor) -> float:
    """Return the largest entry of K between two labels of its rows."""
    return float(K.to_dense().abs()[labels[:, None] != labels].max())


class Normed(torch.nn.Module):
    """A cell whose units are normalised together: each weight acts on all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.norm = torch.nn.RNNCell(2, 6), torch.nn.LayerNorm(6)

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        return self.norm(self.cell(x, h))


class Scaled(torch.nn.Module):
    """A cell with one number for all units."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.rate = torch.nn.GRUCell(2, 6), torch.nn.Parameter(torch.tensor(0.3))

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        return h + self.rate * (self.cell(x, h) - h)


@pytest.mark.parametrize(
    ("cell", "labels"),
    [
        (torch.nn.GRUCell(2, 6), torch.arange(6)),
        (torch.nn.LSTMCell(2, 6), torch.arange(6).repeat(2)),  # h and c of a unit
    ],
    ids=["gru", "lstm"],
)
def test_a_wrapped_cell(cell: torch.nn.Module, labels: torch.Tensor) -> None:
    torch.manual_seed(0)
    K = kernel(cell)
    assert torch.equal(K.block_labels(), labels)
    rows = torch.arange(K.domain.size)
    assert between(K, labels.repeat(12)) == 0
    assert between(K, rows // len(labels)) > 1e-3  # steps and trials are joined
    metric = torch.randn(K.jacobian.domain.size, 3, dtype=F64)
    assert K.with_metric(MatrixOperator(metric @ metric.T, K.jacobian.domain)).block_labels() is None


def test_parameters_that_act_on_several_units() -> None:
    torch.manual_seed(0)
    K = kernel(Normed())
    assert K.block_labels() is None
    gain = K.restrict(["*norm.weight", "*norm.bias"])
    assert torch.equal(gain.block_labels(), torch.arange(6))
    K = kernel(Scaled())
    assert K.block_labels() is None
    assert torch.equal(K.freeze(["*rate"]).block_labels(), torch.arange(6))


@pytest.mark.parametrize("size", [1.0, 1e-200])
def test_one_entry_that_joins_two_units(size: float) -> None:
    space = Space.of(batch=2, time=3, hidden=16)
    J = torch.zeros(2, 3, 16, 32, dtype=F64)
    J[:, :, torch.arange(32) % 16, torch.arange(32)] = torch.randn(2, 3, 32, dtype=F64)
    params = parameter_space({"w": (20,), "v": (12,)})
    apart = UnitProbes.of(MatrixOperator(J.reshape(96, 32), params, space))
    assert torch.equal(apart.labels(["w", "v"]), torch.arange(16))
    J[1, 2, 5, 3] = size  # parameter 3, of w, acts on units 3 = 0011 and 5 = 0101
    joined = UnitProbes.of(MatrixOperator(J.reshape(96, 32), params, space))
    assert torch.equal(joined.labels(["v"]), torch.arange(16))
    labels = joined.labels(["w"])
    assert labels[3] == labels[5]
    assert torch.equal(labels, (torch.arange(16) & 1) + (torch.arange(16) >> 3) * 2)


def test_components_of_unequal_widths() -> None:
    hidden = Axis.of_parts("hidden", {"a": (3,), "b": (2,)})
    space = Space((Axis("batch", 1), Axis("time", 2), hidden))
    J = torch.eye(10, dtype=F64)
    probes = UnitProbes.of(MatrixOperator(J, parameter_space({"w": (10,)}), space))
    assert torch.equal(probes.labels(["w"]), torch.arange(5))


def test_one_unit_and_no_parameter() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 2, dtype=F64)
    K = linearize(wrap(torch.nn.LSTMCell(2, 1).double()), x).K
    assert K.block_labels().tolist() == [0, 0]
    assert kernel(torch.nn.GRUCell(2, 6)).restrict([]).block_labels() is None


def test_eigenpairs_come_from_the_blocks() -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 10, 2, dtype=F64)
    K = linearize(wrap(torch.nn.GRUCell(2, 6).double()), x).K
    pairs = eigsh(K, k=4, tol=1e-8, budget=100)
    assert pairs.method == "Lanczos within 6 blocks of the operator"
    assert pairs.converged.all()
    exact = torch.linalg.eigvalsh(K.to_dense()).flip(0)[:4]
    torch.testing.assert_close(pairs.eigenvalues, exact, rtol=1e-10, atol=0)
    assert pairs.num_matvecs < eigsh(K, k=4, tol=1e-8, budget=300, block_size=4).num_matvecs
