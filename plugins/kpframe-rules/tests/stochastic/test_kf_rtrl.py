"""Kronecker-factored RTRL against a loop of the paper's algorithm on dense Jacobians."""

from __future__ import annotations

import pytest
import torch
from kpframe_rules.kf_rtrl import KFRTRL

from kpframe import Space, create_model, create_rule, linearize
from kpframe.errors import ArgumentError, MemoryBudgetError, UnsupportedError
from kpframe.operators import trial_generators

MODELS = ("vanilla", "rate", "current", "lstm")


def signs(batch: int, time: int, seed: int) -> torch.Tensor:
    sources = trial_generators(Space.of(batch=batch), torch.Generator().manual_seed(seed))
    return torch.stack([2.0 * torch.randint(2, (time,), generator=own).double() - 1 for own in sources])


def forward(here, name: str, c: torch.Tensor, compensate: bool = True) -> torch.Tensor:
    """Return the sum of the gradient estimates of Algorithm 1, trial by trial, for signs ``[B, T]``.

    ``D`` is read off the derivative by ``bias_ih_l0``, which adds to the preactivations.
    """
    A, J = here.jacobians()
    parts = {part.name: part for part in here.flow().J.domain["parameter"].parts}
    total = torch.zeros(J.shape[-1], dtype=torch.float64)
    states = here.model.rollout(here.x, here.h0, here.mask).states.detach()
    n = here.model.weight_hh_l0.shape[1]
    for b in range(len(A)):
        F = u = None
        for t in range(A.shape[1]):
            old = (here.h0[b] if t == 0 else states[b, t - 1])[:n]  # h of (h, c)
            read = old.tanh() if name == "current" else old
            z = torch.cat([read, here.x[b, t], torch.ones(1, dtype=torch.float64)])
            D = J[b, t][:, parts["bias_ih_l0"].slice]
            if F is None:
                p2 = (D.norm() / z.norm()).sqrt()
                u, F = c[b, t] * p2 * z, c[b, t] * D / p2
            else:
                moved = A[b, t] @ F
                p1, p2 = (moved.norm() / u.norm()).sqrt(), (D.norm() / z.norm()).sqrt()
                if not compensate:
                    p1 = p2 = torch.ones(())
                u, F = p1 * u + c[b, t] * p2 * z, moved / p1 + c[b, t] * D / p2
            weights = torch.outer(here.err[b, t] @ F, u)  # [preactivation, z]
            for key, columns in (
                ("weight_hh_l0", slice(0, n)),
                ("weight_ih_l0", slice(n, len(z) - 1)),
                ("bias_ih_l0", -1),
                ("bias_hh_l0", -1),
            ):
                total[parts[key].slice] += weights[:, columns].reshape(-1)
    return total


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.rows(2)
def test_update_is_the_algorithm(tiny, close, differ, name) -> None:
    here = tiny(name, time=6, units=3)
    c = signs(2, 6, 7)
    update = KFRTRL(seed=7).update_operator(here.flow())(here.err)
    close(update, forward(here, name, c), 1e-10)
    differ(update, forward(here, name, c, compensate=False))
    c[:, 3] *= -1
    differ(update, forward(here, name, c))


def test_effective_weights(close, differ) -> None:
    """Weights under Dale's law: the estimate is carried on through how they are made; its mean is exact."""
    model = create_model("rnn", input_size=2, hidden_size=5, seed=0, excitatory_fraction=0.8).double()
    generator = torch.Generator().manual_seed(1)
    x, err = (torch.randn(2, 4, n, generator=generator, dtype=torch.float64) for n in (2, 5))
    flow = linearize(model, x)
    exact = flow.J.T(flow.P.T(err))
    close(KFRTRL().expectation(flow)(err), exact, 1e-9)
    differ(KFRTRL().update_operator(flow)(err), exact)


def test_kronecker_product_at_each_step(tiny) -> None:
    here = tiny("vanilla", time=5, units=3)
    flow = here.flow()
    part = next(p for p in flow.J.domain["parameter"].parts if p.name == "weight_hh_l0")
    ranks = []
    for G in (KFRTRL().update_operator(flow).T, flow.P @ flow.J):
        dense = G.to_dense()[:, part.slice].reshape(10, 3, 3, 3)  # b t, state, target, source
        ranks.append(torch.linalg.matrix_rank(dense.flatten(1, 2)).tolist())
    assert set(ranks[0]) == {1}
    assert max(ranks[1]) == 3


def test_less_variance_than_rank_one(tiny) -> None:
    here = tiny("vanilla", time=8, units=16)
    flow, exact = here.flow(), here.exact()
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name in ("kf_rtrl", "uoro"):
        rule = create_rule(name)
        draws = [rule.sample(generator).update_operator(flow)(here.err) for _ in range(60)]
        found[name] = sum(float((one - exact).square().sum()) for one in draws)
    assert found["uoro"] > 4 * found["kf_rtrl"]


def test_adjoint_and_printed(tiny, close) -> None:
    flow = tiny("lstm", time=3).flow()
    G = KFRTRL(seed=3).update_operator(flow).T
    close(G.to_dense(), G.T.to_dense().T)
    assert repr(G) == "G_kf"
    assert repr(KFRTRL(seed=3)) == "KFRTRL(seed=3, max_bytes=2147483648)"


def test_refusals(tiny) -> None:
    with pytest.raises(
        UnsupportedError, match=r"kf_rtrl needs one set of preactivations .*got 2 sets: .*uoro is unbiased on"
    ):
        KFRTRL().update_operator(tiny("gru").flow())
    with pytest.raises(UnsupportedError, match=r"kf_rtrl needs .*; got J .*uoro"):
        KFRTRL().update_operator(tiny("wrapped").flow())
    started = tiny("vanilla", start="trainable")
    with pytest.raises(UnsupportedError, match=r"a trainable initial state \(freeze h0"):
        KFRTRL().update_operator(started.flow())
    both = KFRTRL() @ create_rule("frozen", parameters=["h0"])
    assert float(both.update_operator(started.flow())(started.err).norm()) > 0
    rule = KFRTRL()
    rule.max_bytes = 10  # less than a setting may be, for a flow that is tiny
    with pytest.raises(MemoryBudgetError, match="the matrices F of all trials and steps"):
        rule.update_operator(tiny("vanilla").flow())
    with pytest.raises(ArgumentError, match="max_bytes: expected int >= 1048576, got 0"):
        KFRTRL(max_bytes=0)


def test_part_of_a_gru_that_learns(tiny, close, differ) -> None:
    """With the input side frozen one set of preactivations is left."""
    here = tiny("gru", time=5)
    frozen = create_rule("frozen", parameters=["*_ih_l0"])
    flow = here.flow()
    draws = torch.stack([(KFRTRL(seed) @ frozen).update_operator(flow)(here.err) for seed in range(64)])
    exact = frozen.update_operator(flow)(here.err)
    error = draws.std(dim=0).norm() / 8
    assert float((draws.mean(dim=0) - exact).norm()) < 3 * float(error)
    assert float(exact.norm()) > 3 * float(error)
