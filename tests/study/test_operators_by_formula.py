"""Operators of a flow by their formulas, against products of dense matrices."""

from __future__ import annotations

import pytest
import torch

from kpframe.errors import ArgumentError
from kpframe.study._moment import operator_of, operator_problem

from ..toy_moments import dense_jacobian, moment_of, trials_of  # noqa: TID252

FORMULAS = ("P P*", "K", "Phi", "P K P*", "J J*", "G G*", "P J G*", "P J J* P*", "K G J* P")


def test_formulas_are_products() -> None:
    moment = moment_of(trials_of())
    flow = moment.flow
    size = flow.P.domain.size
    P, J, G = (op.to_dense().reshape(size, -1) for op in (flow.P, flow.J, flow.G))
    torch.testing.assert_close(G, dense_jacobian(moment.model, moment.trials).reshape(size, -1))
    matrices = {"P": P, "J": J, "G": G, "K": J @ J.T, "Phi": G @ G.T}
    v = torch.randn(flow.P.domain.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = []
    for formula in FORMULAS:
        right = v.reshape(-1)
        for word in reversed(formula.split()):
            matrix = matrices[word.removesuffix("*")]
            right = (matrix.T if word.endswith("*") else matrix) @ right
        found.append(operator_of(flow, formula)(v).reshape(-1))
        torch.testing.assert_close(found[-1], right, rtol=1e-9, atol=1e-12 * float(right.abs().max()))
        assert operator_problem(formula) == "", formula
    torch.testing.assert_close(found[2], found[5])  # Phi = G G*
    assert not torch.allclose(found[1], found[2], rtol=1e-2)


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("G", "maps states to states, got 'G', which maps parameters to states"),
        ("J*", "which maps states to parameters"),
        ("G* G", "which maps parameters to parameters"),
        ("K G G", "factors that fit each other, got 'K G G': G takes parameters, G makes states"),
        ("P phi", "a product of P, K, Phi, J, G and their adjoints .* did you mean 'Phi'"),
        ("", "a product such as 'P P\\*', got ''"),
    ],
)
def test_what_does_not_map_states_to_states_is_refused(formula: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        operator_of(moment_of(trials_of()).flow, formula)
