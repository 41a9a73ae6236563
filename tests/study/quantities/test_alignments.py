"""Alignments over steps and between operators: against dense matrices, and intervals that cover."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import xarray as xr

from kpframe import Readout
from kpframe.errors import ArgumentError
from kpframe.operators import FunctionOperator, MatrixOperator, Space
from kpframe.study import Moment, Probe, Surroundings, create_quantity
from kpframe.study._quantities import sketches as _sketches
from kpframe.study._quantities.sketches import OperatorSketch, cosines

F64 = torch.float64
B, T, H = 6, 5, 4
N = 120


def orthonormal(rank: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(N, rank, generator=generator, dtype=F64))[0]


def positive(values: torch.Tensor, seed: int, mix: float = 0.0) -> torch.Tensor:
    """Return a matrix of these eigenvalues; ``mix`` turns its eigenvectors towards others."""
    columns = (1 - mix) ** 0.5 * orthonormal(len(values), 1) + mix**0.5 * orthonormal(len(values), seed)
    columns = torch.linalg.qr(columns)[0]
    return columns @ torch.diag(values) @ columns.T


def operator(matrix: torch.Tensor) -> MatrixOperator:
    return MatrixOperator(matrix, Space.of(n=N)).declare(positive=True)


def sketched(matrices, seed: int, budget: int = 24):
    return cosines(
        [OperatorSketch.of(operator(one), budget, torch.Generator().manual_seed(seed)) for one in matrices]
    )


def true(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a * b).sum() / a.norm() / b.norm())


SPECTRA = {
    "one": torch.ones(1),
    "three": torch.tensor([1.0, 0.5, 0.2]),
    "power": 1 / torch.arange(1.0, N + 1),
    "exponential": 0.8 ** torch.arange(float(N)),
    "step": torch.ones(20),
}


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("mix", [0.1, 0.5])
@pytest.mark.rows(4)
def test_intervals_cover(spectrum, mix) -> None:
    values = SPECTRA[spectrum].double()
    pair = positive(values, 2), positive(values, 2, mix)
    wanted = true(*pair)
    found = [sketched(pair, seed) for seed in range(24)]
    estimates = np.array([value[0, 1] for value, _ in found])
    errors = np.array([error[0, 1] for _, error in found])
    covered = np.abs(estimates - wanted) <= 1.96 * errors
    assert covered.mean() >= 0.85
    spread = np.sqrt(np.mean((estimates - wanted) ** 2))
    assert abs(estimates.mean() - wanted) < 0.5 * spread + 1e-6
    assert errors.mean() < 4 * spread + 1e-6
    if spectrum in ("one", "three"):  # all there is of it is known
        assert spread < 1e-6
    assert spread < 0.15 < abs(1 - wanted) + 0.15


def test_a_mean_over_pairs_of_probes_alone_would_be_far_off(monkeypatch) -> None:
    pair = positive(torch.ones(1, dtype=F64), 2), positive(torch.ones(1, dtype=F64), 2, 0.5)
    monkeypatch.setattr(_sketches, "_leading", lambda probes, products, space: (np.zeros(0), products[:0]))
    found = np.array([sketched(pair, seed)[0][0, 1] for seed in range(20)])
    assert np.std(found - true(*pair)) > 0.05


def test_hashed_directions_keep_their_angles(monkeypatch) -> None:
    pair = positive(SPECTRA["three"].double(), 2), positive(SPECTRA["three"].double(), 2, 0.4)
    whole = sketched(pair, 0)
    monkeypatch.setattr(_sketches, "LENGTH", 64)
    value, error = sketched(pair, 0)
    assert whole[1][0, 1] < 1e-6 < error[0, 1] < 0.3
    assert 0 < abs(value[0, 1] - true(*pair)) < 3 * error[0, 1]
    assert value[0, 0] == 1
    assert error[0, 0] == 0
    same, _ = sketched([pair[0], 3 * pair[0]], 0)
    assert same[0, 1] == pytest.approx(1, abs=1e-6)


def test_few_dimensions_are_exact_and_zero_is_undefined() -> None:
    pair = positive(SPECTRA["power"].double(), 2), positive(SPECTRA["power"].double(), 2, 0.5)
    value, error = sketched(pair, 0, budget=N)
    assert value[0, 1] == pytest.approx(true(*pair), rel=1e-10)
    assert not error.any()
    for budget in (24, N):
        value, error = sketched([pair[0], 0 * pair[1]], 0, budget=budget)
        assert value[0, 0] == 1
        assert np.isnan([value[0, 1], value[1, 1], error[0, 1]]).all()


def moments(offered, steps: int, **around):
    torch.manual_seed(2)
    task, model = offered.Sum(), offered.Small(2).double()
    surroundings = Surroundings({"test": Probe.of(task.sample(B, generator=1, dtype=F64))}, **around)
    for step in range(steps):
        with torch.no_grad():
            model.W += 0.3 * torch.randn(H, H, generator=torch.Generator().manual_seed(step), dtype=F64)
        yield Moment(copy.deepcopy(model), Readout(H, 1, generator=3, dtype=F64), surroundings, step=5 * step)


def over(rows: list[xr.Dataset]) -> xr.Dataset:
    return xr.concat(rows, dim=xr.Variable("step", [5 * i for i in range(len(rows))]))


@pytest.mark.parametrize("budget", [24, B * T * H])
def test_the_map_is_that_of_dense_operators(offered, budget) -> None:
    every = list(moments(offered, 4, budget=budget, operators=("P P*", "Phi", "P K")))
    quantity = create_quantity("alignment")
    data = quantity.across(over([quantity.measure(moment) for moment in every]))
    assert data.alignment_map.dims == ("operator", "step", "step_other")
    for name in data.operator.values:
        matrices = [moment.operators[name].to_dense() for moment in every]
        wanted = np.array([[true(a, b) for b in matrices] for a in matrices])
        found, error = (data[x].sel(operator=name).values for x in ("alignment_map", "alignment_map_stderr"))
        assert (np.abs(found - wanted) <= 4 * error + 1e-9).all()
        assert wanted.min() < 0.97
        off = ~np.eye(4, dtype=bool)
        assert ((error[off] > 0) == (budget == 24)).all()
        np.testing.assert_array_equal(data.alignment_with_first.sel(operator=name), found[:, 0])
        np.testing.assert_array_equal(data.alignment_with_final.sel(operator=name), found[:, 3])
        np.testing.assert_array_equal(data.alignment_with_previous.sel(operator=name)[1:], found.diagonal(-1))
        assert np.isnan(data.alignment_with_previous.sel(operator=name)[0])
    assert "the first step" in data.alignment_with_first.long_name


def test_a_failed_step_is_passed_over(offered) -> None:
    quantity = create_quantity("alignment")
    rows = [quantity.measure(moment) for moment in moments(offered, 4, budget=24)]
    whole = quantity.across(over(rows))
    failed = quantity.across(over(rows).isel(step=[0, 1, 3]).reindex(step=[0, 5, 10, 15]))
    assert failed.alignment_map.isel(step=2).isnull().all()
    kept = [0, 1, 3]
    np.testing.assert_allclose(
        failed.alignment_map.isel(step=kept, step_other=kept),
        whole.alignment_map.isel(step=kept, step_other=kept),
        rtol=1e-12,
    )
    np.testing.assert_allclose(
        failed.alignment_with_previous.isel(step=3),
        whole.alignment_map.isel(step=3, step_other=1),
        rtol=1e-12,
    )
    first = quantity.across(over(rows).isel(step=[1, 2]).reindex(step=[0, 5, 10]))
    np.testing.assert_allclose(first.alignment_with_first.isel(step=1), 1)


@pytest.mark.parametrize("same", [False, True])
def test_ranks_and_alignments_share_their_products_where_probes_are_the_same(offered, same) -> None:
    (moment,) = moments(offered, 1, budget=24, same_probes=same, operators=("K",))
    asked = []

    class Counting(FunctionOperator):
        positive = True

    def product(q: torch.Tensor) -> torch.Tensor:
        asked.append(len(q))
        return moment.flow.K(q)

    space = moment.flow.K.domain
    moment.remembered["K"].inner = Counting(space, space, product, product, dtype=F64)
    moment.step = 3
    create_quantity("trace").measure(moment)
    spent = len(asked)
    create_quantity("alignment").measure(moment)
    assert spent > 0
    assert len(asked) == (spent if same else 2 * spent)


def test_pairs_of_operators(offered) -> None:
    (moment,) = moments(offered, 1, budget=2 * B * T * H)
    data = create_quantity("operator_alignment").measure(moment)
    assert list(data.operator_other.values) == ["P P*", "K", "Phi", "P K"]
    P, J = moment.flow.P.to_dense(), moment.flow.J.to_dense()
    dense = {"P P*": P @ P.T, "K": J @ J.T, "Phi": P @ J @ J.T @ P.T, "P K": P @ J @ J.T}
    for one in data.operator.values:
        for other in dense:
            found = data.operator_alignment.sel(operator=one, operator_other=other)
            assert float(found) == pytest.approx(true(dense[one], dense[other]), rel=1e-8)
    assert float(data.operator_alignment.min()) < 0.9
    (rough,) = moments(offered, 1, budget=24)
    estimates = create_quantity("operator_alignment", others=[]).measure(rough)
    assert list(estimates.operator_other.values) == ["P P*", "K", "Phi"]
    gap = np.abs(estimates.operator_alignment - data.operator_alignment[:, :3])
    assert bool((gap <= 4 * estimates.operator_alignment_stderr + 1e-12).all())
    with pytest.raises(ArgumentError, match="got 'J'"):
        create_quantity("operator_alignment", others=["J"]).check(moment)
