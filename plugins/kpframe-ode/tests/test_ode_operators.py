"""A, J, P, K and Phi of every form: structured, by autograd, and by ``torch.func`` one step at a time."""

from __future__ import annotations

import copy

import pytest
import torch
from kpframe_ode import INTEGRATORS, ODEModel, SiteODEModel
from kpframe_ode.integrators import Scheme

from kpframe import Site, Stage, linearize
from kpframe.errors import ArgumentError, ShapeError

F64 = torch.float64
FORMS = {
    "neural_ode": ("neural_ode", {"mlp_width": 5}),
    "deep, leaky": ("neural_ode", {"mlp_width": 3, "mlp_depth": 3, "leak": 0.5, "activation": "softplus"}),
    "hopfield": ("hopfield", {"gain": 1.5, "tau": 0.8}),
    "asymmetric": ("hopfield", {"symmetric": False, "nonlinearity": "sigmoid", "bias": False}),
    "soft_spin": ("soft_spin", {}),
    "hot": ("soft_spin", {"temperature": 0.5}),
    "hot, no bias": ("soft_spin", {"temperature": 0.5, "bias": False}),
}


@pytest.fixture(params=FORMS)
def form(request, make):
    name, settings = FORMS[request.param]
    return lambda **more: make(name, dt=0.2, **settings | more)


@pytest.mark.parametrize("integrator", ["euler", "exponential_euler", "rk4_38"])
@pytest.mark.rows(6)
def test_structured_is_autograd_is_total(form, draw, check_operators, integrator) -> None:
    model = form(integrator=integrator, substeps=2)
    check_operators(model, draw(2, 4, model.input_size, seed=11), draw(2, 3, seed=5))


@pytest.mark.parametrize("integrator", ["euler", "rk4"])
@pytest.mark.rows(6)
def test_with_a_mask_and_a_trained_start(form, draw, mask, check_operators, integrator) -> None:
    model = form(integrator=integrator, trainable_initial_state=True)
    check_operators(model, draw(2, 4, model.input_size, seed=11), None, mask)


@pytest.mark.parametrize("integrator", ["euler", "exponential_euler", "rk4_38"])
@pytest.mark.rows(4)
def test_step_jacobians(form, draw, close, differ, integrator) -> None:
    model = form(integrator=integrator)
    x = draw(2, 4, model.input_size, seed=11)
    flow = linearize(model, x, draw(2, 3, seed=5))
    theta = {name: p.detach() for name, p in model.named_parameters()}
    A, J = [], []
    run = flow.trajectory
    for row, h in zip(run.inputs.flatten(0, 1), run.previous.flatten(0, 1), strict=True):

        def step(theta, h, row=row):
            return torch.func.functional_call(model, theta, (row[None], h[None]))[0]

        by_parameter, by_state = torch.func.jacrev(step, argnums=(0, 1))(theta, h)
        A.append(by_state)
        J.append(torch.cat([by_parameter[name].reshape(3, -1) for name in theta], dim=1))
    close(flow.A.blocks(), torch.stack(A).reshape(2, 4, 3, 3), 1e-12)
    close(flow.J.to_dense(), torch.cat(J), 1e-12)
    differ(linearize(model, x).J.to_dense(), torch.cat(J))
    differ(flow.A.blocks() - torch.eye(3, dtype=F64), torch.stack(A).reshape(2, 4, 3, 3))


def without_weights(u, h, t=None):
    return {"p": torch.sin(h["v"]) - 0.1 * h["p"]}


class Oscillators(SiteODEModel):
    """FitzHugh-Nagumo units, coupled and forced in time; what reads v; a slow layer of another width."""

    time_varying = True

    def __init__(self, **settings) -> None:
        fast = Stage(
            ("v", "w", "spike"),
            3,
            (Site("weight_ih", "input", "I", bias="bias"), Site("weight_vv", "v", "I", transform=torch.tanh)),
            combine="fast",
        )
        slow = Stage("a", 2, (Site("weight_av", "spike'", "drive"), Site("weight_aa", "a", "drive")), "slow")
        free = Stage("p", 3, (), without_weights)
        components = ("v", "w", "a", "p")
        super().__init__(2, components=components, stages=(fast, free, slow), **{"dt": 0.3} | settings)
        shapes = {"weight_ih": (3, 2), "weight_vv": (3, 3), "weight_av": (2, 3), "weight_aa": (2, 2)}
        generator = torch.Generator().manual_seed(1)
        for name, shape in {**shapes, "bias": (3,)}.items():
            value = torch.randn(shape, generator=generator, dtype=F64)
            setattr(self, name, torch.nn.Parameter(value))

    def fast(self, u, h, t=None):
        v, w = h["v"], h["w"]
        force = torch.sin(3 * t).unsqueeze(-1)
        return {
            "v": v - v**3 / 3 - w + u["I"],
            "w": 0.3 * (v + 0.7 - 0.8 * w) + force,
            "spike": torch.relu(v),
        }

    def slow(self, u, h, t=None):
        return {"a": torch.tanh(u["drive"]) - 0.5 * h["a"]}

    def linear_part(self, u, h, t=None):
        return {"v": 0.0, "w": -0.24, "p": -0.1, "a": -0.5}


class Written(ODEModel):
    """The same equations in one function of x, h and t."""

    time_varying = True

    def __init__(self, twin, **settings) -> None:
        super().__init__(2, {"v": 3, "w": 3, "a": 2, "p": 3}, **{"dt": 0.3} | settings)
        for name, value in twin.named_parameters():
            setattr(self, name, torch.nn.Parameter(value.detach().clone()))

    def velocity(self, x, h, t=None):
        v, w, a, p = h.split([3, 3, 2, 3], dim=-1)
        v_dot = v - v**3 / 3 - w + x @ self.weight_ih.T + torch.tanh(v) @ self.weight_vv.T + self.bias
        w_dot = 0.3 * (v + 0.7 - 0.8 * w) + torch.sin(3 * t).unsqueeze(-1)
        a_dot = torch.tanh(torch.relu(v) @ self.weight_av.T + a @ self.weight_aa.T) - 0.5 * a
        return torch.cat([v_dot, w_dot, a_dot, torch.sin(v) - 0.1 * p], dim=-1)

    def linear_part(self):
        return torch.tensor([0.0] * 3 + [-0.24] * 3 + [-0.5] * 2 + [-0.1] * 3, dtype=F64)


@pytest.mark.parametrize("substeps", [1, 2])
@pytest.mark.parametrize("integrator", INTEGRATORS)
@pytest.mark.rows(10)
def test_stages_are_the_function(draw, close, differ, check_operators, x, integrator, substeps) -> None:
    settings = {"integrator": integrator, "substeps": substeps}
    model, h0 = Oscillators(**settings), draw(2, 11, seed=5)
    check_operators(model, x, h0)
    flow, twin = linearize(model, x, h0), linearize(Written(model, **settings), x, h0)
    close(flow.trajectory.states, twin.trajectory.states, 1e-13)
    for name in ("A", "J", "P", "K", "Phi"):
        close(getattr(flow, name).to_dense(), getattr(twin, name).to_dense(), 1e-12)
    other = linearize(Written(model, integrator=integrator, dt=0.31), x, h0)
    differ(flow.trajectory.states, other.trajectory.states, 1e-3)
    differ(flow.K.to_dense(), other.K.to_dense())


def test_a_rule_replaces_weights_at_every_evaluation(draw, close, differ, x) -> None:
    """A with B for V is that of a model with B at the gains of V: here both stages of Heun's method."""
    model, h0 = Oscillators(integrator="heun"), draw(2, 11, seed=5)
    B = draw(3, 3, seed=9)
    flow = linearize(model, x, h0)
    v = h0[:, :3]
    first = flow.A.replace({"weight_vv": B}).blocks()[:, 0]

    def slopes(v, w, point):  # df/dv and df/dw of one evaluation, B in place of V in the derivative
        return torch.diag_embed(1 - v**2) + B * (1 - torch.tanh(point) ** 2).unsqueeze(-2)

    with torch.no_grad():
        k1 = Written(model).velocity(x[:, 0], h0, torch.zeros(2, dtype=F64))
    point = (h0 + 0.3 * k1)[:, :3]
    unit = torch.eye(3, dtype=F64).expand(2, 3, 3)
    D1 = torch.cat(
        [torch.cat([slopes(v, None, v), -unit], -1), torch.cat([0.3 * unit, -0.24 * unit], -1)], -2
    )
    D2 = torch.cat(
        [torch.cat([slopes(point, None, point), -unit], -1), torch.cat([0.3 * unit, -0.24 * unit], -1)], -2
    )
    six = torch.eye(6, dtype=F64)
    expected = six + 0.15 * (D1 + D2 @ (six + 0.3 * D1))
    close(first[:, :6, :6], expected, 1e-12)
    differ(flow.A.blocks()[:, 0, :6, :6], expected)


class Deepening(SiteODEModel):
    """Another matrix in each step, the same one at each evaluation within it."""

    time_varying = True

    def __init__(self) -> None:
        sites = (Site("w_in", "input", "u"), Site("w", "h", "u", bias="b", per_step=True))
        super().__init__(2, 3, ("h",), sites, dt=0.5, integrator="midpoint")
        generator = torch.Generator().manual_seed(1)
        for name, shape in {"w_in": (3, 2), "w": (4, 3, 3), "b": (4, 3)}.items():
            value = torch.randn(shape, generator=generator, dtype=F64)
            setattr(self, name, torch.nn.Parameter(value))
        self.steps = 4

    def velocity(self, u, h, t=None):
        return {"h": torch.tanh(u["u"]) - h["h"]}


def test_weights_of_each_step(draw, close, differ, check_operators, x) -> None:
    model, h0 = Deepening(), draw(2, 3, seed=5)
    check_operators(model, x, h0)
    for shift, check in ((0, lambda a, b: close(a, b, 1e-14)), (1, differ)):
        h, states = h0, []
        for n in range(4):
            k = (n + shift) % 4

            def f(h, n=n, k=k):
                return torch.tanh(h @ model.w[k].T + model.b[k] + x[:, n] @ model.w_in.T) - h

            h = h + 0.5 * f(h + 0.25 * f(h))
            states.append(h)
        check(model.rollout(x, h0).states, torch.stack(states, dim=1))


def test_a_copy_integrates_itself() -> None:
    """A flow keeps the model as it was: nothing in the copy leads back to the original."""
    model = Oscillators()
    twin = copy.deepcopy(model)
    twin.scheme = Scheme.of("rk4", 0.6)
    x = torch.ones(1, 2, 2, dtype=F64)
    assert torch.equal(model.rollout(x).states, Oscillators().rollout(x).states)
    assert torch.equal(twin.rollout(x).states, Oscillators(dt=0.6).rollout(x).states)
    assert not torch.equal(twin.rollout(x).states, model.rollout(x).states)


def test_the_integrator_is_on_record() -> None:
    model = Oscillators(integrator="rk4_38", substeps=2)
    assert (model.integrator, model.dt, model.substeps) == ("rk4_38", 0.3, 2)
    assert "integrator='rk4_38', dt=0.3, substeps=2" in repr(model)
    assert "integrator='euler', dt=0.1, substeps=1" in repr(Decay(integrator="euler"))


class Decay(ODEModel):
    def __init__(self, out=lambda h: -h, linear=None, **settings) -> None:
        super().__init__(1, {"h": 2}, **{"dt": 0.1} | settings)
        self.out, self.linear = out, linear

    def velocity(self, x, h, t=None):
        return self.out(h)

    def linear_part(self):
        return self.linear


class NoLinearPart(ODEModel):
    def velocity(self, x, h, t=None):
        return -h


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Decay(dt=-1.0), "dt: expected a finite number > 0, got -1.0"),
        (lambda: Decay(integrator="leapfrog"), "integrator: expected one of euler, .* got 'leapfrog'"),
        (
            lambda: NoLinearPart(1, {"h": 2}, 0.1, "exponential_euler"),
            "integrator: expected one that takes no linear part, got 'exponential_euler', which needs "
            "NoLinearPart.linear_part",
        ),
        (
            lambda: SiteODEModel(1, 2, ("h",), [Site("w", "h", "u")], dt=0.1, integrator="exponential_euler"),
            "integrator: expected one that takes no linear part, .* needs SiteODEModel.linear_part",
        ),
        (lambda: SiteODEModel(1, components=("h",), dt=0.1), "units: expected a number of units, or stages"),
        (
            lambda: SiteODEModel(1, 2, ("h",), dt=0.1, stages=(Stage("h", 2, (Site("w", "h", "u"),)),)),
            "stages: expected no units and no sites beside stages",
        ),
        (
            lambda: SiteODEModel(1, 2, ("h",), [Site("w", "g", "u")], dt=0.1),
            "site 'w': source: expected one of 'input', 'h', got 'g'",
        ),
        (
            lambda: SiteODEModel(
                1,
                components=("h",),
                dt=0.1,
                stages=(Stage("h", 2, (Site("w", "h", "u"),)), Stage("z", 2, (Site("v", "h'", "y"),))),
            ),
            "site 'v': source: expected an output that is not a component's derivative, got \"h'\"",
        ),
    ],
)
def test_refused(build, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        build()


def test_what_a_velocity_returns_is_checked() -> None:
    x = torch.zeros(3, 1, 1)
    assert Decay(lambda h: -h).rollout(x).states.shape == (3, 1, 2)
    for out, got in ((lambda h: h[:, :1], r"shape \[3, 1\]"), (lambda h: None, "NoneType")):
        with pytest.raises(ShapeError, match=rf"Decay.velocity: expected dh/dt of shape \[3, 2\], got {got}"):
            Decay(out).rollout(x)
    with pytest.raises(ShapeError, match=r"Decay.linear_part: expected shape \[2\] or \[2, 2\], got \[3\]"):
        Decay(linear=torch.ones(3), integrator="exponential_euler").rollout(x)

    class Forgetful(Oscillators):
        def slow(self, u, h, t=None):
            return {"b": u["drive"]}

    with pytest.raises(ArgumentError, match=r"Forgetful.slow: expected outputs \['a'\], got \['b'\]"):
        Forgetful().rollout(torch.zeros(1, 1, 2, dtype=F64))
