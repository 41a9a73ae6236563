"""A trainable initial state under rules that replace A, against loops back through what is left of A."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from kpframe_rules.feedback_through_time import FeedbackThroughTime
from kpframe_rules.kernl import KeRNL

from kpframe import Readout, Site, SiteModel, create_model, create_rule, linearize

F64 = torch.float64
ALPHA = {"vanilla": 1.0, "rate": 0.4, "current": 0.4}


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def back(A: torch.Tensor, err: torch.Tensor) -> torch.Tensor:  # [B, T, H, H], [B, T, H] -> [H]
    """Return what errors send to h_0, one trial and step after the other."""
    total = torch.zeros(err.shape[2], dtype=F64)
    for b in range(len(err)):
        carried = torch.zeros(err.shape[2], dtype=F64)
        for t in reversed(range(err.shape[1])):
            carried = A[b, t].mT @ (err[b, t] + carried)
        total = total + carried
    return total


def constant(here, value: float) -> torch.Tensor:  # [B, T, H, H]
    """Return ``value I``, and I at padded steps."""
    size = here.err.shape[2]
    A = (value * torch.eye(size, dtype=F64)).expand(*here.err.shape, size).clone()
    if here.mask is not None:
        A[~here.mask] = torch.eye(size, dtype=F64)
    return A


def h0_of(here, rule, **settings) -> torch.Tensor:
    return create_rule(rule, **settings).gradient(here.flow(), here.err)["h0"]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.rows(3)
def test_constant_decay(make, dense, close, differ, leaky, masked) -> None:
    """Leaks of rflo, Lambda of kernl and traces of three_factor begin with h_0 at 1."""
    here = make(leaky, start="trainable", masked=masked)
    exact = back(dense(here).A, here.err)
    close(h0_of(here, "bptt"), exact)
    expected = back(constant(here, 1 - ALPHA[leaky]), here.err)
    rules = [
        ("rflo", {}),
        ("duhamel", {"order": 1, "base": "leak"}),
        ("three_factor", {"trace": 1 - ALPHA[leaky]}),
    ]
    for rule, settings in [*rules, ("kernl", {})]:
        if leaky == "vanilla":
            assert not h0_of(here, rule, **settings).any()
        else:
            close(h0_of(here, rule, **settings), expected)
    differ(expected, exact)
    kernel, decay = normal(5, 4, 4), torch.tensor([0.2, 0.5, 0.9, 1.0], dtype=F64)
    A = constant(here, 1.0)
    A = torch.where(here.mask[..., None, None], decay.diag(), A) if masked else decay.diag().expand_as(A)
    found = KeRNL.of_kernel(kernel, decay).gradient(here.flow(), here.err)["h0"]
    close(found, back(A, here.err @ kernel))
    differ(found, back(A, here.err))
    for trace in (0.0, 0.8):
        found = h0_of(here, "three_factor", trace=trace)
        if trace:
            close(found, back(constant(here, trace), here.err))
        elif not masked:
            assert not found.any()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.rows(6)
def test_within_units(make, dense, own_entries, close, differ, name, masked) -> None:
    here = make(name, start="trainable", masked=masked)
    A = dense(here).A
    close(h0_of(here, "snap1"), back(A * own_entries(here.model)[0], here.err))
    close(h0_of(here, "duhamel", order=1, base="units"), h0_of(here, "snap1"))
    diagonal = A.diagonal(dim1=-2, dim2=-1).diag_embed()
    close(h0_of(here, "duhamel", order=1, base="diagonal"), back(diagonal, here.err))
    for order in (6, 8):
        close(h0_of(here, "duhamel", order=order), back(A, here.err))
    differ(h0_of(here, "snap1"), back(A, here.err))
    loops, size = dense(here), here.model.width
    keep = torch.ones(loops.J.shape[2:], dtype=torch.bool)
    keep[:, 4:size] = own_entries(here.model)[0][:, 4:]  # A_1 leads from h to all units, from c to its own
    close(h0_of(here, "snap_n", n=1), loops.forward(A, keep=keep)[:size])


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.rows(3)
def test_detached_paths(make, gradient, stopped, close, differ, known, masked) -> None:
    """gate_stop and h_detach where the first step is cut, and where it is not."""
    here = make(known, start="trainable", time=3, masked=masked)
    flow, size = here.flow(), here.model.width

    def detached_at(cut: tuple[bool, ...], paths: list[str]) -> torch.Tensor:
        def advance(t: int, h: torch.Tensor) -> torch.Tensor:
            return stopped(known, here.model, here.x[:, t], h, paths if cut[t] else [])

        return gradient(here, advance)[:size]

    paths = {"gru": ["z"], "lstm": ["f", "o"]}.get(known, ["u"])
    always = detached_at((True, True, True), paths)
    close_or_zero(h0_of(here, "gate_stop", paths=paths), always, close)
    differ(always, here.backward()[:size])
    rule = create_rule("h_detach", probability=0.3)
    outcomes = torch.cartesian_prod(*[torch.tensor([False, True])] * 3).tolist()
    mean = sum(0.3 ** sum(cut) * 0.7 ** (3 - sum(cut)) * detached_at(tuple(cut), ["all"]) for cut in outcomes)
    close(rule.expectation(flow)(here.err)[:size], mean)
    assert len(list(rule.outcomes(rule.update(flow).exact(flow)))) == 8
    total = sum(
        chance * update.operator(here.err) for chance, update in rule.outcomes(rule.update(flow).exact(flow))
    )
    close(total[:size], mean)
    differ(mean, here.backward()[:size])
    given = make(known, time=3)
    assert len(list(rule.outcomes(rule.update(given.flow()).exact(given.flow())))) == 4


def close_or_zero(found: torch.Tensor, expected: torch.Tensor, close) -> None:
    if expected.any():
        close(found, expected)
    else:
        assert not found.any()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.rows(4)
def test_feedback(make, gradient, stopped, dense, close, differ, known, masked) -> None:
    """B at the outputs leaves the way to h_0 as it is; dfa takes its own, and B in the place of W its own."""
    here = make(known, start="trainable", masked=masked)
    flow, loops, size = here.flow(), dense(here), here.model.width
    readout = Readout(size, 2, hidden=slice(0, 4), generator=3, dtype=F64)
    e = here.err[..., :2]
    err = e @ readout.full_weight().detach()
    rule = create_rule("feedback_alignment", seed=4)
    through_B = e @ rule.update(flow, readout).feedback
    close(rule.gradient(flow, err, readout)["h0"], back(loops.A, through_B))
    differ(back(loops.A, err), back(loops.A, through_B))
    found = {
        name: create_rule("dfa", through=name, seed=4).gradient(flow, err, readout)["h0"]
        for name in ("none", "direct", "broadcast")
    }
    assert not found["none"].any()
    close(found["broadcast"], through_B.sum(dim=(0, 1)))
    direct = gradient(here, lambda t, h: stopped(known, here.model, here.x[:, t], h), through_B)[:size]
    close_or_zero(found["direct"], direct, close)
    B = normal(6, *here.model.weight_hh_l0.shape)
    replaced = FeedbackThroughTime.of_matrices({"weight_hh_l0": B})
    own = here.model.weight_hh_l0.detach().clone()
    A = here.flow().A.pointwise().blocks() + through_weight(here, B)
    close(here.flow().A.pointwise().blocks() + through_weight(here, own), loops.A)
    close(replaced.gradient(flow, here.err)["h0"], back(A, here.err))
    differ(back(A, here.err), back(loops.A, here.err))


def through_weight(here, weight: torch.Tensor) -> torch.Tensor:  # [B, T, H, H]
    """Return ``D W S`` for any W, by the derivative of the step with respect to each recurrent product."""
    model, units = here.model, weight.shape[1]
    previous = here.flow().trajectory.previous
    out = torch.zeros(*here.err.shape, model.width, dtype=F64)
    for b in range(len(out)):
        for t in range(out.shape[1]):
            if here.mask is not None and not here.mask[b, t]:
                continue
            h = previous[b, t].detach()
            bias = model.bias_hh_l0.detach().clone().requires_grad_()
            theta = {key: p.detach() for key, p in model.named_parameters()} | {"bias_hh_l0": bias}
            new = torch.func.functional_call(model, theta, (here.x[b : b + 1, t], h[None]))[0]
            D = torch.stack(
                [torch.autograd.grad(entry, bias, retain_graph=True, allow_unused=True)[0] for entry in new]
            )
            slope = (
                1 - torch.tanh(h[:units]) ** 2
                if getattr(model, "form", "") == "current"
                else torch.ones(units)
            )
            out[b, t, :, :units] = D @ (weight * slope)
    return out


def test_a_fixed_point_does_not_depend_on_where_it_began(close) -> None:
    pytest.importorskip("kpframe_rnn")
    model = create_model("rnn", input_size=2, hidden_size=4, seed=1, trainable_initial_state=True).double()
    x = normal(1, 2, 1, 2)
    with torch.no_grad():
        model.weight_hh_l0.mul_(0.3)
        state = model.rollout(x[:1].expand(1, 200, 2)).states[:, -1]
        model.h0.copy_(state[0])
    flow = linearize(model, x[:1])  # one step, at the fixed point
    rule = create_rule("recurrent_backpropagation")
    err = normal(2, 1, 1, 4)
    found = rule.gradient(flow, err)
    assert not found["h0"].any()
    assert create_rule("bptt").gradient(flow, err)["h0"].norm() > 1e-2
    A = flow.A.blocks()[0, 0]
    at_rest = torch.linalg.solve(torch.eye(4, dtype=F64) - A.mT, err[0, 0])
    close(found["bias_ih_l0"], (1 - state[0] ** 2) * at_rest, 1e-10)


@pytest.mark.parametrize("offset", [0, 1])
def test_chunks_never_cut_the_first_step(make, close, differ, known, offset) -> None:
    here = make(known, start="trainable", time=5)
    flow = here.flow()
    chunks = create_rule("truncated_bptt", window=2, mode="chunked", offset=offset)
    close(chunks.update_operator(flow)(here.err), here.detached(2, offset))
    eprop = create_rule("eprop")
    one, other = ((a @ b).update_operator(flow)(here.err) for a, b in ((eprop, chunks), (chunks, eprop)))
    close(one, other)
    if known != "vanilla":
        differ(one, eprop.update_operator(flow)(here.err))


@pytest.mark.parametrize("rule", ["rtrl", "uoro", "node_perturbation", "artbp"])
@pytest.mark.rows(2)
def test_rules_on_top_of_others(make, close, differ, rule) -> None:
    """What estimates P J takes the J that the inner rule has, h_0 and all."""
    here = make("rate", start="trainable", time=2)
    outer = create_rule(rule, **({"length": 3.0} if rule == "artbp" else {}))
    inner = create_rule("eprop").update(here.flow())
    outcomes = [(1.0, outer.change(inner))] if rule == "rtrl" else outer.outcomes(inner)
    found = sum(chance * update.operator(here.err) for chance, update in outcomes)
    close(found, inner.operator(here.err), 1e-10)
    close(found[:4], back(constant(here, 0.6), here.err), 1e-10)
    differ(found, here.backward())


class Started(SiteModel):
    """A leaky rnn whose initial state is made of parameters, one of which also acts in the step."""

    def __init__(self, shared: bool) -> None:
        sites = (Site("weight_ih", "input", "u", bias="bias"), Site("weight_hh", "h", "u"))
        super().__init__(2, 3, ("h",), sites)
        self.shared = shared
        for k, (name, shape) in enumerate(
            {"weight_ih": (3, 2), "weight_hh": (3, 3), "bias": (3,), "seed": (3,)}.items()
        ):
            setattr(self, name, torch.nn.Parameter(normal(k, *shape)))

    def initial_state(self, batch: int) -> torch.Tensor:
        start = torch.tanh(self.seed + self.bias) if self.shared else torch.tanh(self.seed)
        return start.expand(batch, -1)

    def combine(self, u, h, t=None):
        return {"h": 0.7 * h["h"] + 0.3 * torch.tanh(u["u"])}


@pytest.mark.parametrize("shared", [False, True])
def test_an_initial_state_made_of_parameters(close, differ, shared) -> None:
    model = Started(shared)
    x, err = normal(7, 2, 5, 2), normal(8, 2, 5, 3)
    h, total, p = model.initial_state(2), torch.zeros((), dtype=F64), dict(model.named_parameters())
    for t in range(5):
        u = x[:, t] @ p["weight_ih"].T + p["bias"] + h.detach() @ p["weight_hh"].T
        h = 0.7 * h + 0.3 * torch.tanh(u)
        total = total + (h * err[:, t]).sum()
    total.backward()
    flow = linearize(model, x)
    update = create_rule("eprop").update(flow)
    found = create_rule("eprop").gradient(flow, err)
    for name, value in found.items():
        close(value, p[name].grad)
    differ(found["seed"], create_rule("bptt").gradient(flow, err)["seed"])
    J = update.J.to_dense()
    close(update.J.T.to_dense(), J.mT)
    d = normal(9, 4, J.shape[1])
    close(update.J(d).flatten(1), d @ J.mT)
    assert update.through(flow.A, name="P").J is flow.J
    for again in (pickle.loads(pickle.dumps(update.operator)), copy.deepcopy(update.operator)):
        close(again(err), update.operator(err), 1e-15)
