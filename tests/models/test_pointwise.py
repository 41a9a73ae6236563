"""Gains taken some steps at a time, from what a roll-out left: the same as all at once, from its states."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kpframe import Site, SiteModel, Stage, linearize
from kpframe.models._sites import model as site_model
from kpframe.models._sites import pointwise
from kpframe.models._sites.pointwise import recorded, recording_steps
from kpframe.testing._toys import Elman, Gated

F64 = torch.float64


class Several(SiteModel):
    """Two stages, inputs that enter as they are (one target has weights beside), a bias alone."""

    def __init__(self) -> None:
        first = Stage(
            ("a", "g"),
            3,
            (
                Site(None, "input", "u"),
                Site("w", "input", ("u", "v"), "b"),
                Site(None, None, "c", "d"),
                Site("q", "h", ("v", "c"), transform=torch.tanh),
            ),
            combine="gates",
        )
        second = Stage("h", 3, (Site("r", "a'", "y"), Site("s", "h", "y")), combine="last")
        super().__init__(3, components=("h",), stages=(first, second))
        for name, shape in {"w": (6, 3), "b": (6,), "d": (3,), "q": (6, 3), "r": (3, 3), "s": (3, 3)}.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape)))

    def gates(self, u, h, t=None):
        return {"a": torch.tanh(u["u"] + u["v"]) * u["c"], "g": torch.sigmoid(u["v"]) * h["h"]}

    def last(self, u, h, t=None):
        return {"h": torch.tanh(u["y"]) - h["g'"]}


class Sometimes(SiteModel):
    """What it depends on, autograd sees only of rows in which some unit is active."""

    def __init__(self) -> None:
        super().__init__(1, 2, ("h",), (Site("w", "input", ("u",)), Site("q", "h", ("v",), "b")))
        self.w, self.q = nn.Parameter(torch.ones(2, 1)), nn.Parameter(torch.randn(2, 2))
        self.b = nn.Parameter(torch.randn(2))

    def combine(self, u, h, t=None):
        active = torch.relu(u["u"])
        return {"h": active * torch.sin(u["v"]) if bool((active > 0).any()) else active}


def gains_of(flow) -> dict[str, torch.Tensor]:
    stages = flow.A.gains.stages
    found = {f"{o.name} by {name}": g for s in stages for o in s.outputs for name, g in o.gains.items()}
    return found | {
        f"{o.name} on {name}": g for s in stages for o in s.outputs for name, g in o.direct.items()
    }


def problem(make, trials: int = 3, steps: int = 6):
    torch.manual_seed(0)
    model = (make() if make in (Several, Sometimes) else make(3, 4)).to(F64)
    return model, torch.randn(trials, steps, model.input_size, dtype=F64)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("make", [Elman, Gated, Several])
def test_some_steps_at_a_time_and_left_by_the_roll_out(monkeypatch, make, masked) -> None:
    model, x = problem(make)
    given = x.clone()
    mask = torch.arange(6) < torch.tensor([[6], [4], [1]]) if masked else None
    left = linearize(model, x, mask=mask)
    monkeypatch.setattr(pointwise, "ENTRIES", 1)
    stepwise = linearize(model, x, mask=mask)
    monkeypatch.setattr(site_model, "step_record", lambda *_: None)
    again = linearize(model, x, mask=mask)
    other = linearize(model, x.flip(1), mask=mask)
    assert torch.equal(x, given)  # what enters as it is was not added to
    assert torch.equal(left.trajectory.states, again.trajectory.states)
    for name, gain in gains_of(left).items():
        torch.testing.assert_close(gain, gains_of(stepwise)[name], rtol=1e-14, atol=1e-14)
        torch.testing.assert_close(gain, gains_of(again)[name], rtol=1e-12, atol=1e-14)
    apart = [(gain - gains_of(other)[name]).abs().max() for name, gain in gains_of(left).items()]
    assert max(apart) > 0.01
    twin = linearize(model, x, mask=mask, method="autograd").Phi.to_dense()
    torch.testing.assert_close(left.Phi.to_dense(), twin, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("order", [1, -1], ids=["silent first", "silent last"])
def test_what_is_absent_at_some_steps_is_zero_there(monkeypatch, order) -> None:
    model, _ = problem(Sometimes)
    x = order * torch.linspace(-1, 1, 6, dtype=F64).reshape(1, 6, 1).expand(2, 6, 1)
    monkeypatch.setattr(pointwise, "ENTRIES", 1)
    flow = linearize(model, x)
    active = (x[0, :, 0] > 0).tolist()
    gain = gains_of(flow)["h by v"]
    assert [bool(g.any()) for g in gain] == active
    assert {True, False} == set(active)
    twin = linearize(model, x, method="autograd").Phi.to_dense()
    torch.testing.assert_close(flow.Phi.to_dense(), twin, rtol=1e-11, atol=1e-13)


def test_only_the_roll_out_to_these_states_is_used() -> None:
    model, x = problem(Elman)
    with recording_steps(lambda each: each <= 4 * 8), torch.no_grad():
        trajectory = model.rollout(x)
        assert recorded(trajectory.states) is not None
        assert recorded(trajectory.states.clone()) is None
        trajectory.states.mul_(1)
        assert recorded(trajectory.states) is None  # written to since
    with recording_steps(lambda _: True):
        assert recorded(model.rollout(x).states) is None  # has a graph
    with recording_steps(lambda each: each < 4 * 8), torch.no_grad():
        assert recorded(model.rollout(x).states) is None  # would not fit
    with torch.no_grad():
        assert recorded(model.rollout(x).states) is None
