"""Node and weight perturbation against finite differences of roll-outs that are perturbed."""

from __future__ import annotations

import pytest
import torch
from kpframe_rules.perturbation import NodePerturbation, WeightPerturbation

from kpframe import Space, create_rule
from kpframe.errors import ArgumentError, UnsupportedError
from kpframe.operators import trial_generators

MODELS = ("vanilla", "rate", "current", "gru", "lstm", "wrapped")
SIGMA = 1e-5


def draw(shape, seed: int, distribution: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([one(shape[1:], generator, distribution) for _ in range(shape[0])])


def by_trial(shape, seed: int, distribution: str) -> torch.Tensor:
    """Return directions ``[n, B, T, H]``, each trial's from a generator of its own."""
    generator = torch.Generator().manual_seed(seed)
    space = Space.of(batch=shape[1])
    return torch.stack(
        [
            torch.stack([one(shape[2:], own, distribution) for own in trial_generators(space, generator)])
            for _ in range(shape[0])
        ]
    )


def one(shape, generator: torch.Generator, distribution: str) -> torch.Tensor:
    if distribution == "normal":
        return torch.randn(tuple(shape), generator=generator, dtype=torch.float64)
    return 2.0 * torch.randint(2, tuple(shape), generator=generator).double() - 1


def by_weights(here, xi: torch.Tensor) -> torch.Tensor:
    """Return ``xi (L(theta + sigma xi) - L(theta - sigma xi)) / 2 sigma``."""
    theta = list(here.model.trainable().values())
    parts = [d.reshape(p.shape) for d, p in zip(xi.split([p.numel() for p in theta]), theta, strict=True)]
    losses = []
    with torch.no_grad():
        for move in (SIGMA, -2 * SIGMA, SIGMA):  # there, to the other side, and back
            for own, part in zip(theta, parts, strict=True):
                own.add_(move * part)
            losses.append(float(here.loss().sum()))
    return xi * (losses[0] - losses[1]) / (2 * SIGMA)


def by_nodes(here, xi: torch.Tensor) -> torch.Tensor:
    """Return the eligibilities of the perturbed states, times how each trial's loss changed."""
    valid = xi if here.mask is None else xi * here.mask.unsqueeze(-1)
    with torch.no_grad():
        slope = (here.moved(SIGMA * valid) - here.moved(-SIGMA * valid)) / (2 * SIGMA)
    h, eligible = here.start(), torch.zeros((), dtype=torch.float64)
    for t in range(here.x.shape[1]):
        h = here.advance(t, h if t == 0 else h.detach())
        eligible = eligible + (slope * (valid[:, t] * h).sum(dim=1)).sum()
    return here.gradient(eligible)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("distribution", ["signs", "normal"])
@pytest.mark.parametrize("start", ["given", "trainable"])
@pytest.mark.rows(6)
def test_weights(tiny, close, differ, model, distribution, start) -> None:
    here = tiny(model, time=5, units=3, start=start, masked=True)
    xi = draw((1, 1, len(here.exact())), 3, distribution)[0, 0]
    update = WeightPerturbation(1, distribution, seed=3).update_operator(here.flow())(here.err)
    close(update, by_weights(here, xi), 1e-6)
    close(update, xi * (xi @ here.exact()), 1e-10)
    differ(update, here.exact())


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("distribution", ["signs", "normal"])
@pytest.mark.parametrize("start", ["given", "trainable"])
@pytest.mark.rows(6)
def test_nodes(tiny, close, differ, model, distribution, start) -> None:
    here = tiny(model, time=5, units=3, start=start, masked=True)
    xi = by_trial((1, *here.err.shape), 3, distribution)[0]
    update = NodePerturbation(1, distribution, seed=3).update_operator(here.flow())(here.err)
    close(update, by_nodes(here, xi), 1e-6)
    differ(update, by_nodes(here, by_trial((1, *here.err.shape), 4, distribution)[0]))
    differ(update, here.exact())


def test_directions_are_averaged(tiny, close, differ) -> None:
    here = tiny("gru", time=5, units=3)
    flow = here.flow()
    xi = by_trial((4, *here.err.shape), 1, "signs")
    nodes = NodePerturbation(4, seed=1).update_operator(flow)(here.err)
    close(nodes, sum(by_nodes(here, one) for one in xi) / 4, 1e-6)
    differ(nodes, by_nodes(here, xi[0]))
    xi = draw((4, 1, len(here.exact())), 1, "signs")[:, 0]
    weights = WeightPerturbation(4, seed=1).update_operator(flow)(here.err)
    close(weights, sum(one * (one @ here.exact()) for one in xi) / 4, 1e-10)


@pytest.mark.parametrize(("distribution", "more"), [("signs", -1), ("normal", 1)])
@pytest.mark.rows(4)
def test_variance_of_weight_perturbation(tiny, distribution, more) -> None:
    """``E|g - G* Err|^2 = (M + more) |G* Err|^2``, over the number of directions."""
    here = tiny("vanilla", 2, units=4, inputs=3)
    flow, exact = here.flow(), here.exact()
    generator = torch.Generator().manual_seed(0)
    rule = WeightPerturbation(8, distribution)
    draws = [rule.sample(generator).update_operator(flow)(here.err) for _ in range(800)]
    found = sum(float((one - exact).square().sum()) for one in draws) / 800 / float(exact.square().sum())
    assert found == pytest.approx((len(exact) + more) / 8, rel=0.06)


def test_flow_of_weight_perturbation_descends(tiny) -> None:
    here = tiny("vanilla", units=4)
    Phi = WeightPerturbation().flow_operator(here.flow())
    assert Phi.positive
    values = torch.linalg.eigvalsh(Phi.to_dense())
    assert float(values[-1]) > 0.1
    assert float(values[:-1].abs().max()) < 1e-12 * float(values[-1])  # rank one
    other = NodePerturbation().flow_operator(here.flow())
    assert not other.self_adjoint
    symmetric = torch.linalg.eigvalsh(other.symmetric_part.to_dense())
    assert float(symmetric[0]) < -1e-3 * float(symmetric[-1])


def test_trials_do_not_see_each_others_perturbation(tiny, close, differ) -> None:
    here = tiny("vanilla", time=4, units=3)
    err = torch.cat([here.err[:1], torch.zeros_like(here.err[:1])])
    update = NodePerturbation(seed=5).update_operator(here.flow())(err)
    other = tiny("vanilla", time=4, units=3)
    other.x[1] += 1.0  # the trial without an error
    close(update, NodePerturbation(seed=5).update_operator(other.flow())(err))
    differ(update, NodePerturbation(seed=5).update_operator(other.flow())(other.err))


def test_printed(tiny) -> None:
    flow = tiny("vanilla").flow()
    assert repr(NodePerturbation()) == "NodePerturbation(directions=1, distribution='signs', seed=0)"
    assert repr(NodePerturbation().update_operator(flow)) == "J* xi xi* P*"
    assert repr(WeightPerturbation().update_operator(flow)) == "xi xi* J* P*"
    assert repr(WeightPerturbation().flow_operator(flow)) == "P K_xi P*"


def test_refusals(tiny) -> None:
    flow = tiny("vanilla").flow()
    for rule in (NodePerturbation, WeightPerturbation):
        with pytest.raises(UnsupportedError, match="a continuum of outcomes"):
            rule(distribution="normal").expectation(flow)
        with pytest.raises(ArgumentError, match="distribution: expected one of 'signs', 'normal', got"):
            rule(distribution="uniform")
        with pytest.raises(ArgumentError, match="directions: expected int >= 1, got 0"):
            rule(0)
    assert create_rule("weight_perturbation", directions=3).directions == 3
