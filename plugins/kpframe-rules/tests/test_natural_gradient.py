"""Natural gradient and Gauss-Newton, against dense inverses of matrices that autograd makes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kpframe_rules.curvature import loss_curvature
from kpframe_rules.frozen import Frozen
from kpframe_rules.natural_gradient import NaturalGradient
from kpframe_rules.preconditioned import LearningRates

from kpframe import DiagonalOperator, IdentityOperator, Readout, linearize
from kpframe.errors import ArgumentError, DtypeError, ShapeError, UnsupportedError
from kpframe.testing import parametrize_with_checks

F64 = torch.float64
SEEDS = st.integers(0, 2**31 - 1)


def total_jacobian(here) -> torch.Tensor:
    """Return dh/dtheta ``[B T H, M]`` by reverse passes through the whole roll-out."""
    theta = tuple(here.model.trainable().values())
    states = here.model.rollout(here.x, here.h0, here.mask).states.reshape(-1)
    rows = []
    for value in states:
        found = torch.autograd.grad(
            value, theta, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        rows.append(torch.cat([g.reshape(-1) for g in found]))
    return torch.stack(rows)


def loss_hessian(here, readout: Readout, scored: torch.Tensor, kind: str) -> torch.Tensor:
    """Return the Hessian of a task's loss by the states, by autograd twice."""
    states = here.model.rollout(here.x, here.h0, here.mask).states.detach()
    targets = readout(states).detach().argmin(-1)

    def loss(h: torch.Tensor) -> torch.Tensor:
        outputs = readout(h)[scored]
        if kind == "mse":
            return torch.nn.functional.mse_loss(outputs, torch.ones_like(outputs))
        return torch.nn.functional.cross_entropy(outputs, targets[scored])

    dense = torch.autograd.functional.hessian(loss, states)
    return dense.reshape(states.numel(), -1)


# -- C = I ---------------------------------------------------------------------------------------------------


@settings(max_examples=4)
@given(seed=SEEDS, time=st.integers(1, 4), start=st.sampled_from(["given", "trainable"]))
@pytest.mark.rows(10)
def test_flow_is_phi_over_phi_plus_lambda(problem, close, differ, name, seed, time, start) -> None:
    here = problem(name, seed, time, start)
    flow = here.flow()
    G = total_jacobian(here)
    U, s, _ = torch.linalg.svd(G, full_matrices=False)
    for damping in (0.3, 1e-4):
        rule = NaturalGradient(damping=damping)
        expected = U @ torch.diag(s**2 / (s**2 + damping)) @ U.T @ here.err.reshape(-1)
        close(rule.flow_operator(flow)(here.err).reshape(-1), expected, 1e-9)
        differ(rule.flow_operator(flow)(here.err), flow.Phi(here.err))


@pytest.mark.rows(4)
def test_little_damping_gives_the_projector_onto_the_range(problem, close, differ, name) -> None:
    here = problem(name)
    flow = here.flow()
    learn = [part.name for part in flow.J.domain["parameter"].parts if part.name.startswith("bias_hh")]
    frozen = Frozen([part.name for part in flow.J.domain["parameter"].parts if part.name not in learn])
    part = flow.J.domain["parameter"].part(learn[0])
    G = total_jacobian(here)[:, part.slice]
    assert G.shape[1] < G.shape[0]  # so that the range is not everything
    projector = G @ torch.linalg.pinv(G)
    least = float(torch.linalg.svdvals(G)[-1]) ** 2
    gaps = []
    for damping in (1e-4 * least, 1e-5 * least):
        Phi = (NaturalGradient(damping=damping) @ frozen).flow_operator(flow).to_dense()
        gaps.append(float((Phi - projector).norm()))
    assert gaps[0] == pytest.approx(1e-4, rel=2.0)
    assert gaps[0] / gaps[1] == pytest.approx(10, rel=1e-2)
    close(Phi @ Phi, Phi, 2e-5)
    differ(projector, torch.eye(len(projector), dtype=F64), 0.1)
    # with 1e-9 the distance is that of the damping itself
    close((NaturalGradient(damping=1e-9 * least) @ frozen).flow_operator(flow).to_dense(), projector, 3e-9)


@pytest.mark.rows(4)
def test_an_overdetermined_error_is_met_as_far_as_parameters_can(problem, close, differ, name) -> None:
    """``g`` is the solution of damped least squares, ``min |G g - Err|^2 + lambda |g|^2``."""
    here = problem(name)
    flow = here.flow()
    G = total_jacobian(here)
    g = NaturalGradient(damping=0.01).update_operator(flow)(here.err)
    rows = torch.cat([G, 0.1 * torch.eye(G.shape[1], dtype=F64)])
    right = torch.cat([here.err.reshape(-1), torch.zeros(G.shape[1], dtype=F64)])
    close(g, torch.linalg.lstsq(rows, right).solution, 1e-9)
    differ(g, here.backward())


# -- the curvature of a loss ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mse", "cross_entropy"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.rows(4)
def test_curvature_is_the_hessian_of_the_loss(problem, close, differ, name, kind, masked) -> None:
    here = problem(name, masked=masked)
    flow = here.flow()
    readout = Readout(here.model.width, 3, generator=2, dtype=F64)
    valid = torch.ones(2, 6, dtype=torch.bool) if here.mask is None else here.mask
    scored = valid & (torch.arange(6) % 2 == 1)
    for mask in (valid, scored):
        C = loss_curvature(flow, readout, kind, None if mask is valid else mask)
        close(C.to_dense(), loss_hessian(here, readout, mask, kind), 1e-10)
        assert C.positive
    differ(loss_curvature(flow, readout, kind).to_dense(), C.to_dense())


@pytest.mark.parametrize("kind", ["mse", "cross_entropy"])
@pytest.mark.rows(10)
def test_metric_is_the_damped_inverse(problem, close, differ, name, kind) -> None:
    here = problem(name, time=3)
    flow = here.flow()
    readout = Readout(here.model.width, 3, generator=2, dtype=F64)
    scored = torch.ones(2, 3, dtype=torch.bool)
    G, C = total_jacobian(here), loss_hessian(here, readout, scored, kind)
    rule = NaturalGradient(kind, damping=1e-3)
    expected = torch.linalg.solve(G.T @ C @ G + 1e-3 * torch.eye(G.shape[1], dtype=F64), here.backward())
    close(rule.update_operator(flow, readout)(here.err), expected, 1e-9)
    differ(rule.update_operator(flow, readout)(here.err), 1e3 * here.backward())
    given_C = NaturalGradient.of_curvature(loss_curvature(flow, readout, kind), damping=1e-3)
    close(given_C.update_operator(flow)(here.err), expected, 1e-9)
    states = NaturalGradient.of_curvature(IdentityOperator(flow.P.domain, dtype=F64), damping=1e-3)
    close(states.update_operator(flow)(here.err), NaturalGradient().update_operator(flow)(here.err))
    differ(states.update_operator(flow)(here.err), expected)


@pytest.mark.rows(2)
def test_a_gauss_newton_step_does_what_the_gradient_does_not(problem, name) -> None:
    """Along the gradient, of the best length, a loss falls less than along the Gauss-Newton step."""
    here = problem(name, time=3)
    flow = here.flow()
    states = flow.trajectory.states
    target = states + 0.01 * here.err / here.err.norm()

    def fall(direction: torch.Tensor) -> float:
        moved = flow.P(flow.J(direction))
        wanted = target - states
        best = float((moved * wanted).sum() / moved.square().sum())
        return 1 - float((wanted - best * moved).square().sum() / wanted.square().sum())

    natural = NaturalGradient(damping=1e-6).update_operator(flow)(target - states)
    plain = flow.J.T(flow.P.T(target - states))
    assert fall(natural) > fall(plain) + 0.05


# -- on another metric ---------------------------------------------------------------------------------------


@pytest.mark.rows(4)
def test_rates_are_coordinates(problem, close, differ, name) -> None:
    here = problem(name, time=4)
    flow = here.flow()
    rates = LearningRates({"*": 0.5, "weight*": 3.0})
    D = rates.parameter_operator(flow).metric.to_dense().diagonal()
    G = total_jacobian(here)
    both = NaturalGradient(damping=0.02) @ rates
    expected = torch.linalg.solve(G.T @ G + 0.02 * torch.diag(1 / D), here.backward())
    close(both.update_operator(flow)(here.err), expected, 1e-9)
    differ(
        both.update_operator(flow)(here.err), NaturalGradient(damping=0.02).update_operator(flow)(here.err)
    )


@pytest.mark.rows(4)
def test_frozen_before_and_after(problem, close, differ, name) -> None:
    here = problem(name, time=4)
    flow = here.flow()
    frozen, natural = Frozen(["weight*"]), NaturalGradient(damping=0.02)
    learns = torch.zeros(flow.J.domain.size, dtype=torch.bool)
    for part in flow.J.domain["parameter"].parts:
        learns[part.slice] = not part.name.startswith("weight")
    G, g = total_jacobian(here), here.backward()
    before = torch.zeros_like(g)
    A = G.T @ G + 0.02 * torch.eye(len(g), dtype=F64)
    before[learns] = torch.linalg.solve(A[learns][:, learns], g[learns])
    close((natural @ frozen).update_operator(flow)(here.err), before, 1e-9)
    after = torch.linalg.solve(A, torch.where(learns, g, 0)) * learns
    close((frozen @ natural).update_operator(flow)(here.err), after, 1e-9)
    differ(before, after)


# -- the solver ----------------------------------------------------------------------------------------------


def test_probes_are_solved_each_for_itself(problem, close, differ) -> None:
    here = problem("gru", time=3)
    flow = here.flow()
    M = NaturalGradient(damping=1e-3).parameter_operator(flow).metric
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(3, flow.J.domain.size, generator=generator, dtype=F64)
    q[1] *= 1e-6
    q[2] = 0
    together = M(q)
    for k in (0, 1):
        close(together[k], M(q[k]), 1e-9)
    close(1e100 * M(1e-100 * q[0]), together[0], 1e-9)
    assert not together[2].any()
    differ(together[0], q[0])


def test_what_does_not_converge_is_an_error(problem) -> None:
    here = problem("gru")
    flow = here.flow()
    rule = NaturalGradient(damping=1e-6, max_iterations=3)
    with pytest.raises(ArgumentError, match=r"did not converge: relative residual \S+ after 3 iterations"):
        rule.update_operator(flow)(here.err)
    NaturalGradient(damping=1e-6).update_operator(flow)(here.err)


def test_an_indefinite_curvature_is_refused(problem) -> None:
    here = problem("gru")
    flow = here.flow()
    minus = DiagonalOperator(-torch.ones(flow.P.domain.shape, dtype=F64), flow.P.domain)
    with pytest.raises(ArgumentError, match="curvature: expected an operator tagged positive"):
        NaturalGradient.of_curvature(minus).update_operator(flow)


def test_float32(problem, close) -> None:
    here = problem("gru")
    flow = here.flow()
    expected = NaturalGradient(damping=0.1).update_operator(flow)(here.err)
    single = linearize(here.model.float(), here.x.float(), here.h0.float())
    found = NaturalGradient(damping=0.1).update_operator(single)(here.err.float())
    assert found.dtype == torch.float32
    close(found.double(), expected, 1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"curvature": "hessian"}, "curvature: expected one of 'states', 'mse', 'cross_entropy'"),
        ({"damping": 0}, "damping: expected float > 0 .*, got 0"),
        ({"damping": float("inf")}, "damping: expected .*, got inf"),
        ({"tolerance": 1.0}, r"tolerance: expected float > 0 and < 1, got 1.0"),
        ({"max_iterations": 0}, "max_iterations: expected .*>= 1, got 0"),
    ],
)
def test_arguments(arguments, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        NaturalGradient(**arguments)


def test_refusals(problem) -> None:
    here = problem("gru")
    flow = here.flow()
    readout = Readout(here.model.width, 3, generator=2, dtype=F64)
    with pytest.raises(UnsupportedError, match="readout: expected the readout"):
        NaturalGradient("mse").update_operator(flow)
    with pytest.raises(ArgumentError, match="kind: expected 'mse' or 'cross_entropy', got 'hinge'"):
        loss_curvature(flow, readout, "hinge")
    with pytest.raises(ShapeError, match=r"scored: expected shape \[2, 6\], got \[6\]"):
        loss_curvature(flow, readout, "mse", torch.ones(6, dtype=torch.bool))
    with pytest.raises(DtypeError, match=r"scored: expected dtype torch.bool, got torch.float64"):
        loss_curvature(flow, readout, "mse", torch.ones(2, 6, dtype=F64))
    with pytest.raises(ArgumentError, match="scored: expected at least one scored step, got none"):
        loss_curvature(flow, readout, "mse", torch.zeros(2, 6, dtype=torch.bool))
    wrong = IdentityOperator(flow.J.domain, dtype=F64)
    with pytest.raises(ArgumentError, match="curvature: expected an operator on"):
        NaturalGradient.of_curvature(wrong).update_operator(flow)


def test_formulas(problem) -> None:
    here = problem("gru")
    flow = here.flow()
    readout = Readout(here.model.width, 3, generator=2, dtype=F64)
    assert repr(NaturalGradient()) == "NaturalGradient(curvature='states', damping=0.001)"
    assert repr(NaturalGradient().update_operator(flow)) == "(G* G + 0.001)^-1 J* P*"
    assert repr(NaturalGradient("mse").update_operator(flow, readout)) == "(G* C G + 0.001)^-1 J* P*"
    assert repr(NaturalGradient().flow_operator(flow)) == "P K_nat P*"


class ForLoss(NaturalGradient):
    def __init__(self) -> None:
        super().__init__("cross_entropy", damping=0.01)


class ForStates(NaturalGradient):
    def __init__(self) -> None:
        super().__init__(damping=0.1)


@parametrize_with_checks([ForStates], kind="rule")
@pytest.mark.rows(3)
def test_conformance(check) -> None:
    check()


@pytest.mark.slow
@parametrize_with_checks([ForLoss], kind="rule")
def test_conformance_for_a_loss(check) -> None:
    check()
