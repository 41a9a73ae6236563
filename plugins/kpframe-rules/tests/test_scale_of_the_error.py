"""A linear rule's update is as large as its error, also where squares of the error are no float32."""

from __future__ import annotations

import pytest
import torch
from kpframe_rules import kpframe_rules
from kpframe_rules.equilibrium import relative_change
from kpframe_rules.gmres import gmres, neumann

from kpframe import Flow, Readout, create_model, create_rule, linearize

#: What the rules need that have no settings of their own by default.
NEEDED = {
    "artbp": {"length": 3},
    "clipped": {"max_norm": 1.0},
    "duhamel": {"order": 2},
    "frozen": {"parameters": ["weight_hh*"]},
    "h_detach": {"probability": 0.5},
    "low_rank_projection": {"rank": 2},
    "snap_n": {"n": 2},
    "truncated_bptt": {"window": 3},
}
#: Tested on their own below, or in need of the state of an optimiser.
APART = {"clipped", "adam_from_scratch", "frozen_adam", "recurrent_backpropagation"}
NAMES = sorted({spec.name for spec in kpframe_rules()} - APART)
POWERS = (-83, 83)


@pytest.fixture
def flow() -> Flow:
    pytest.importorskip("kpframe_rnn")
    model = create_model("rnn", input_size=3, hidden_size=6, seed=0)
    return linearize(model, torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(1)))


@pytest.fixture
def err() -> torch.Tensor:
    return torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.rows(6)
def test_the_update_scales_with_the_error(name: str, flow: Flow, err: torch.Tensor) -> None:
    readout = Readout(6, 2, generator=3)

    def update(err: torch.Tensor) -> torch.Tensor:
        return create_rule(name, **NEEDED.get(name, {})).update_operator(flow, readout)(err)

    ordinary = update(err)
    assert float(ordinary.norm()) > 1e-3
    for power in POWERS:
        assert float((update(err * 2.0**power) / 2.0**power - ordinary).norm()) <= 1e-6 * ordinary.norm()


def test_clipped_sees_the_norm_of_any_gradient(flow: Flow, err: torch.Tensor) -> None:
    rule = create_rule("clipped", max_norm=1.0)
    exact = create_rule("bptt").update_operator(flow)(err)
    clipped = rule.gradient(flow, err * 1e25)
    found = torch.cat([part.flatten() for part in clipped.values()])
    assert float((found - exact / exact.norm()).norm()) <= 1e-5
    kept = torch.cat([part.flatten() for part in rule.gradient(flow, err * 1e-25).values()])
    assert float((kept * 1e25 - exact).norm()) <= 1e-5 * float(exact.norm())


@pytest.mark.parametrize("solver", [gmres, neumann])
def test_solvers_at_every_scale(solver) -> None:
    seeded = torch.Generator().manual_seed(0)
    A = 0.5 * torch.linalg.qr(torch.randn(5, 5, generator=seeded))[0]
    b = torch.randn(3, 5, generator=seeded)
    scales = torch.tensor([1e-30, 1.0, 1e30]).unsqueeze(1)

    def solve(b: torch.Tensor) -> torch.Tensor:
        return solver(lambda v: v @ A, b, tolerance=1e-6, iterations=200, who="test")

    found, right = solve(scales * b) / scales, torch.linalg.solve(torch.eye(5) - A.mT, b.mT).mT
    assert float((found - right).norm(dim=1).max()) <= 1e-5 * float(right.norm())
    assert float((found - b).norm()) > 0.1 * float(right.norm())


def test_small_states_that_move_have_not_settled(flow: Flow) -> None:
    model = create_model("rnn", input_size=3, hidden_size=6, seed=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("bias"):
                parameter.zero_()
    x = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(1))
    last = torch.tensor([5, 5])
    small = relative_change(linearize(model, x * 1e-25).trajectory, last)
    right = relative_change(linearize(model.double(), x.double() * 1e-25).trajectory, last)
    assert float(right.min()) > 0.1
    assert torch.allclose(small.double(), right, rtol=1e-4)
