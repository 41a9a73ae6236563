"""Unbiased online recurrent optimization against a loop of the paper's algorithm on dense Jacobians."""

from __future__ import annotations

import pytest
import torch
from kpframe_rules.uoro import UORO

from kpframe import Space, create_rule
from kpframe.errors import ArgumentError, MemoryBudgetError
from kpframe.flow import eligibilities
from kpframe.operators import trial_generators

MODELS = ("vanilla", "rate", "current", "gru", "lstm", "wrapped")


def forward(here, nu: torch.Tensor, normalise: bool = True) -> torch.Tensor:
    """Return the sum of the gradient estimates of Algorithm 1, trial by trial, for signs ``[B, T, H]``."""
    A, J = here.jacobians()
    total = torch.zeros(J.shape[-1], dtype=torch.float64)
    for b in range(len(A)):
        s, theta = torch.zeros(A.shape[-1], dtype=torch.float64), torch.zeros_like(total)
        for t in range(A.shape[1]):
            moved, local = A[b, t] @ s, nu[b, t] @ J[b, t]
            rho_0 = rho_1 = 1.0
            if normalise:
                rho_1 = float((local.norm() / nu[b, t].norm()).sqrt())
                if t:
                    rho_0 = float((theta.norm() / moved.norm()).sqrt())
            s = rho_0 * moved + rho_1 * nu[b, t]
            theta = theta / rho_0 + local / rho_1
            total = total + (here.err[b, t] @ s) * theta
    return total


def signs(shape, seed: int | torch.Generator) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed) if isinstance(seed, int) else seed
    sources = trial_generators(Space.of(batch=shape[0]), generator)
    return torch.stack([2.0 * torch.randint(2, shape[1:], generator=own).double() - 1 for own in sources])


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.rows(4)
def test_update_is_the_algorithm(tiny, close, differ, model, normalise) -> None:
    here = tiny(model, time=6, units=3)
    nu = signs(here.err.shape, 7)
    update = UORO(normalise, seed=7).update_operator(here.flow())(here.err)
    close(update, forward(here, nu, normalise), 1e-10)
    differ(update, forward(here, nu, not normalise))
    differ(update, forward(here, signs(here.err.shape, 8), normalise))


def test_trainable_initial_state(tiny, close, differ) -> None:
    here = tiny("gru", time=5, units=3, start="trainable")
    update = UORO(seed=2).update_operator(here.flow())(here.err)
    close(update, forward(here, signs(here.err.shape, 2)), 1e-10)
    differ(update, here.exact())


def test_all_signs_turned_are_the_same_estimate(tiny, close, differ) -> None:
    here = tiny("vanilla", time=4)
    nu = signs(here.err.shape, 0)
    close(forward(here, nu), forward(here, -nu))
    turned = nu.clone()
    turned[:, 1] *= -1
    differ(forward(here, nu), forward(here, turned))


def test_draws_are_averaged(tiny, close, differ) -> None:
    here = tiny("vanilla", time=5, units=3)
    generator = torch.Generator().manual_seed(4)
    draws = [signs(here.err.shape, generator) for _ in range(3)]
    update = UORO(draws=3, seed=4).update_operator(here.flow())(here.err)
    close(update, sum(forward(here, nu) for nu in draws) / 3, 1e-10)
    differ(update, forward(here, draws[0]))


def test_rank_one_at_each_step_of_each_trial(tiny) -> None:
    here = tiny("gru", time=5, units=3)
    flow = here.flow()
    batch, time, hidden = flow.P.domain.shape
    ranks = []
    for G in (UORO().update_operator(flow).T, flow.P @ flow.J):
        blocks = G.to_dense().reshape(batch * time, hidden, -1)
        ranks.append(torch.linalg.matrix_rank(blocks).tolist())
    assert set(ranks[0]) == {1}
    assert set(ranks[1]) == {3}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("start", ["given", "trainable"])
def test_eligibilities_are_those_of_each_step(tiny, close, differ, model, start) -> None:
    here = tiny(model, time=4, units=3, start=start, masked=True)
    J = here.jacobians()[1]
    nu = torch.randn(here.err.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = eligibilities(here.flow().J, nu)
    close(found, torch.einsum("bth,bthm->btm", nu, J), 1e-12)
    differ(found[:1], found[1:])


def test_norms_of_zero_drop_what_is_zero(tiny, close) -> None:
    """Padded steps have no eligibility, and without A nothing is carried from step to step."""
    here = tiny("vanilla", time=4, masked=True)
    with torch.no_grad():
        here.model.weight_hh_l0.zero_()  # A = 0
    nu, J = signs(here.err.shape, 0), here.jacobians()[1]
    local = torch.einsum("bth,bth,btk,btkm->m", here.err, nu, nu, J)
    assert here.mask[1].tolist() == [True, True, True, False]  # the second trial holds its state
    held = nu[1, 2] @ J[1, 2] * (nu[1, 2] @ here.err[1, 3])
    close(UORO().update_operator(here.flow())(here.err), local + held)


def test_adjoint_and_printed(tiny, close) -> None:
    flow = tiny("gru", time=3).flow()
    G = UORO(draws=2).update_operator(flow).T
    close(G.to_dense(), G.T.to_dense().T)
    assert repr(UORO().update_operator(flow)) == "G_uoro*"
    assert repr(UORO(seed=3)) == "UORO(normalise=True, draws=1, seed=3, max_bytes=2147483648)"


def test_refusals(tiny) -> None:
    flow = tiny("vanilla", time=30, units=4).flow()
    rule = UORO()
    rule.max_bytes = 1000  # less than a setting may be, for a flow that is tiny
    with pytest.raises(MemoryBudgetError, match="the vectors theta of all trials and steps"):
        rule.update_operator(flow)
    with pytest.raises(ArgumentError, match="draws: expected int >= 1, got 0"):
        UORO(draws=0)
    assert create_rule("uoro", draws=2).draws == 2
