"""Every way to declare weight sites, against automatic differentiation of the whole roll-out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kpframe import Model, Site, SiteModel, Stage, linearize
from kpframe.errors import ArgumentError, ShapeError

F64 = torch.float64


def parameter(*shape: int, seed: int, scale: float = 0.6) -> nn.Parameter:
    generator = torch.Generator().manual_seed(seed)
    return nn.Parameter(scale * torch.randn(shape, generator=generator, dtype=F64))


class Projected(SiteModel):
    """An LSTM whose cell of five units is read out to a state of two, used by the next step."""

    def __init__(self) -> None:
        gates = ("i", "f", "g", "o")
        cell = Stage(
            ("c", "m"), 5, (Site("w_ih", "input", gates, "b"), Site("w_hh", "h", gates)), combine="cell"
        )
        out = Stage(("h",), 2, (Site("w_hr", "m'", ("h_out",)),), combine="project")
        super().__init__(3, components=("h", "c"), stages=(cell, out))
        self.w_ih, self.w_hh = parameter(20, 3, seed=1), parameter(20, 2, seed=2)
        self.w_hr, self.b = parameter(2, 5, seed=3), parameter(20, seed=4)

    def cell(self, u, h, t=None):
        i, f, o = (torch.sigmoid(u[gate]) for gate in ("i", "f", "o"))
        c = f * h["c"] + i * torch.tanh(u["g"])
        return {"c": c, "m": o * torch.tanh(c)}

    def project(self, u, h, t=None):
        return {"h": u["h_out"]}


class Stacked(SiteModel):
    """Two tanh layers of four and three units; the second reads the new state of the first."""

    def __init__(self, **kwargs) -> None:
        first = Stage(
            ("h0_",), 4, (Site("w_i0", "input", "u0", "b0"), Site("w_h0", "h0_", "u0")), combine="first"
        )
        second = Stage(
            ("h1_",),
            3,
            (Site("w_i1", "h0_'", "u1", "b1"), Site("w_h1", "h1_", "u1", transform=torch.tanh)),
            combine="second",
        )
        super().__init__(3, components=("h0_", "h1_"), stages=(first, second), **kwargs)
        self.w_i0, self.w_h0, self.b0 = parameter(4, 3, seed=1), parameter(4, 4, seed=2), parameter(4, seed=3)
        self.w_i1, self.w_h1, self.b1 = parameter(3, 4, seed=4), parameter(3, 3, seed=5), parameter(3, seed=6)
        self.double()

    def first(self, u, h, t=None):
        return {"h0_": torch.tanh(u["u0"])}

    def second(self, u, h, t=None):
        return {"h1_": 0.3 * h["h1_"] + torch.tanh(u["u1"])}


class ResetBefore(SiteModel):
    """The GRU that resets the state before the product: the reset state is what a later site reads."""

    def __init__(self) -> None:
        gates = Stage(
            ("z", "rh"),
            4,
            (Site("w_gates", "input", ("r", "z_in"), "b", parameters="w_i"), Site("w_h", "h", ("r", "z_in"))),
            combine="gates",
        )
        new = Stage(
            "h", 4, (Site("w_new", "input", "n", parameters="w_i"), Site("w_n", "rh'", "n")), combine="new"
        )
        super().__init__(3, components=("h",), stages=(gates, new))
        self.w_i, self.w_h = parameter(12, 3, seed=1), parameter(8, 4, seed=2)
        self.w_n, self.b = parameter(4, 4, seed=3), parameter(8, seed=4)

    def site_weight(self, name):
        if name == "w_gates":
            return self.w_i[:8]
        return self.w_i[8:] if name == "w_new" else super().site_weight(name)

    def gates(self, u, h, t=None):
        return {"z": torch.sigmoid(u["z_in"]), "rh": torch.sigmoid(u["r"]) * h["h"]}

    def new(self, u, h, t=None):
        return {"h": (1 - h["z'"]) * torch.tanh(u["n"]) + h["z'"] * h["h"]}


class Constrained(SiteModel):
    """A masked, sign-constrained recurrent matrix, and a low-rank one beside it; one factor is fixed."""

    def __init__(self) -> None:
        sites = (
            Site("w_i", "input", "u", "b"),
            Site("dale", "h", "u", parameters="raw"),
            Site("low_rank", "h", "v", parameters=("m", "n")),
        )
        super().__init__(3, 4, ("h",), sites)
        self.w_i, self.b, self.raw = parameter(4, 3, seed=1), parameter(4, seed=2), parameter(4, 4, seed=3)
        self.m, self.n = parameter(4, 1, seed=4), parameter(4, 1, seed=5)
        self.n.requires_grad_(False)
        self.register_buffer("mask", (torch.arange(16).reshape(4, 4) % 3 > 0).to(F64))
        self.register_buffer("sign", torch.tensor([1.0, 1.0, 1.0, -1.0], dtype=F64))

    def site_weight(self, name):
        if name == "dale":
            return nn.functional.softplus(self.raw) * self.sign * self.mask
        return self.m @ self.n.T if name == "low_rank" else super().site_weight(name)

    def combine(self, u, h, t=None):
        return {"h": 0.4 * h["h"] + torch.tanh(u["u"]) * torch.sigmoid(u["v"])}


class Parts(SiteModel):
    """Sites that read slices, currents without weights, constants that learn, a fixed matrix, a tie."""

    def __init__(self) -> None:
        sites = (
            Site(None, "input", "current", columns=slice(1, 5)),
            Site("w_x", "input", "u", columns=slice(0, 1)),
            Site("w_e", "s", "e", columns=slice(0, 3), transform=torch.tanh),
            Site("w_i", "s", "i", columns=slice(3, 4)),
            Site(None, None, ("g", "k"), bias="conductance"),
            Site("fixed", "v", "u"),
            Site("w_x", "v", "e", columns=slice(2, 3)),
        )
        super().__init__(5, 4, ("v", "s"), sites)
        self.w_x, self.w_e, self.w_i = (
            parameter(4, 1, seed=1),
            parameter(4, 3, seed=2),
            parameter(4, 1, seed=3),
        )
        self.conductance = parameter(8, seed=4)
        self.register_buffer("fixed", parameter(4, 4, seed=5).detach())

    def combine(self, u, h, t=None):
        leak = torch.sigmoid(u["g"])
        pull = u["e"] * (1 - h["v"]) + u["i"] * (-0.5 - h["v"])
        v = leak * h["v"] + 0.2 * torch.tanh(u["current"] + pull + u["u"])
        return {"v": v, "s": 0.5 * h["s"] + torch.sigmoid(u["k"] * h["v"])}


class Deep(SiteModel):
    """Depth as time: another matrix at each of three steps, the input at the first one only."""

    time_varying = True

    def __init__(self) -> None:
        sites = (Site("w_in", "input", "x"), Site("w", "h", ("u",), "b", per_step=True))
        super().__init__(2, 4, ("h",), sites)
        self.w_in, self.w, self.b = (
            parameter(4, 2, seed=1),
            parameter(5, 4, 4, seed=2),
            parameter(5, 4, seed=3),
        )
        self.steps = 5

    def combine(self, u, h, t=None):
        first = (t == 0).to(F64).unsqueeze(-1)
        return {"h": h["h"] + torch.tanh(u["u"] + first * u["x"])}


FORMS = {
    "projected": Projected,
    "stacked": Stacked,
    "stacked with a trainable start": lambda: Stacked(trainable_initial_state=True),
    "reset before": ResetBefore,
    "constrained": Constrained,
    "parts": Parts,
    "deep": Deep,
}


@pytest.fixture(params=FORMS)
def model(request) -> Model:
    made = FORMS[request.param]()
    if made.trainable_initial_state:
        with torch.no_grad():
            made.h0.copy_(torch.linspace(-1, 1, made.width))
    return made


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def close(actual: torch.Tensor, expected: torch.Tensor, rtol: float) -> None:
    assert actual.shape == expected.shape
    assert float(expected.norm()) > 0
    assert float((actual - expected).norm()) <= rtol * float(expected.norm())


def differ(one: torch.Tensor, other: torch.Tensor) -> None:
    assert float((one - other).norm()) > 1e-2 * float(other.norm())


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("given", [False, True], ids=["own start", "given start"])
@pytest.mark.rows(14)
def test_structured_is_autograd_is_total(model, masked, given) -> None:
    x = draw(3, 5, model.input_size, seed=7)
    h0 = draw(3, model.width, seed=8) if given else None
    mask = torch.arange(5) < torch.tensor([[5], [3], [1]]) if masked else None
    flow = linearize(model, x, h0, mask)
    twin = linearize(model, x, h0, mask, method="autograd")
    assert (flow.P.method, flow.K.method) == ("sites", "sites")
    for name in ("A", "J", "P", "K", "Phi"):
        ours, theirs = getattr(flow, name), getattr(twin, name)
        close(ours.to_dense(), theirs.to_dense(), 1e-12)
        close(ours.T.to_dense(), theirs.to_dense().T, 1e-12)
    close(flow.A.diagonal().values, twin.A.diagonal().values, 1e-12)
    states = model.rollout(x, h0, mask).states
    loop = h0 if given else model.initial_state(3).to(F64)
    for t in range(5):
        new = model.step(x[:, t] if mask is None else x[:, t] * mask[:, t, None], loop, torch.full((3,), t))
        loop = new if mask is None else torch.where(mask[:, t, None], new, loop)
        close(states[:, t].detach(), loop.detach(), 1e-14)
    theta = tuple(model.trainable().values())
    basis = torch.eye(states.numel(), dtype=F64).reshape(-1, *states.shape)
    rows = torch.autograd.grad(states, theta, basis, is_grads_batched=True, allow_unused=True)
    blocks = [
        states.new_zeros(len(basis), p.numel()) if g is None else g.reshape(len(basis), -1)
        for g, p in zip(rows, theta, strict=True)
    ]
    G = torch.cat(blocks, dim=1)
    close(flow.Phi.to_dense(), G @ G.T, 1e-12)
    differ(flow.Phi.to_dense(), flow.K.to_dense())
    with torch.no_grad():
        theta[1].mul_(-1)
    differ(linearize(model, x, h0, mask).K.to_dense(), flow.K.to_dense())


def test_groups_add_up(model) -> None:
    flow = linearize(model, draw(2, 5, model.input_size, seed=7))
    q = draw(3, *flow.P.domain.shape, seed=9)
    names = list(model.trainable())
    parts = [flow.K.restrict([name])(q) for name in names]
    if not flow.J.ties:
        close(sum(parts), flow.K(q), 1e-12)
    for name, part in zip(names, parts, strict=True):
        J = flow.J.to_dense()[:, flow.J.domain["parameter"].part(name).slice]
        K = J @ J.T
        close(part.flatten(1), q.flatten(1) @ K.T, 1e-12)
    differ(parts[0], flow.K(q))


def test_what_each_trial_sends_to_the_parameters(model) -> None:
    J = linearize(model, draw(3, 5, model.input_size, seed=7)).J
    r = draw(2, *J.codomain.shape, seed=9)
    found = J.trial_gradients(r)
    if model.time_varying and found is None:  # weights of each step
        assert any(site.per_step for site in model.sites)
        return
    assert found.shape == (2, 3, J.domain.size)
    close(found.sum(dim=1), J.T(r), 1e-12)
    for trial in range(3):
        alone = torch.zeros_like(r)
        alone[:, trial] = r[:, trial]
        close(found[:, trial], J.T(alone), 1e-12)
    differ(found[:, 0], found[:, 1])


def test_paths_can_be_replaced_and_cut() -> None:
    model = Stacked()
    flow = linearize(model, draw(2, 4, 3, seed=7))
    other = parameter(3, 4, seed=20).detach()
    replaced = flow.A.replace({"w_i1": other})
    with torch.no_grad():
        blocks = flow.A.blocks()
        h = flow.trajectory.previous
        slope0 = 1 - flow.trajectory.component("h0_") ** 2
        u1 = (
            flow.trajectory.component("h0_") @ model.w_i1.T + model.b1 + torch.tanh(h[..., 4:]) @ model.w_h1.T
        )
        slope1 = 1 - torch.tanh(u1) ** 2
        expected = blocks.clone()
        expected[..., 4:, :4] = slope1.unsqueeze(-1) * (other @ (slope0.unsqueeze(-1) * model.w_h0))
    close(replaced.blocks(), expected, 1e-12)
    differ(blocks, expected)
    direct = torch.zeros_like(blocks)
    direct[..., range(4, 7), range(4, 7)] = 0.3
    close(flow.A.direct().blocks(), direct, 1e-14)
    with pytest.raises(ArgumentError, match=r"weights: expected names among .*'w_i1'"):
        flow.A.replace({"w_i0": parameter(4, 3, seed=1).detach()})


def test_another_number_of_steps_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"x: expected 5 steps.* got shape \[2, 4, 2\]"):
        Deep().rollout(draw(2, 4, 2, seed=1))


def site_model(*sites: Site, stages=None, **kwargs) -> SiteModel:
    if stages is not None:
        return SiteModel(3, components=("h",), stages=stages)
    return SiteModel(3, 4, ("h",), sites, **kwargs)


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        ((), "sites: expected at least one"),
        ([Site("w", "k", "u")], "site 'w': source: expected one of 'input', 'h', got 'k'"),
        ([Site("w", "h'", "u")], "site 'w': source: expected one of 'input', 'h', got \"h'\""),
        ([Site("w", "input", "u", transform=torch.tanh)], "site 'w': transform: expected None on the input"),
        ([Site("w", "h", "u", columns=slice(2, 9))], r"site 'w': columns: expected a slice inside 0:4"),
        ([Site("w", "h", "u", columns=slice(0, 4, 2))], r"site 'w': columns: expected a slice inside 0:4"),
        ([Site(None, "h", "u")], "site 'u': expected 4 columns of the input, one target and no bias"),
        ([Site(None, "input", "u")], "site 'u': expected 4 columns of the input, one target and no bias"),
        (
            [Site(None, None, "u")],
            "site 'u': expected a bias of all steps and no weight where there is no source",
        ),
        (
            [Site("w", None, "u", "b")],
            "site 'w': expected a bias of all steps and no weight where there is no source",
        ),
        ([Site("w", "h", "u", per_step=True)], "per_step: expected a model with time_varying = True"),
    ],
)
def test_refused_sites(sites, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        site_model(*sites)


def test_refused_stages() -> None:
    one, other = Site("w", "input", "u"), Site("v", "input", "u")
    with pytest.raises(ArgumentError, match=r"targets: expected names that one stage uses, got \['u'\]"):
        site_model(stages=(Stage("m", 2, (one,)), Stage("h", 2, (other,))))
    with pytest.raises(ArgumentError, match=r"stages: expected an output for each component \['h'\]"):
        site_model(stages=(Stage("m", 2, (one,)),))
    with pytest.raises(ArgumentError, match=r"stages: expected each output computed once"):
        site_model(stages=(Stage("h", 2, (one,)), Stage("h", 2, ())))
    with pytest.raises(ArgumentError, match="stages: expected no units and no sites beside stages"):
        SiteModel(3, 4, ("h",), stages=(Stage("h", 4, (one,)),))
    with pytest.raises(ArgumentError, match="units: expected a number of units, or stages"):
        SiteModel(3, components=("h",))


def test_a_weight_of_the_wrong_shape_is_named() -> None:
    model = Projected()
    model.w_hr = parameter(2, 4, seed=1)
    with pytest.raises(ShapeError, match=r"weight of site 'w_hr': expected shape \[2, 5\], got \[2, 4\]"):
        linearize(model, draw(1, 2, 3, seed=1))


def test_where_a_component_lies() -> None:
    model = Projected()
    assert (model.component_slice("h"), model.component_slice("c")) == (slice(0, 2), slice(2, 7))
    with pytest.raises(ArgumentError, match=r"component: expected one of 'h', 'c', got 'c1'; did you"):
        model.component_slice("c1")
