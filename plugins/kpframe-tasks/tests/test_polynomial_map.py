"""Polynomials of latent variables: orthonormal, of the dimensions that are set."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kpframe_tasks.polynomial_map import PolynomialMap

from kpframe.errors import ArgumentError


def dimension(rows: torch.Tensor) -> float:
    values = torch.linalg.svdvals(rows.flatten(0, -2)).square()
    return float(values.sum() ** 2 / values.square().sum())


@pytest.mark.parametrize(("p", "q"), [(1, 4), (4, 1), (3, 8), (8, 3)])
@pytest.mark.rows(2)
def test_inputs_and_targets_have_the_dimensions_that_are_set(p, q):
    task = PolynomialMap(input_dimension=p, target_dimension=q)
    trials = task.sample(20_000, generator=0, dtype=torch.float64)
    shown, asked = trials.inputs[:, 0], trials.targets[:, -1]
    assert dimension(shown) == pytest.approx(p, rel=0.01)
    assert dimension(asked) == pytest.approx(q, rel=0.02)
    assert float(shown.square().mean()) == pytest.approx(1, rel=0.02)
    assert float(asked.square().mean()) == pytest.approx(1, rel=0.02)
    assert int(torch.linalg.matrix_rank(asked)) == q


def test_targets_are_legendre_polynomials_of_the_inputs():
    task = PolynomialMap(input_dimension=2, target_dimension=6, delay=1)
    trials = task.sample(5, generator=1, dtype=torch.float64)
    s = trials.inputs[:, 0].numpy() @ np.linalg.pinv(task.read_in.numpy()).T / 3**0.5
    P = [np.polynomial.legendre.Legendre.basis(k) for k in range(4)]
    a, b = s[:, 0], s[:, 1]
    f = np.stack(
        [
            3**0.5 * a, 3**0.5 * b, 5**0.5 * P[2](a), 3 * a * b, 5**0.5 * P[2](b), 7**0.5 * P[3](a),
        ],
        axis=1,
    )  # fmt: skip
    np.testing.assert_allclose(
        trials.targets[:, -1].numpy(), f @ task.read_out.numpy().T, rtol=1e-10, atol=1e-12
    )
    assert not trials.inputs[:, 5:].any()
    assert trials.scored.sum(dim=1).tolist() == [3] * 5
    assert trials.epoch[0].tolist() == ["stimulus"] * 5 + ["delay"] + ["response"] * 3
    np.testing.assert_allclose(trials.trial["norm"], np.linalg.norm(s, axis=1) * 3**0.5, rtol=1e-10)


def test_fewer_channels_than_dimensions_are_refused():
    with pytest.raises(ArgumentError, match="output_size: expected at least target_dimension, 20, got 16"):
        PolynomialMap(target_dimension=20)
    with pytest.raises(ArgumentError, match="input_size: expected at least input_dimension, 4, got 3"):
        PolynomialMap(input_size=3)
