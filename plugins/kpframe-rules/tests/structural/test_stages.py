"""Rules that keep the direct path, on steps of several stages: layers, projections, a reset before a product.

The reference is backpropagation through the model written out, in which recurrent products read the detached
state; what a layer reads of the one below, or a projection of its cell, is not detached.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from kpframe import Readout, Site, SiteModel, Stage, create_model, create_rule, linearize, wrap
from kpframe.errors import UnsupportedError

F64 = torch.float64
ALPHA, INPUTS, UNITS, STEPS = 0.3, 2, 3, 6
RNN = {
    f"rnn {form} {n}": ("rnn", {"form": form, "num_layers": n})
    for form in ("rate", "current")
    for n in (1, 2, 3)
}
GRU = {
    f"gru {reset} {n}": ("gru", {"reset": reset, "num_layers": n})
    for reset in ("after", "before")
    for n in (1, 2)
}
LSTM = {
    f"lstm {n}{' projected' * (p > 0)}": ("lstm", {"num_layers": n, "proj_size": p})
    for n in (1, 2)
    for p in (0, 2)
}
OTHERS = {
    "hh": ("hh", {"V_init": -20.0, "autapses": True}),
    "mlp": ("feedforward", {"depth": STEPS, "form": "residual", "activation": "tanh"}),
}
CASES = {**RNN, **GRU, **LSTM, **OTHERS}

State = list[torch.Tensor]


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def build(case: str, trainable: bool = False):
    """Return a model of a case, with a normal initial state if that learns."""
    name, settings = CASES[case]
    pytest.importorskip(f"kpframe_{name}")
    if name == "rnn":
        settings = {**settings, "alpha": ALPHA}
    start = {} if name == "feedforward" else {"trainable_initial_state": trainable}
    model = create_model(
        "mlp" if name == "feedforward" else name,
        input_size=INPUTS,
        hidden_size=UNITS,
        seed=1,
        **settings,
        **start,
    ).double()
    if trainable:
        with torch.no_grad():
            model.h0.copy_(model.initial_state(1)[0] if name == "hh" else normal(2, model.width))
    return model


def affine(p: dict, kind: str, layer: int, z: torch.Tensor) -> torch.Tensor:
    return z @ p[f"weight_{kind}_l{layer}"].T + p[f"bias_{kind}_l{layer}"]


def layers(case: str, p: dict, x: torch.Tensor, state: State) -> State:
    """Return the next state of each layer of an rnn, gru or lstm; recurrent products read it detached."""
    new = []
    for k, h in enumerate(state):
        if case.startswith("rnn rate"):
            made = x = (1 - ALPHA) * h + ALPHA * torch.tanh(
                affine(p, "ih", k, x) + affine(p, "hh", k, h.detach())
            )
        elif case.startswith("rnn"):
            fed = affine(p, "ih", k, torch.tanh(x) if k else x)
            made = x = (1 - ALPHA) * h + ALPHA * (fed + affine(p, "hh", k, torch.tanh(h.detach())))
        elif case.startswith("gru"):
            fed = affine(p, "ih", k, x).chunk(3, dim=-1)
            back = affine(p, "hh", k, h.detach()).chunk(3, dim=-1)
            r, z = torch.sigmoid(fed[0] + back[0]), torch.sigmoid(fed[1] + back[1])
            product = r * back[2]
            if "before" in case:
                product = (r * h.detach()) @ p[f"weight_hh_l{k}"][-UNITS:].T + p[f"bias_hh_l{k}"][-UNITS:]
            made = x = (1 - z) * torch.tanh(fed[2] + product) + z * h
        else:
            width = h.shape[-1] - UNITS
            i, f, g, o = (affine(p, "ih", k, x) + affine(p, "hh", k, h[..., :width].detach())).chunk(
                4, dim=-1
            )
            c = torch.sigmoid(f) * h[..., width:] + torch.sigmoid(i) * torch.tanh(g)
            x = torch.sigmoid(o) * torch.tanh(c)
            x = x @ p[f"weight_hr_l{k}"].T if "projected" in case else x
            made = torch.cat([x, c], dim=-1)
        new.append(made)
    return new


def split(case: str, model, h: torch.Tensor) -> State:
    """Return the state of each layer; the components of an lstm lie layer by layer, h before c."""
    return list(h.split(h.shape[-1] // CASES[case][1].get("num_layers", 1), dim=-1))


def stepped(case: str, model) -> Callable:
    """Return one step of the model in which recurrent products read the detached state."""
    if case == "hh":
        return lambda x, h, t: hodgkin_huxley(model, x, h)
    if case == "mlp":

        def residual(x: torch.Tensor, h: torch.Tensor, t: int) -> torch.Tensor:
            if t == 0:
                return x @ model.weight_in.T + model.bias[0]
            return h + model.scale * torch.tanh(h.detach() @ model.weight[t - 1].T + model.bias[t])

        return residual
    p = dict(model.named_parameters())
    return lambda x, h, t: torch.cat(layers(case, p, x, split(case, model, h)), dim=-1)


def hodgkin_huxley(model, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """Return the next state where synaptic inputs, made of s by weights, read s detached.

    V depends on s through the weights alone, so that a step in which all weights read a detached copy is one
    with s detached where V is made, and s as it is where s is made.
    """
    held = torch.cat([h[..., : 4 * UNITS], h[..., 4 * UNITS :].detach()], dim=-1)
    return torch.cat([model.step(x, held)[..., : 4 * UNITS], model.step(x, h)[..., 4 * UNITS :]], dim=-1)


def rolled(
    model, x: torch.Tensor, h: torch.Tensor, step: Callable, mask: torch.Tensor | None
) -> torch.Tensor:
    states = []
    for t in range(x.shape[1]):
        new = step(x[:, t], h, t)
        h = new if mask is None else torch.where(mask[:, t, None], new, h)
        states.append(h)
    return torch.stack(states, dim=1)


def gradients(model, loss: torch.Tensor) -> torch.Tensor:
    theta = tuple(model.trainable().values())
    options = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
    found = torch.autograd.grad(loss, theta, **options)
    return torch.cat([g.reshape(-1) for g in found])


def problem(case: str, trainable: bool, masked: bool):
    """Return a model, its flow, an error, and the reference's gradient for an error."""
    model = build(case, trainable)
    x = normal(3, 2, STEPS, INPUTS) * (5 if case == "hh" else 1)
    mask = torch.arange(STEPS) < torch.tensor([[STEPS], [4]]) if masked else None
    flow = linearize(model, x, mask=mask)
    states = rolled(model, x, model.initial_state(2), stepped(case, model), mask)
    assert float((states.detach() - flow.trajectory.states).norm()) <= 1e-13 * float(states.detach().norm())
    return model, flow, normal(4, *states.shape), lambda err: gradients(model, (states * err).sum())


@pytest.mark.parametrize(("trainable", "masked"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.rows(6)
def test_eprop_is_backpropagation_through_detached_recurrence(close, differ, case, trainable, masked) -> None:
    if case == "mlp" and (trainable or masked):
        pytest.skip("its h_0 is not looked at, and it has as many steps as layers")
    model, flow, err, expected = problem(case, trainable, masked)
    update = create_rule("eprop").update_operator(flow)(err)
    close(update, expected(err), 1e-12)
    exact = gradients(
        model, (model.rollout(flow.trajectory.inputs, mask=flow.trajectory.mask).states * err).sum()
    )
    differ(update, exact, 1e-7 if case == "hh" else 1e-4)
    close(create_rule("h_detach", probability=1.0).update_operator(flow)(err), update, 1e-12)
    differ(create_rule("snap1").update_operator(flow)(err), update, 1e-7 if case == "hh" else 1e-4)
    if case not in OTHERS and case != "gru before 2":  # there r hands on what comes from the layer below
        close(create_rule("gate_stop", paths=["weight_hh*"]).update_operator(flow)(err), update, 1e-12)


@pytest.mark.parametrize("case", [case for case in CASES if "projected" in case])
def test_errors_on_a_projected_output_travel_through_the_memory(close, differ, case) -> None:
    _, flow, err, expected = problem(case, False, False)
    alone = torch.zeros_like(err)
    alone[..., : CASES[case][1]["proj_size"]] = err[..., : CASES[case][1]["proj_size"]]
    update = create_rule("eprop").update_operator(flow)(alone)
    close(update, expected(alone), 1e-12)
    differ(update, create_rule("truncated_bptt", window=1).update_operator(flow)(alone), 1e-2)


@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("case", RNN)
@pytest.mark.rows(4)
def test_rflo_and_dfa_go_down_the_layers_at_each_step(close, differ, case, trainable) -> None:
    """With errors through the readout, and through B: the leak is constant, so that rflo is e-prop here."""
    model, flow, err, expected = problem(case, trainable, trainable)
    close(create_rule("rflo").update_operator(flow)(err), expected(err), 1e-12)
    readout = Readout(model.width, 2, hidden=slice(model.width - UNITS, model.width), generator=5, dtype=F64)
    e = err[..., :2]
    for rule in (create_rule("rflo", feedback="random"), create_rule("dfa", through="direct")):
        B = rule.update(flow, readout).feedback
        found = rule.update_operator(flow, readout)(e @ readout.full_weight().detach())
        close(found, expected(e @ B), 1e-10)
        differ(found, expected(e @ readout.full_weight().detach()), 1e-2)
    if "1" not in case:  # the kernel of each entry alone does not go down
        differ(create_rule("kernl").update_operator(flow)(err), expected(err), 1e-3)
    close(create_rule("duhamel", order=1, base="leak").update_operator(flow)(err), expected(err), 1e-12)


def test_what_leads_back_is_recurrent_and_what_leads_away_is_not() -> None:
    x = normal(3, 1, 2, INPUTS)
    left = {
        case: {p.site.weight for p in linearize(build(case), x).A.direct().gains.sites if p.site.recurrent}
        for case in CASES
        if case != "mlp"
    }
    assert left["gru after 2"] == left["rnn rate 2"] == left["lstm 2"] == {"weight_ih_l1"}
    assert left["gru before 2"] == {"weight_hh_l0[n]", "weight_ih_l1", "weight_hh_l1[n]"}  # of r, not of h
    assert left["lstm 2 projected"] == {"weight_hr_l0", "weight_ih_l1", "weight_hr_l1"}
    assert left["lstm 1 projected"] == {"weight_hr_l0"}
    assert left["rnn current 3"] == {"weight_ih_l1", "weight_ih_l2"}
    assert not any(left[case] for case in ("hh", "gru after 1", "rnn rate 1", "lstm 1"))


@pytest.mark.parametrize("rule", ["eprop", "rflo", "dfa", "gate_stop", "h_detach"])
def test_a_wrapped_cell_does_not_know_its_paths(rule) -> None:
    settings = {
        "dfa": {"through": "direct"},
        "gate_stop": {"paths": ["weight_hh*"]},
        "h_detach": {"probability": 1.0},
    }
    flow = linearize(wrap(torch.nn.GRUCell(INPUTS, UNITS, dtype=F64)), normal(3, 2, 4, INPUTS))
    readout = Readout(UNITS, 2, generator=5, dtype=F64)
    with pytest.raises(UnsupportedError, match=rf"{rule} needs .*SiteModel.*snap1 and truncated_bptt work"):
        create_rule(rule, **settings.get(rule, {})).update(flow, readout)


class Midpoint(SiteModel):
    """``dh/dt = -h + tanh(W h + U x)`` by the midpoint rule: W reads pointwise functions of the old state."""

    DT = 0.5

    def __init__(self) -> None:
        def sites(read: str, target: str) -> tuple[Site, ...]:
            return Site("weight_ih", "input", target), Site("weight_hh", read, target)

        half = Stage("m", UNITS, sites("h", "u"), combine=self.half)
        whole = Stage("h", UNITS, sites("m'", "v"), combine=self.whole)
        super().__init__(INPUTS, components=("h",), stages=(half, whole))
        self.weight_ih = torch.nn.Parameter(normal(5, UNITS, INPUTS))
        self.weight_hh = torch.nn.Parameter(normal(6, UNITS, UNITS))

    def half(self, u, h, t=None):
        return {"m": h["h"] + self.DT / 2 * (torch.tanh(u["u"]) - h["h"])}

    def whole(self, u, h, t=None):
        return {"h": h["h"] + self.DT * (torch.tanh(u["v"]) - h["m'"])}


def test_what_a_weight_reads_of_a_pointwise_function_of_the_old_state_is_detached(close, differ) -> None:
    model, x, err = Midpoint(), normal(3, 2, STEPS, INPUTS), normal(4, 2, STEPS, UNITS)
    h, total = torch.zeros(2, UNITS, dtype=F64), torch.zeros((), dtype=F64)
    for t in range(STEPS):
        drive, old = x[:, t] @ model.weight_ih.T, h.detach()
        slope = torch.tanh(old @ model.weight_hh.T + drive)
        read = old + model.DT / 2 * (slope - old)  # learns through the slope, as W acts there, too
        middle = h + model.DT / 2 * (slope - h)
        h = h + model.DT * (torch.tanh(read @ model.weight_hh.T + drive) - middle)
        total = total + (h * err[:, t]).sum()
    flow = linearize(model, x)
    update = create_rule("eprop").update_operator(flow)(err)
    close(update, gradients(model, total), 1e-12)
    close(create_rule("rflo").update_operator(flow)(err), update, 1e-12)
    differ(update, flow.J.T(flow.P.T(err)), 1e-2)
    differ(
        create_rule("gate_stop", paths=["weight_hh"]).update_operator(flow)(err),
        flow.J.T(flow.P.T(err)),
        1e-2,
    )
    leak = 1 - model.DT * (1 - model.DT / 2)
    close(
        flow.A.direct().blocks(),
        (leak * torch.eye(UNITS, dtype=F64)).expand(2, STEPS, -1, -1).contiguous(),
        1e-12,
    )
