"""Padded steps from which the model would leave the finite numbers: the operators are those without them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kpframe import Model, Site, SiteModel, linearize
from kpframe.errors import NonFiniteError

F64 = torch.float64
METHODS = ["auto", "graph", "dense", "autograd"]


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


class Steep(Model):
    """A quintic force: from 1e100 a step and its derivatives are not finite."""

    def __init__(self) -> None:
        super().__init__(2, {"h": 3})
        self.v, self.w = nn.Parameter(drawn(3, 2)), nn.Parameter(drawn(3, 3, seed=1))

    def step(self, x, h, t=None):
        return x @ self.v.mT + 0.1 * h.pow(5) @ self.w.mT


class SteepSites(SiteModel):
    """The same as weight sites."""

    def __init__(self) -> None:
        sites = (Site("v", "input", ("u",)), Site("w", "h", ("u",), transform=lambda h: 0.1 * h.pow(5)))
        super().__init__(2, 3, ("h",), sites)
        self.v, self.w = nn.Parameter(drawn(3, 2)), nn.Parameter(drawn(3, 3, seed=1))

    def combine(self, u, h, t=None):
        return {"h": u["u"]}


class Dated(Steep):
    """The same, with a clock."""

    time_varying = True

    def step(self, x, h, t=None):
        return super().step(x, h) + torch.cos(t).unsqueeze(-1)


MODELS = pytest.mark.parametrize("made", [Steep, SteepSites, Dated])
LENGTHS = torch.tensor([4, 2])


def trials() -> tuple[torch.Tensor, torch.Tensor]:
    """Return two trials, the second over after two steps, at a state of about 1e100."""
    x = drawn(2, 4, 2, seed=2)
    x[1, 1] *= 1e100
    return x, torch.arange(4) < LENGTHS.unsqueeze(1)


@MODELS
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.rows(4)
def test_operators_are_those_of_each_trial_up_to_its_end(made, method) -> None:
    x, mask = trials()
    model = made()
    flow = linearize(model, x, mask=mask, method=method)
    q = drawn(2, 4, 3, seed=3) * mask.unsqueeze(-1)
    for b, length in enumerate(LENGTHS.tolist()):
        alone = linearize(model, x[b : b + 1, :length], method=method)
        for name in ("P", "K", "Phi"):
            got = getattr(flow, name)(torch.where(torch.arange(2)[:, None, None] == b, q, 0))
            expected = getattr(alone, name)(q[b : b + 1, :length])
            torch.testing.assert_close(got[b : b + 1, :length], expected, rtol=1e-12, atol=0)
            assert float(expected.abs().max()) > 0
    # over its end the state is held
    assert torch.equal(flow.P(q)[1, 1:], flow.P(q)[1, 1].expand(3, -1) + 0 * q[1, 1:])
    with pytest.raises(NonFiniteError):
        linearize(model, x, method=method)


@MODELS
def test_gradients_of_a_training_are_those_up_to_the_ends(made) -> None:
    x, mask = trials()
    model = made()
    model.rollout(x, mask=mask).states[0].sum().backward()
    got = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    model.rollout(x[:1]).states.sum().backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(got[name], p.grad, rtol=1e-12, atol=0)
        assert float(p.grad.abs().max()) > 0


@MODELS
def test_a_step_that_all_trials_have_behind_them_holds_their_states(made) -> None:
    x, _ = trials()
    mask = (torch.arange(4) < 2).expand(2, -1)
    flow = linearize(made(), x, mask=mask)
    alone = linearize(made(), x[:, :2])
    q = drawn(2, 2, 3, seed=4)
    padded = torch.cat([q, torch.zeros_like(q)], dim=1)
    torch.testing.assert_close(flow.Phi(padded)[:, :2], alone.Phi(q), rtol=1e-12, atol=0)
    assert torch.equal(flow.trajectory.states[:, 3], flow.trajectory.states[:, 1])
