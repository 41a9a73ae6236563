"""Recurrent backpropagation, against long backpropagation through time and implicit differentiation."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kpframe_rules.equilibrium import RecurrentBackpropagation
from kpframe_rules.feedback_through_time import FeedbackThroughTime
from kpframe_rules.frozen import Frozen
from kpframe_rules.gmres import gmres
from kpframe_rules.truncated import TruncatedBPTT

from kpframe import Flow, Model, create_model, linearize, wrap
from kpframe.errors import ArgumentError, UnsupportedError
from kpframe.testing import parametrize_with_checks

F64 = torch.float64
INPUTS, UNITS, ALPHA = 3, 4, 0.4
SEEDS = st.integers(0, 2**31 - 1)
#: Models that settle on a constant input within the steps given.
MODELS = {
    "vanilla": ("rnn", {"gain": 0.5}, 60),
    "rate": ("rnn", {"gain": 0.5, "form": "rate", "alpha": ALPHA}, 160),
    "current": ("rnn", {"gain": 0.5, "form": "current", "alpha": ALPHA}, 160),
    "gru": ("gru", {}, 400),
    "lstm": ("lstm", {}, 400),
    "wrapped": ("", {}, 400),
}
names = pytest.mark.parametrize("name", list(MODELS))


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def settle(name: str, seed: int = 0, time: int | None = None) -> tuple[Model, torch.Tensor, torch.Tensor]:
    """Return a model, a constant input, and the error ``[B, H]`` of the final state."""
    kind, more, steps = MODELS[name]
    if name == "wrapped":
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = wrap(torch.nn.GRUCell(INPUTS, UNITS, dtype=F64)).double()
    else:
        pytest.importorskip(f"kpframe_{kind}")
        sizes = {"input_size": INPUTS, "hidden_size": UNITS, "seed": seed % 2**32}
        model = create_model(kind, **sizes, **more).double()
    x = normal(seed + 1, 2, 1, INPUTS).expand(-1, time or steps, -1).contiguous()
    return model, x, normal(seed + 2, 2, model.width)


def at_the_end(flow: Flow, final: torch.Tensor) -> torch.Tensor:
    err = torch.zeros(flow.P.domain.shape, dtype=F64)
    err[:, -1] = final
    return err


def flat(gradients) -> torch.Tensor:
    return torch.cat([g.reshape(-1) for g in gradients])


def implicit(model: Model, x: torch.Tensor, final: torch.Tensor) -> torch.Tensor:
    """Return the gradient by the implicit function theorem, densely, trial by trial, without kpframe."""
    theta = tuple(model.trainable().values())
    total: list[torch.Tensor] = [torch.zeros_like(p) for p in theta]
    for b in range(len(x)):
        row = x[b : b + 1, 0]
        h = torch.zeros(1, model.width, dtype=F64)
        with torch.no_grad():
            for _ in range(3000):
                before, h = h, model.step(row, h)
                if float((h - before).abs().max()) < 1e-15:  # it has settled
                    break
        h = h.requires_grad_()
        A = torch.autograd.functional.jacobian(lambda s, row=row: model.step(row, s)[0], h)[:, 0]
        back = torch.linalg.solve((torch.eye(len(A), dtype=F64) - A).T, final[b])
        found = torch.autograd.grad(
            model.step(row, h)[0] @ back, theta, allow_unused=True, materialize_grads=True
        )
        total = [t + g for t, g in zip(total, found, strict=True)]
    return flat(total)


@names
@pytest.mark.parametrize("solver", ["gmres", pytest.param("neumann", marks=pytest.mark.slow)])
@pytest.mark.rows(6)
def test_limit_of_backpropagation_and_implicit_derivative(close, differ, name, solver) -> None:
    model, x, final = settle(name)
    flow = linearize(model, x)
    err = at_the_end(flow, final)
    update = RecurrentBackpropagation(1e-8, solver).update_operator(flow)(err)
    run = model.rollout(x).states[:, -1]
    through_time = flat(torch.autograd.grad((final * run).sum(), tuple(model.trainable().values())))
    close(update, through_time, 1e-8)
    close(update, implicit(model, x, final), 1e-8)
    differ(update, flow.J.T(err), 1e-2)
    differ(update, TruncatedBPTT(2).update_operator(flow)(err), 1e-3)


@settings(max_examples=5)
@given(seed=SEEDS)
@pytest.mark.slow
def test_any_draw(close, differ, seed) -> None:
    model, x, final = settle("rate", seed)
    flow = linearize(model, x)
    err = at_the_end(flow, final)
    update = RecurrentBackpropagation(1e-6).update_operator(flow)(err)
    close(update, implicit(model, x, final), 1e-5)
    differ(update, flow.J.T(err))


@names
@pytest.mark.rows(3)
def test_P_is_the_inverse_at_the_last_step(close, differ, name) -> None:
    model, x, _ = settle(name)
    flow = linearize(model, x)
    short = linearize(model, x[:, :3], flow.trajectory.final)
    P = RecurrentBackpropagation().propagator(short).to_dense()
    H = model.width
    blocks = P.clone().reshape(2, 3, H, 2, 3, H)
    A = short.A.blocks()[:, -1]
    for b in range(2):
        close(blocks[b, 2, :, b, 2], torch.linalg.inv(torch.eye(H, dtype=F64) - A[b]), 1e-10)
        differ(blocks[b, 2, :, b, 2], torch.eye(H, dtype=F64))
        blocks[b, 2, :, b, 2] = 0
    assert not blocks.any()
    q = normal(3, 2, 2, 3, H)
    operator = RecurrentBackpropagation().propagator(short)
    close(operator.T(q).reshape(2, -1), q.reshape(2, -1) @ P, 1e-10)
    assert repr(operator) == "(I - A_T)^-1"
    assert repr(RecurrentBackpropagation().flow_operator(short)) == "P K (I - A_T)^-1*"


def test_trials_of_different_lengths(close, differ) -> None:
    model, x, final = settle("rate")
    mask = torch.arange(160) < torch.tensor([[160], [120]])
    flow = linearize(model, x, mask=mask)
    err = at_the_end(flow, final)
    err[1] = err[1].roll(-40, 0)
    update = RecurrentBackpropagation().update_operator(flow)(err)
    close(update, implicit(model, x, final), 1e-8)
    wrong = RecurrentBackpropagation().update_operator(flow)(at_the_end(flow, final))
    differ(update, wrong)


def test_composes_with_what_changes_A_and_K(close, differ) -> None:
    model, x, final = settle("rate")
    flow = linearize(model, x)
    err = at_the_end(flow, final)
    key = "weight_hh_l0"
    other = 0.3 * normal(7, UNITS, UNITS)
    feedback = FeedbackThroughTime.of_matrices({key: other})
    update = (Frozen(["weight_ih*"]) @ RecurrentBackpropagation() @ feedback).gradient(flow, err)
    assert not update["weight_ih_l0"].any()
    h = flow.trajectory.states[:, -1]
    p = {k: v.detach() for k, v in model.named_parameters()}
    u = x[:, -1] @ p["weight_ih_l0"].T + h @ p[key].T + p["bias_ih_l0"] + p["bias_hh_l0"]
    slope = ALPHA * (1 - torch.tanh(u) ** 2)
    total = torch.zeros(UNITS, dtype=F64)
    for b in range(2):
        A = (1 - ALPHA) * torch.eye(UNITS, dtype=F64) + torch.diag(slope[b]) @ other
        total += slope[b] * torch.linalg.solve((torch.eye(UNITS, dtype=F64) - A).T, final[b])
    close(update["bias_hh_l0"], total, 1e-8)
    differ(update["bias_hh_l0"], RecurrentBackpropagation().gradient(flow, err)["bias_hh_l0"])
    with pytest.raises(UnsupportedError, match="apply the rule that made it last"):
        (TruncatedBPTT(2) @ RecurrentBackpropagation()).update(flow)


def test_only_the_last_error_counts(close, differ) -> None:
    model, x, final = settle("vanilla")
    flow = linearize(model, x)
    update = RecurrentBackpropagation().update_operator(flow)
    err = at_the_end(flow, final)
    everywhere = err + normal(3, *err.shape) * (torch.arange(err.shape[1]) < err.shape[1] - 1)[:, None]
    close(update(everywhere), update(err))
    differ(flow.J.T(flow.P.T(everywhere)), flow.J.T(flow.P.T(err)))


def test_what_has_not_settled_is_refused_with_its_change() -> None:
    model, x, _ = settle("gru", time=4)
    flow = linearize(model, x)
    states = flow.trajectory.states
    change = ((states[:, -1] - states[:, -2]).norm(dim=1) / states[:, -1].norm(dim=1)).max()
    pattern = rf"settled at a fixed point, got one whose state changes by {float(change):.3g} of its norm"
    with pytest.raises(UnsupportedError, match=pattern.replace("+", r"\+")):
        RecurrentBackpropagation().update_operator(flow)
    RecurrentBackpropagation(settled=2 * float(change)).update_operator(flow)


def test_an_unstable_fixed_point(close) -> None:
    """Zero is an unstable fixed point of ``h' = tanh(2 h)``: it has a derivative, but no limit."""
    model = create_model("rnn", input_size=1, hidden_size=2, seed=0).double()
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
        model.weight_hh_l0.copy_(torch.diag(torch.tensor([2.0, 1.5])))
    flow = linearize(model, torch.zeros(1, 3, 1, dtype=F64))
    err = torch.ones(1, 3, 2, dtype=F64)
    found = RecurrentBackpropagation().gradient(flow, err)["bias_hh_l0"]
    close(found, torch.tensor([-1.0, -2.0], dtype=F64))
    with pytest.raises(ArgumentError, match=r"the Neumann series did not converge: .*may be unstable"):
        RecurrentBackpropagation(solver="neumann").gradient(flow, err)
    with torch.no_grad():
        model.weight_hh_l0.copy_(torch.eye(2))
    flow = linearize(model, torch.zeros(1, 3, 1, dtype=F64))
    with pytest.raises(ArgumentError, match="GMRES did not converge: relative residual 1 after"):
        RecurrentBackpropagation(max_iterations=50).gradient(flow, err)


def test_gmres_restarts(close) -> None:
    matrices = 0.9 * normal(0, 3, 90, 90) / 90**0.5
    b = normal(1, 3, 90)
    x = gmres(
        lambda v: (matrices @ v.unsqueeze(-1)).squeeze(-1), b, tolerance=1e-12, iterations=5000, who="test"
    )
    close(x, torch.linalg.solve(torch.eye(90, dtype=F64) - matrices, b), 1e-9)
    with pytest.raises(ArgumentError, match="test: GMRES did not converge"):
        gmres(
            lambda v: (matrices @ v.unsqueeze(-1)).squeeze(-1), b, tolerance=1e-12, iterations=20, who="test"
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"settled": 0}, "settled: expected .*> 0, got 0"),
        ({"settled": float("nan")}, "settled: expected .*> 0, got nan"),
        ({"solver": "lu"}, "solver: expected one of 'gmres', 'neumann', got 'lu'"),
        ({"tolerance": 0}, r"tolerance: expected float > 0 and < 1, got 0"),
        ({"max_iterations": 0}, "max_iterations: expected int >= 1, got 0"),
    ],
)
def test_arguments(arguments, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        RecurrentBackpropagation(**arguments)
    assert repr(RecurrentBackpropagation()) == "RecurrentBackpropagation(settled=1e-06, solver='gmres')"


class Anywhere(RecurrentBackpropagation):
    """Takes any trajectory for an equilibrium: the operators have the same properties."""

    def __init__(self) -> None:
        super().__init__(settled=float("inf"))


@parametrize_with_checks([Anywhere], kind="rule")
@pytest.mark.rows(3)
def test_conformance(check) -> None:
    check()
