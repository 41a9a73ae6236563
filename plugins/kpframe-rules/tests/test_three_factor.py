"""Three-factor Hebbian plasticity, against eligibility traces that run forward in time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kpframe_rules.feedback_alignment import FeedbackAlignment
from kpframe_rules.three_factor import ThreeFactor
from kpframe_rules.truncated import TruncatedBPTT

from kpframe import Flow, Model, Readout, create_model, linearize, wrap
from kpframe.errors import ArgumentError, UnsupportedError
from kpframe.testing import parametrize_with_checks

F64 = torch.float64
INPUTS, UNITS, ALPHA = 3, 4, 0.4
SEEDS = st.integers(0, 2**31 - 1)
SITES = {
    "vanilla": ("rnn", {"gain": 1.2}),
    "rate": ("rnn", {"gain": 1.2, "form": "rate", "alpha": ALPHA}),
    "current": ("rnn", {"gain": 1.2, "form": "current", "alpha": ALPHA}),
    "gru": ("gru", {}),
    "lstm": ("lstm", {}),
}
names = pytest.mark.parametrize("name", list(SITES))


def build(name: str, seed: int = 0, **more) -> Model:
    model, given_settings = SITES[name]
    pytest.importorskip(f"kpframe_{model}")
    sizes = {"input_size": INPUTS, "hidden_size": UNITS, "seed": seed % 2**32}
    return create_model(model, **sizes, **{**given_settings, **more}).double()


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def draw(name: str, seed: int = 0, time: int = 5, masked: bool = False, **more) -> tuple[Flow, torch.Tensor]:
    model = build(name, seed, **more)
    x, h0 = normal(seed + 1, 2, time, INPUTS), normal(seed + 2, 2, model.width)
    err = normal(seed + 3, 2, time, model.width)
    mask = torch.arange(time) < torch.tensor([[time], [time - 2]]) if masked else None
    return linearize(model, x, h0, mask), err


def leaks(name: str, flow: Flow, t: int) -> torch.Tensor:
    """Return how a unit's components ``[B, C, C, n]`` pass on what they are, around all weights."""
    p = {key: value.detach() for key, value in flow.model.named_parameters()}
    x, h = flow.trajectory.inputs[:, t], flow.trajectory.previous[:, t]
    width = {"vanilla": 0.0, "rate": 1 - ALPHA, "current": 1 - ALPHA}
    if name in width:
        return torch.full((len(x), 1, 1, UNITS), width[name], dtype=F64)
    u = x @ p["weight_ih_l0"].T + p["bias_ih_l0"] + p["bias_hh_l0"] + h[:, :UNITS] @ p["weight_hh_l0"].T
    if name == "gru":
        return torch.sigmoid(u.chunk(3, dim=1)[1])[:, None, None]
    i, f, g, o = u.chunk(4, dim=1)
    f, o = torch.sigmoid(f), torch.sigmoid(o)
    c = f * h[:, UNITS:] + torch.sigmoid(i) * torch.tanh(g)
    zero = torch.zeros_like(f)
    to_h, to_c = torch.stack([zero, o * (1 - torch.tanh(c) ** 2) * f], 1), torch.stack([zero, f], 1)
    return torch.stack([to_h, to_c], 1)


def traced(
    name: str, flow: Flow, err: torch.Tensor, post: str, leak: Callable[[int], torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return the update by eligibility traces ``[B, C, rows, n, columns]``, forward in time."""
    run = flow.trajectory
    parts = {"lstm": 2}.get(name, 1)
    rows = {"gru": 3, "lstm": 4}.get(name, 1)
    gains = torch.ones(parts, rows, dtype=F64)
    if name == "lstm":
        gains[1, 3] = 0  # the memory cell does not see the output gate
    update: dict[str, torch.Tensor] = {}
    for key in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
        total: torch.Tensor | float = 0.0
        trace: torch.Tensor | float = 0.0
        for t in range(err.shape[1]):
            before = run.previous[:, t, :UNITS]
            before = torch.tanh(before) if name == "current" else before
            z = {"weight_ih_l0": run.inputs[:, t], "weight_hh_l0": before}.get(
                key, torch.ones(2, 1, dtype=F64)
            )
            f = run.states[:, t] if post == "state" else torch.ones_like(run.states[:, t])
            new = torch.einsum("cr,bcn,bz->bcrnz", gains, f.reshape(2, parts, UNITS), z)
            if run.mask is not None:
                new = new * run.mask[:, t].reshape(2, 1, 1, 1, 1)
            old = trace
            if isinstance(trace, torch.Tensor):
                keep = leak(t)
                if run.mask is not None:
                    hold = torch.eye(parts, dtype=F64)[None, :, :, None]
                    keep = torch.where(run.mask[:, t].reshape(2, 1, 1, 1), keep, hold)
                old = torch.einsum("bcdn,bdrnz->bcrnz", keep, trace)
            trace = old + new
            total = total + torch.einsum("bcn,bcrnz->rnz", err[:, t].reshape(2, parts, UNITS), trace)
        update[key] = total.reshape(flow.model.get_parameter(key).shape)
    return update


def flat(gradients: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([g.reshape(-1) for g in gradients.values()])


@names
@pytest.mark.parametrize("post", ["none", "state"])
@settings(max_examples=3)
@given(seed=SEEDS, time=st.integers(3, 6), masked=st.booleans())
@pytest.mark.rows(3)
def test_traces_run_forward(close, differ, name, post, seed, time, masked) -> None:
    flow, err = draw(name, seed, time, masked)
    update = ThreeFactor(post).update_operator(flow)(err)
    close(update, flat(traced(name, flow, err, post, lambda t: leaks(name, flow, t))), 1e-10)
    differ(update, flow.J.T(flow.P.T(err)))
    differ(update, ThreeFactor({"none": "state", "state": "none"}[post]).update_operator(flow)(err))


@names
@pytest.mark.parametrize("rate", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.rows(6)
def test_a_trace_of_its_own(close, differ, name, rate, masked) -> None:
    flow, err = draw(name, masked=masked)
    parts = flow.P.domain.shape[2] // UNITS
    eye = rate * torch.eye(parts, dtype=F64)[None, :, :, None].expand(2, -1, -1, UNITS)
    update = ThreeFactor(trace=rate).update_operator(flow)(err)
    close(update, flat(traced(name, flow, err, "none", lambda t: eye)), 1e-10)
    differ(update, ThreeFactor(trace=0.3).update_operator(flow)(err))


def test_without_a_gain_to_drop_it_is_truncation_to_one_step(close, differ) -> None:
    for positive in (True, False):
        model = build("vanilla", nonlinearity="relu")
        with torch.no_grad():
            for p in model.parameters():
                p.abs_() if positive else p
        flow = linearize(model, normal(1, 2, 5, INPUTS).abs(), normal(2, 2, UNITS).abs())
        err = normal(3, 2, 5, UNITS)
        found = ThreeFactor(trace=0.0).update_operator(flow)(err)
        one = TruncatedBPTT(1).update_operator(flow)(err)
        (close if positive else differ)(found, one)


def test_a_constant_gain_scales(close, differ) -> None:
    """In the current form ``D = alpha``, so the rule is e-prop's update over alpha."""
    flow, err = draw("current")
    eprop = flow.J.T(ThreeFactor().propagator(flow).T(err))
    close(ThreeFactor().update_operator(flow)(err), eprop / ALPHA)
    differ(ThreeFactor().update_operator(flow)(err), eprop)


@names
def test_modulators(close, differ, name) -> None:
    flow, _ = draw(name)
    width = flow.P.domain.shape[2]
    readout = Readout(width, 2, hidden=slice(0, UNITS), generator=0, dtype=F64)
    e = normal(5, 2, 5, 2)
    err = e @ readout.full_weight().detach()
    B = FeedbackAlignment(3).feedback(readout)
    one = torch.zeros_like(B)
    one[:, :UNITS] = B[:, :1]
    plain = ThreeFactor().update_operator(flow)
    for modulator, matrix in (("neuron", B), ("global", one)):
        rule = ThreeFactor(modulator=modulator, seed=3)
        close(rule.update_operator(flow, readout)(err), plain(e @ matrix), 1e-10)
        differ(rule.update_operator(flow, readout)(err), plain(err))
    composed = ThreeFactor() @ FeedbackAlignment(3)
    close(composed.update_operator(flow, readout)(err), plain(e @ B), 1e-10)


@names
def test_a_trainable_initial_state_learns_along_the_leak(close, differ, name) -> None:
    model = build(name, trainable_initial_state=True)
    with torch.no_grad():
        model.h0.copy_(normal(4, model.width))
    flow = linearize(model, normal(1, 2, 4, INPUTS))
    err = normal(3, 2, 4, model.width)
    if name == "vanilla":
        assert not ThreeFactor().gradient(flow, err)["h0"].any()
        return
    parts = model.width // UNITS
    back = torch.zeros(2, parts, UNITS, dtype=F64)
    for t in reversed(range(4)):
        back = back + err[:, t].reshape(2, parts, UNITS)
        back = torch.einsum("bcdn,bcn->bdn", leaks(name, flow, t), back)
    total = back.sum(0).reshape(-1)
    close(ThreeFactor().gradient(flow, err)["h0"], total, 1e-10)
    exact = flow.J.T(flow.P.T(err))
    part = flow.J.domain["parameter"].part("h0")
    differ(exact[part.slice], total)


@names
def test_states_move_by_the_exact_P_J(close, differ, name) -> None:
    flow, err = draw(name)
    rule = ThreeFactor("state")
    close(rule.flow_operator(flow)(err), flow.P(flow.J(rule.update_operator(flow)(err))), 1e-10)
    differ(rule.flow_operator(flow)(err), flow.Phi(err))
    assert not rule.flow_operator(flow).positive


def test_refusals() -> None:
    wrapped = linearize(wrap(torch.nn.GRUCell(2, 3)).double(), normal(0, 2, 3, 2))
    with pytest.raises(UnsupportedError, match=r"three_factor needs the .* SiteModel"):
        ThreeFactor().update_operator(wrapped)
    stacked = linearize(build("gru", num_layers=2), normal(0, 2, 3, INPUTS))
    with pytest.raises(UnsupportedError, match=r"SiteModel of one stage, to drop them .*got 2 stages"):
        ThreeFactor().update_operator(stacked)
    flow, _ = draw("gru")
    with pytest.raises(UnsupportedError, match="readout: expected the readout"):
        ThreeFactor(modulator="neuron").update_operator(flow)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"post": "rate"}, "post: expected one of 'none', 'state', got 'rate'"),
        ({"trace": 1.1}, r"trace: expected .*>= 0 and <= 1, got 1.1"),
        ({"trace": float("nan")}, "trace: expected .*, got nan"),
        ({"modulator": "dopamine"}, "modulator: expected one of 'error', 'neuron', 'global', got 'dopamine'"),
        ({"seed": -1}, "seed: expected int >= 0"),
    ],
)
def test_arguments(arguments, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        ThreeFactor(**arguments)


def test_formulas() -> None:
    flow, _ = draw("gru")
    assert repr(ThreeFactor()) == "ThreeFactor(post='none', trace=None, modulator='error', seed=0)"
    assert repr(ThreeFactor().update_operator(flow)) == "J[z]* P[trace]*"
    assert repr(ThreeFactor("state").flow_operator(flow)) == "P J J[z h]* P[trace]*"


class Decaying(ThreeFactor):
    def __init__(self) -> None:
        super().__init__("state", 0.8, "global")


@parametrize_with_checks([ThreeFactor, Decaying], kind="rule")
@pytest.mark.rows(4)
def test_conformance(check) -> None:
    check()
