"""P, J, K and Phi tend to the operators of the continuous equation, at the integrator's order.

The reference integrates the variational equation and the sensitivity equation of a Hopfield network,
derivatives by hand, with SciPy's DOP853 at a relative tolerance of 1e-12; that along other inputs, from which
distances of percents are told, at 1e-6.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kpframe_ode import ODEModel
from numpy.polynomial.legendre import leggauss
from scipy.integrate import solve_ivp
from scipy.linalg import expm
from scipy.signal import cont2discrete

from kpframe import create_model, linearize

DT, TAU, GAIN, H, STEPS = 0.5, 0.8, 1.4, 3, 4

#: Integrator -> its order, and the substeps between which the slope is measured.
ORDERS = {
    "euler": (1, 64),
    "exponential_euler": (1, 64),
    "midpoint": (2, 16),
    "heun": (2, 16),
    "rk4": (4, 16),
    "rk4_38": (4, 16),
}


class Continuous:
    """The network's equation and its derivatives along the exact solution, inputs held over each ``DT``."""

    def __init__(self, model, x, h0, rtol=1e-12) -> None:
        self.W_ih, self.W, self.b = (p.detach().numpy() for p in model.parameters())
        self.x, self.h0 = x[0].numpy(), h0[0].numpy()
        self.rtol = rtol
        self.M = self.W_ih.size + self.W.size + self.b.size

    def f(self, u, x):
        return (-u + self.W @ np.tanh(GAIN * u) + self.W_ih @ x + self.b) / TAU

    def f_u(self, u):
        return (-np.eye(H) + self.W * (GAIN / np.cosh(GAIN * u) ** 2)) / TAU

    def f_theta(self, u, x):
        unit = np.eye(H)
        return np.hstack([np.kron(unit, x), np.kron(unit, np.tanh(GAIN * u)), unit]) / TAU

    def solve(self, n, u, Psi, S, dense=False):
        """Integrate u, Psi' = f_u Psi and S' = f_u S + f_theta over step n."""

        def right(t, y):
            u, Psi, S = self.split(y)
            A = self.f_u(u)
            return np.concatenate(
                [self.f(u, self.x[n]), (A @ Psi).ravel(), (A @ S + self.f_theta(u, self.x[n])).ravel()]
            )

        start = np.concatenate([u, Psi.ravel(), S.ravel()])
        tolerances = {"rtol": self.rtol, "atol": self.rtol / 100}
        found = solve_ivp(right, (0, DT), start, "DOP853", dense_output=dense, **tolerances)
        return found if dense else self.split(found.y[:, -1])

    def split(self, y):
        return y[:H], y[H : H + H * H].reshape(H, H), y[H + H * H :].reshape(H, self.M)

    def operators(self) -> dict[str, torch.Tensor]:
        """Return P, J, K and Phi of the map that the exact solution makes from step to step."""
        unit, zero = np.eye(H), np.zeros((H, self.M))
        P, J, G = np.zeros((STEPS, H, STEPS, H)), np.zeros((STEPS, H, self.M)), np.zeros((STEPS, H, self.M))
        starts, u, S = [], self.h0, zero
        for n in range(STEPS):
            starts.append(u)
            J[n] = self.solve(n, u, unit, zero)[2]
            u, _, S = self.solve(n, u, unit, S)
            G[n] = S
        for s in range(STEPS):  # Psi(t, t_s) carried on by the solver, not composed
            Psi = unit
            P[s, :, s] = unit
            for t in range(s + 1, STEPS):
                Psi = self.solve(t, starts[t], Psi, zero)[1]
                P[t, :, s] = Psi
        J, G = J.reshape(STEPS * H, -1), G.reshape(STEPS * H, -1)
        found = {"P": P.reshape(STEPS * H, -1), "J": J, "K": J @ J.T, "Phi": G @ G.T}
        return {name: torch.from_numpy(value) for name, value in found.items()}


def build(integrator="euler", dt=DT, substeps=1):
    settings = {"symmetric": False, "gain": GAIN, "tau": TAU, "coupling": 2.0, "seed": 0}
    chosen = settings | {"integrator": integrator, "dt": dt, "substeps": substeps}
    return create_model("hopfield", input_size=2, hidden_size=H, **chosen).double()


@pytest.fixture(scope="module")
def problem():
    """Inputs, an initial state, the continuous equation and its operators, and those for other inputs."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(1, STEPS, 2, generator=generator, dtype=torch.float64)
    h0 = torch.randn(1, H, generator=generator, dtype=torch.float64)
    continuous = Continuous(build(), x, h0)
    wrong = Continuous(build(), x.flip(1), h0, rtol=1e-6)
    return x, h0, continuous, continuous.operators(), wrong.operators()


def distance(flow, exact) -> dict[str, float]:
    return {
        name: float((getattr(flow, name).to_dense() - value).norm() / value.norm())
        for name, value in exact.items()
    }


@pytest.mark.parametrize("integrator", ORDERS)
@pytest.mark.rows(10)
def test_order(problem, integrator) -> None:
    x, h0, _, exact, wrong = problem
    order, substeps = ORDERS[integrator]
    flows = [linearize(build(integrator, substeps=m), x, h0) for m in (substeps, 2 * substeps)]
    coarse, fine = (distance(flow, exact) for flow in flows)
    for name in exact:
        assert np.log2(coarse[name] / fine[name]) == pytest.approx(order, abs=0.1), name
        assert fine[name] < 0.02
    # partner: the operators along another input are not what these tend to
    coarse, fine = (distance(flow, wrong) for flow in flows)
    for name in wrong:
        assert abs(np.log2(coarse[name] / fine[name])) < 0.1
        assert fine[name] > 0.02


def test_a_smaller_dt_is_as_good_as_substeps(problem, close, differ) -> None:
    """Eight steps of DT / 8 with the input repeated: the same states, P and Phi at the same times."""
    x, h0, *_ = problem
    coarse = linearize(build("heun", substeps=8), x, h0)
    fine = linearize(build("heun", dt=DT / 8), x.repeat_interleave(8, dim=1), h0)
    at = list(range(7, 8 * STEPS, 8))
    close(fine.trajectory.states[:, at], coarse.trajectory.states, 1e-13)
    P = fine.P.to_dense().reshape(8 * STEPS, H, 8 * STEPS, H)[at][:, :, at].reshape(STEPS * H, -1)
    close(P, coarse.P.to_dense(), 1e-13)
    close(fine.Phi.select(time=at).to_dense(), coarse.Phi.to_dense(), 1e-13)
    differ(fine.K.select(time=at).to_dense(), coarse.K.to_dense())


def test_K_in_integral_form(problem, close, differ) -> None:
    """The exact ``K[n, m]`` is the integral over s in step n and s' in step m of
    ``Psi(t_n+1, s) k(s, s') Psi(t_m+1, s')*``, where ``k(s, s') = f_theta(s) f_theta(s')*``."""
    _, h0, continuous, exact, _ = problem
    nodes, weights = leggauss(12)
    unit, zero, u = np.eye(H), np.zeros((H, continuous.M)), h0[0].numpy()
    moved, local = [], []  # at each node of each step: Psi(t_n+1, s) f_theta(s) ds, and f_theta(s) ds
    for n in range(STEPS):
        found = continuous.solve(n, u, unit, zero, dense=True)
        whole = continuous.split(found.y[:, -1])[1]
        for node, weight in zip(nodes, weights, strict=True):
            at, Psi, _ = continuous.split(found.sol(DT * (node + 1) / 2))
            force = continuous.f_theta(at, continuous.x[n]) * weight * DT / 2
            moved.append((n, whole @ np.linalg.inv(Psi) @ force))
            local.append((n, force))
        u = continuous.split(found.y[:, -1])[0]

    def kernel(pieces) -> torch.Tensor:
        K = np.zeros((STEPS, H, STEPS, H))
        for n, left in pieces:
            for m, right in pieces:
                K[n, :, m] += left @ right.T
        return torch.from_numpy(K.reshape(STEPS * H, -1))

    close(kernel(moved), exact["K"], 1e-9)
    differ(kernel(local), exact["K"])  # without the transport to the step's end


def test_K_of_euler_is_dt_squared_times_the_kernel(problem, close, differ) -> None:
    """``K[n, m] = dt^2 f_theta(n) f_theta(m)*`` at the states that the steps start from."""
    x, h0, continuous, *_ = problem
    for integrator, check in (("euler", lambda a, b: close(a, b, 1e-13)), ("heun", differ)):
        flow = linearize(build(integrator), x, h0)
        states = flow.trajectory.previous[0].numpy()
        J = np.vstack([continuous.f_theta(u, continuous.x[n]) for n, u in enumerate(states)])
        check(flow.K.to_dense(), torch.from_numpy(DT**2 * J @ J.T))


class Linear(ODEModel):
    """``dh/dt = L h + B x``; the linear part is all of L, or its diagonal."""

    def __init__(self, whole: bool = True, **settings) -> None:
        super().__init__(2, {"h": H}, **{"dt": DT, "integrator": "exponential_euler"} | settings)
        generator = torch.Generator().manual_seed(4)
        self.whole = whole
        self.L = torch.nn.Parameter(torch.randn(H, H, generator=generator, dtype=torch.float64))
        self.B = torch.nn.Parameter(torch.randn(H, 2, generator=generator, dtype=torch.float64))

    def velocity(self, x, h, t=None):
        return h @ self.L.T + x @ self.B.T

    def linear_part(self):
        return self.L if self.whole else self.L.diagonal()


def test_exponential_euler_is_exact_for_a_linear_velocity(draw, close, differ) -> None:
    x, h0, model = draw(1, STEPS, 2, seed=3), draw(1, H, seed=5), Linear()
    L, B = model.L.detach().numpy(), model.B.detach().numpy()
    A, Bd, *_ = cont2discrete((L, B, np.eye(H), np.zeros((H, 2))), DT, method="zoh")
    h, states = h0[0].numpy(), []
    for n in range(STEPS):
        h = A @ h + Bd @ x[0, n].numpy()
        states.append(h)
    flow = linearize(model, x, h0)
    expected = torch.from_numpy(np.stack(states))[None]
    close(flow.trajectory.states, expected, 1e-13)
    P = np.zeros((STEPS, H, STEPS, H))
    for t in range(STEPS):
        for s in range(t + 1):
            P[t, :, s] = expm(L * DT * (t - s))
    P = torch.from_numpy(P.reshape(STEPS * H, -1))
    close(flow.P.to_dense(), P, 1e-13)
    for other in (Linear(whole=False), Linear(integrator="rk4")):
        flow = linearize(other, x, h0)
        differ(flow.trajectory.states, expected, 1e-5)
        differ(flow.P.to_dense(), P, 1e-5)


@pytest.mark.parametrize("whole", [True, False])
def test_a_trained_linear_part(draw, close, differ, total_jacobian, whole) -> None:
    """L is a parameter, so J has the derivative of phi_1 by it."""
    x, model = draw(1, STEPS, 2, seed=3), Linear(whole)
    flow, G = linearize(model, x), total_jacobian(model, x)
    close(flow.Phi.to_dense(), G @ G.T, 1e-12)
    eps, d = 1e-5, draw(model.parameter_space.size, seed=8)
    moved = []
    for sign in (1, -1):
        other = Linear(whole)
        torch.nn.utils.vector_to_parameters(
            torch.nn.utils.parameters_to_vector(model.parameters()).detach() + sign * eps * d,
            other.parameters(),
        )
        moved.append(other.rollout(x).states)
    close(flow.P(flow.J(d)), (moved[0] - moved[1]) / (2 * eps), 1e-8)
    differ(flow.J(d), (moved[0] - moved[1]) / (2 * eps))
