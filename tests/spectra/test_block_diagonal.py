"""Eigenpairs of block-diagonal operators come from each block alone."""

from __future__ import annotations

import pytest
import torch

from kpframe import MatrixOperator, Space, linearize
from kpframe.operators._base import Operator
from kpframe.spectra import eigsh
from kpframe.testing._toys import Elman

F64 = torch.float64
SPACE = Space.of(time=40, hidden=10)
LABELS = torch.tensor([3, 0, 1, 2, 4, 0, 1, 2, 3, 4])  # five blocks of 80


class Labelled(MatrixOperator):
    """A matrix that names its blocks."""

    labels = LABELS

    def block_labels(self) -> torch.Tensor:
        return self.labels


def together(labels: torch.Tensor = LABELS) -> torch.Tensor:  # [n, n], bool
    rows = labels.repeat(SPACE.size // len(labels))
    return rows[:, None] == rows


def blockwise(seed: int = 0) -> torch.Tensor:
    matrix = torch.randn(400, 400, generator=torch.Generator().manual_seed(seed), dtype=F64)
    return (matrix + matrix.T) * together()


def dense(op: MatrixOperator) -> torch.Tensor:
    return torch.linalg.eigvalsh(op.matrix)


@pytest.mark.parametrize("which", ["largest", "smallest", "magnitude"])
@pytest.mark.rows(2)
def test_against_the_dense_spectrum(which: str) -> None:
    op = Labelled(blockwise(), SPACE)
    pairs = eigsh(op, k=7, which=which)
    values = dense(op)
    order = {"largest": -values, "smallest": values, "magnitude": -values.abs()}[which].argsort()[:7]
    torch.testing.assert_close(pairs.eigenvalues, values[order], rtol=1e-10, atol=0)
    assert pairs.method == "Lanczos within 5 blocks of the operator"
    assert pairs.converged.all()
    flat = pairs.eigenvectors.flatten(1)
    torch.testing.assert_close(flat @ flat.T, torch.eye(7, dtype=F64), rtol=0, atol=1e-12)
    residuals = (op(pairs.eigenvectors).flatten(1) - pairs.eigenvalues[:, None] * flat).norm(dim=1)
    torch.testing.assert_close(residuals, pairs.residual_norms, rtol=1e-6, atol=1e-12)
    for vector in pairs.eigenvectors:  # each lies in one block
        assert len(LABELS[vector.abs().amax(0) > 0].unique()) == 1


def test_labels_that_are_wrong_give_something_else() -> None:
    matrix = torch.randn(400, 400, generator=torch.Generator().manual_seed(0), dtype=F64)
    op = Labelled(matrix + matrix.T, SPACE)
    pairs = eigsh(op, k=3)
    assert not pairs.converged.any()
    assert abs(float(pairs.eigenvalues[0]) / float(dense(op)[-1]) - 1) > 0.1


def test_blocks_that_vanish_or_repeat() -> None:
    matrix = blockwise(1)
    rows = LABELS.repeat(40)
    matrix[rows == 0] = 0
    matrix[rows == 1] = 100 * torch.eye(400, dtype=F64)[rows == 1]
    op = Labelled(matrix, SPACE)
    pairs = eigsh(op, k=6)
    torch.testing.assert_close(pairs.eigenvalues, torch.full((6,), 100.0, dtype=F64), rtol=1e-12, atol=0)
    smallest = eigsh(Labelled(matrix @ matrix, SPACE), k=3, which="smallest")
    assert smallest.eigenvalues.abs().max() <= 1e-9
    nothing = eigsh(Labelled(torch.zeros(400, 400, dtype=F64), SPACE), k=3)
    assert nothing.eigenvalues.tolist() == [0, 0, 0]
    assert nothing.converged.all()


def test_blocks_of_unequal_sizes_or_a_block_size_asked_for() -> None:
    op = Labelled(blockwise(), SPACE)
    assert eigsh(op, k=3, block_size=3).method == "block Lanczos, blocks of 3"
    unequal = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1, 1, 1])
    op = Labelled(torch.eye(400, dtype=F64) * together(unequal), SPACE)
    op.labels = unequal
    assert eigsh(op, k=3).method == "block Lanczos, blocks of 3"


@pytest.mark.slow
def test_a_kernel_needs_few_products() -> None:
    torch.manual_seed(0)
    model = Elman(8, 40).double()
    K = linearize(model, torch.randn(10, 30, 8, dtype=F64)).K
    assert K.block_labels() is not None
    assert K.block_labels().tolist() == list(range(40))
    pairs = eigsh(K, k=10, tol=1e-6)
    assert pairs.converged.all()
    assert pairs.num_matvecs <= 15 + 10
    exact = [kernel_of_unit(K, unit) for unit in range(40)]
    expected = torch.cat([torch.linalg.eigvalsh(part) for part in exact]).sort(descending=True)[0][:10]
    torch.testing.assert_close(pairs.eigenvalues, expected, rtol=1e-9, atol=0)
    whole = eigsh(K, k=10, tol=1e-6, block_size=10)
    torch.testing.assert_close(whole.eigenvalues, expected, rtol=1e-9, atol=0)
    assert whole.num_matvecs > 3 * pairs.num_matvecs  # what the blocks spare


def kernel_of_unit(K: Operator, unit: int) -> torch.Tensor:  # [B T, B T]
    batch, time, hidden = K.domain.shape
    probes = torch.zeros(batch * time, batch * time, hidden, dtype=F64)
    probes[torch.arange(batch * time), torch.arange(batch * time), unit] = 1
    return K(probes.reshape(-1, batch, time, hidden)).flatten(1, 2)[..., unit]


def test_kernels_whose_parameters_act_on_several_units_name_no_blocks() -> None:
    torch.manual_seed(0)
    model = Elman(3, 4, trainable_initial_state=True).double()
    K = linearize(model, torch.randn(2, 3, 3, dtype=F64)).K
    assert K.block_labels() is None
    assert K.freeze(["h0"]).block_labels() is not None
    assert linearize(model, torch.randn(2, 3, 3, dtype=F64), method="autograd").K.block_labels() is None


@pytest.mark.parametrize(("apart", "copies"), [(0.5, 1), (0.02, 1), (0.5, 2)])
def test_values_just_below_in_other_blocks_cost_no_products(apart: float, copies: int) -> None:
    generator = torch.Generator().manual_seed(3)
    units = torch.arange(10).repeat(40)
    tops = 100 - apart * torch.arange(10, dtype=F64)
    matrix = torch.zeros(400, 400, dtype=F64)
    for unit in range(10):
        turned = torch.linalg.qr(torch.randn(40, 40, generator=generator, dtype=F64))[0]
        repeats = copies if unit == 0 else 1
        values = torch.cat([tops[unit].expand(repeats), torch.linspace(60, 0, 40 - repeats, dtype=F64)])
        inside = torch.where(units == unit)[0]
        matrix[inside[:, None], inside] = (turned * values) @ turned.T
    op = Labelled(matrix, SPACE)
    op.labels = torch.arange(10)
    pairs = eigsh(op, k=5, tol=1e-3)
    assert pairs.converged.all()
    exact = torch.cat([tops[:1].expand(copies), tops[1:]])[:5]
    torch.testing.assert_close(pairs.eigenvalues, exact, rtol=1e-6, atol=0)
    assert pairs.num_matvecs <= (25 if copies == 1 else 60)
