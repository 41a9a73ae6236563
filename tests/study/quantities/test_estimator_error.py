"""Errors of estimators, against estimates written out in NumPy and against what theory says of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kpframe.errors import ArgumentError
from kpframe.study._quantities.estimator_error import PLACE, EstimatorError

from ...toy_moments import B, H, T, moment_of, trials_of  # noqa: TID252

N = B * T * H


def test_errors_are_those_of_estimates_written_out() -> None:
    moment = moment_of(trials_of(lengths=None), operators=("Phi",))
    quantity = EstimatorError(methods=("one_sided",), rank_methods=(), budgets=(4, 16), draws=50)
    data = quantity.measure(moment).sel(operator="Phi")
    dense = moment.flow.Phi.to_dense().numpy()
    assert float(data.trace_exact) == pytest.approx(np.trace(dense), rel=1e-12)
    assert float(data.rank_exact) == pytest.approx(np.trace(dense) ** 2 / (dense**2).sum(), rel=1e-9)
    source = moment.generator(PLACE)
    for budget in (4, 16):
        errors = []
        for _ in range(50):
            z = (
                (2 * torch.randint(2, (2 * budget, B, T, H), generator=source) - 1)
                .double()
                .flatten(1)
                .numpy()
            )
            errors.append(((z @ dense) * z).sum(axis=1).mean() / np.trace(dense) - 1)
        wanted = np.sqrt(np.mean(np.square(errors)))
        found = float(data.trace_error.sel(budget=budget, trace_method="one_sided"))
        assert found == pytest.approx(wanted, rel=0.02)  # its bias of second order is taken out
        # the variance of <z, A z> for signs: 2 (|A|^2 - |diag A|^2)
        theory = np.sqrt(2 * ((dense**2).sum() - (np.diag(dense) ** 2).sum()) / (2 * budget)) / np.trace(
            dense
        )
        assert abs(found - theory) < 4 * float(data.trace_error_stderr.sel(budget=budget).item())


def test_methods_differ_and_are_exact_where_the_budget_reaches_the_dimension() -> None:
    moment = moment_of(trials_of(), operators=("K",))
    data = EstimatorError(budgets=(24, N), draws=8).measure(moment)
    few, all_of_them = (data.sel(operator="K", budget=budget) for budget in (24, N))
    for name in ("hutchinson", "hutchpp", "xtrace", "xnystrace"):
        assert float(all_of_them.trace_error.sel(trace_method=name)) < 1e-12
        assert 1e-6 < float(few.trace_error.sel(trace_method=name)) < 1
    assert float(all_of_them.trace_error.sel(trace_method="one_sided")) > 1e-4  # a mean, exact at no budget
    assert float(all_of_them.rank_error.sel(rank_method="nystrom")) < 1e-9
    assert float(all_of_them.rank_error.sel(rank_method="two_sided")) > 1e-4
    best, plain = (float(few.trace_error.sel(trace_method=name)) for name in ("xnystrace", "hutchinson"))
    assert best < plain


def test_what_cannot_be_had_exactly_is_refused_with_its_cost() -> None:
    moment = moment_of(trials_of())
    with pytest.raises(ArgumentError, match=f"most: expected at least {N}, the products with each operator"):
        EstimatorError(most=64).check(moment)
    with pytest.raises(ArgumentError, match=r"operators: expected operators that are positive .* got 'P K'"):
        EstimatorError().measure(moment_of(trials_of(), operators=("P K",)))
    with pytest.raises(ArgumentError, match="expected a method and a budget, got none"):
        EstimatorError(methods=(), rank_methods=()).check(moment)
