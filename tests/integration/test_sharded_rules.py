"""All rules on flows whose trials are sharded over ranks, beside one process."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import kpframe
from kpframe import Readout, Trials, create_model, create_rule
from kpframe.comparison import compare_update
from kpframe.errors import ArgumentError, UnsupportedError
from kpframe.gradient_flow import contributions, effective_dimension, loss_rate, taylor_test
from kpframe.readout import accuracy, error, output_error, task_loss

from ..distributed.agreement import COUNTS, assert_same, own, raised  # noqa: TID252
from ..distributed.ranks import on_ranks, own_part  # noqa: TID252

F64 = torch.float64

SETTINGS: dict[str, dict[str, Any]] = {
    "bptt": {},
    "rtrl": {},
    "frozen": {"parameters": ["weight_ih*"]},
    "truncated_bptt": {"window": 2},
    "duhamel": {"order": 2},
    "snap1": {},
    "snap_n": {"n": 1},
    "rflo": {"feedback": "random"},
    "eprop": {"feedback": "random"},
    "kernl": {"kernel": "random", "decay": 0.5},
    "gate_stop": {"paths": ["u"]},
    "h_detach": {"probability": 0.5},
    "feedback_alignment": {},
    "dfa": {"through": "broadcast"},
    "feedback_through_time": {},
    "learning_rates": {"rates": {"weight_hh*": 0.3}},
    "frozen_adam": {"second_moments": None},
    "natural_gradient": {"damping": 0.1, "curvature": "mse", "tolerance": 1e-14},
    "low_rank_projection": {"rank": 1},
    "three_factor": {"modulator": "neuron"},
    "recurrent_backpropagation": {"settled": 1e9, "tolerance": 1e-14},
    "clipped": {"max_norm": 1e-3},
    "adam_from_scratch": {"eps": 0.1},
    "artbp": {"length": 3.0},
    "uoro": {"draws": 2},
    "node_perturbation": {"directions": 2},
    "weight_perturbation": {"distribution": "normal"},
    "kf_rtrl": {},
}
#: Solved to a tolerance, not in closed form.
SOLVED = {"natural_gradient", "recurrent_backpropagation"}


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def problem(group: Any, counts: list[int], start: bool) -> tuple[Any, ...]:
    model = create_model(
        "rnn",
        input_size=2,
        hidden_size=3,
        seed=2,
        form="rate",
        alpha=0.4,
        gain=1.2,
        trainable_initial_state=start,
    ).double()
    x, e = normal(4, 5, 4, 2), normal(5, 5, 4, 2)
    mask = torch.arange(4) < torch.tensor([4, 3, 4, 2, 4])[:, None]
    plain = kpframe.linearize(model, x, mask=mask)
    ours = kpframe.linearize(
        model, own_part(group, x, counts), mask=own_part(group, mask, counts), group=group
    )
    return model, Readout(3, 2, generator=3, dtype=F64), plain, ours, x, e * mask[..., None], mask


def rules(group: Any, counts: list[int], start: bool) -> None:
    model, readout, plain, ours, _, e, _ = problem(group, counts, start)
    moments = {key: 0.5 + p.detach().square() for key, p in model.trainable().items()}
    part = own_part(group, e, counts)
    for name, settings in SETTINGS.items():
        if start and name == "kf_rtrl":
            continue
        rule = create_rule(
            name, **(settings | ({"second_moments": moments} if name == "frozen_adam" else {}))
        )
        tol = 1e-9 if name in SOLVED else 1e-12
        expected = rule.gradient(plain, readout=readout, output_err=e)
        found = rule.gradient(ours, readout=readout, output_err=part)
        scale = max(float(g.abs().max()) for g in expected.values())
        assert scale > 0
        for key, value in expected.items():
            assert float((found[key] - value).abs().max()) <= tol * scale, f"{name}: {key}"
        assert any(
            float((g - h).abs().max()) > 1e-6 * scale
            for g, h in zip(
                expected.values(),
                rule.gradient(plain, readout=readout, output_err=2 * e.flip(0)).values(),
                strict=True,
            )
        ), name
        if rule.linear:
            for kind in ("update_operator", "flow_operator"):
                assert_same(
                    getattr(rule, kind)(ours, readout), getattr(rule, kind)(plain, readout), tol=tol * 10
                )
            theirs, mine = (
                compare_update(flow, None, rule, readout, output_err=err)
                for flow, err in ((plain, e), (ours, part))
            )
            for field in ("cosine", "norm_ratio", "loss_rate", "descent"):
                assert getattr(mine, field) == pytest.approx(getattr(theirs, field), rel=1e-8, abs=1e-12), (
                    name
                )
            torch.testing.assert_close(mine.by_pair, theirs.by_pair, rtol=1e-8, atol=1e-12)


def losses(group: Any, counts: list[int]) -> None:
    _, readout, plain, ours, x, e, mask = problem(group, counts, start=False)
    space = ours.P.domain
    scored = mask.clone()
    scored[-1] = False  # a rank of one trial has no step that counts
    for targets, kind in ((normal(7, 5, 4, 2), "mse"), ((e[..., 0] > 0).long(), "cross_entropy")):
        whole = Trials.from_tensors(x, targets, mask, scored)
        mine = whole.select(list(space.shards.own))
        states, own_states = plain.trajectory.states, ours.trajectory.states
        outputs = readout(own_states).detach().requires_grad_()
        loss = task_loss(outputs, mine, kind, space)
        assert float(loss.detach()) == pytest.approx(
            float(task_loss(readout(states), whole, kind).detach()), rel=1e-13
        )
        (slope,) = torch.autograd.grad(loss, outputs)
        torch.testing.assert_close(slope, output_error(outputs, mine, kind, space))
        expected = own(space, error(readout, states, whole, kind))
        torch.testing.assert_close(
            error(readout, own_states, mine, kind, space), expected, rtol=1e-12, atol=0
        )
        if len(counts) == 3 and bool(mine.scored.any()):
            assert not torch.allclose(error(readout, own_states, mine, kind), expected)
        assert accuracy(outputs, mine, space) == pytest.approx(accuracy(readout(states), whole), rel=1e-12)


def flow_of_gradients(group: Any, counts: list[int]) -> dict[str, str]:
    _, readout, plain, ours, _, e, _ = problem(group, counts, start=True)
    part, rule = own_part(group, e, counts), create_rule("rflo")
    mine, whole = ({"readout": readout, "output_err": err} for err in (part, e))
    assert loss_rate(ours, None, rule, **mine) == pytest.approx(
        loss_rate(plain, None, rule, **whole), rel=1e-12
    )
    one, all_ = contributions(ours, None, rule, **mine), contributions(plain, None, rule, **whole)
    assert one.total == pytest.approx(all_.total, rel=1e-12)
    torch.testing.assert_close(one.time_of_update, all_.time_of_update)
    torch.testing.assert_close(one.batch_of_update, own_part(group, all_.batch_of_update, counts))
    update = plain.G.T(normal(8, 5, 4, 3))
    assert taylor_test(ours, update).slope == pytest.approx(taylor_test(plain, update).slope, rel=1e-6)
    y = plain.Phi(normal(9, 5, 4, 3))
    assert effective_dimension(own_part(group, y, counts), ours.P.domain) == pytest.approx(
        effective_dimension(y), rel=1e-12
    )
    outside = normal(10, 5, 4, 3) * (torch.arange(5) == 4)[:, None, None]  # on the last rank alone
    aligned = create_rule("feedback_alignment")
    narrow = Readout(3, 1, generator=3, dtype=F64)
    return {
        "settled": raised(
            UnsupportedError, lambda: create_rule("recurrent_backpropagation", settled=1e-9).update(ours)
        ),
        "outside": raised(
            ArgumentError, lambda: aligned.gradient(ours, own_part(group, outside, counts), narrow)
        ),
    }


@pytest.mark.parametrize("ranks", [2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("start", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_rules_are_those_of_one_process(ranks: int, start: bool) -> None:
    on_ranks(ranks, rules, COUNTS[ranks], start)


def test_losses_and_errors_count_the_steps_of_all_trials() -> None:
    on_ranks(2, losses, COUNTS[2])
    on_ranks(3, losses, COUNTS[3])


def test_figures_of_a_learning_step_are_those_of_all_trials() -> None:
    first, second = on_ranks(2, flow_of_gradients, COUNTS[2])
    assert first == second
    assert "settled at a fixed point" in first["settled"]
    assert "comes through the readout" in first["outside"]
