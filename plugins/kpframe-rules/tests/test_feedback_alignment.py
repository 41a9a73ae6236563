"""Feedback alignment: at the outputs, direct, and through time.

The references are loops over plain formulas of each cell, differentiated by autograd.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from attrs import frozen
from hypothesis import given, settings
from hypothesis import strategies as st
from kpframe_rules.feedback_alignment import DirectFeedbackAlignment, FeedbackAlignment
from kpframe_rules.feedback_through_time import FeedbackThroughTime
from kpframe_rules.rflo import RFLO

from kpframe import Flow, Model, Readout, create_model, linearize, wrap
from kpframe.errors import ArgumentError, ShapeError, UnsupportedError
from kpframe.testing import parametrize_with_checks

F64 = torch.float64
INPUTS, UNITS, OUTPUTS, ALPHA = 3, 4, 2, 0.4
SEEDS = st.integers(0, 2**31 - 1)
SITES = {
    "vanilla": ("rnn", {"gain": 1.2}),
    "rate": ("rnn", {"gain": 1.2, "form": "rate", "alpha": ALPHA}),
    "current": ("rnn", {"gain": 1.2, "form": "current", "alpha": ALPHA}),
    "gru": ("gru", {}),
    "lstm": ("lstm", {}),
}
NAMES = [*SITES, "wrapped"]
Product = Callable[[torch.Tensor], torch.Tensor]


def build(name: str, seed: int, **more) -> Model:
    if name == "wrapped":
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return wrap(torch.nn.LSTMCell(INPUTS, UNITS, dtype=F64), **more).double()
    model, given_settings = SITES[name]
    pytest.importorskip(f"kpframe_{model}")
    sizes = {"input_size": INPUTS, "hidden_size": UNITS, "seed": seed % 2**32}
    return create_model(model, **sizes, **given_settings, **more).double()


@frozen(eq=False)
class Trial:
    """A model, two trials, a readout of its first component, and errors ``e [B, T, O]`` at its outputs."""

    name: str
    model: Model
    x: torch.Tensor
    h0: torch.Tensor
    readout: Readout
    e: torch.Tensor
    feedback: torch.Tensor  # [O, H]

    def flow(self) -> Flow:
        return linearize(self.model, self.x, self.h0)

    @property
    def err(self) -> torch.Tensor:
        return self.e @ self.readout.full_weight().detach()

    def step(self, t: int, h: torch.Tensor, product: Product | None = None) -> torch.Tensor:
        if self.name == "wrapped":
            return self.model.step(self.x[:, t], h)
        p = dict(self.model.named_parameters())
        product = (lambda z: z @ p["weight_hh_l0"].T) if product is None else product
        return formula(self.name, p, self.x[:, t], h, product)

    def gradient(self, err: torch.Tensor, product: Product | None = None, window: int = 0) -> torch.Tensor:
        """Return the gradient of ``<err, h>`` by autograd; ``window=1`` cuts the state between steps."""
        h, total = self.h0, torch.zeros((), dtype=F64)
        for t in range(self.x.shape[1]):
            h = self.step(t, h.detach() if window else h, product)
            total = total + (err[:, t] * h).sum()
        theta = tuple(self.model.trainable().values())
        found = torch.autograd.grad(total, theta, allow_unused=True, materialize_grads=True)
        return torch.cat([g.reshape(-1) for g in found])


def formula(
    name: str, p: Mapping[str, torch.Tensor], x: torch.Tensor, h: torch.Tensor, product: Product
) -> torch.Tensor:
    """Return the next state of a cell, written out; ``product`` multiplies with the recurrent weight."""
    drive = x @ p["weight_ih_l0"].T + p["bias_ih_l0"]
    b = p["bias_hh_l0"]
    if name == "vanilla":
        return torch.tanh(drive + product(h) + b)
    if name == "rate":
        return (1 - ALPHA) * h + ALPHA * torch.tanh(drive + product(h) + b)
    if name == "current":
        return (1 - ALPHA) * h + ALPHA * (drive + product(torch.tanh(h)) + b)
    if name == "gru":
        r_in, z_in, n_in = drive.chunk(3, dim=1)
        r_hid, z_hid, n_hid = (product(h) + b).chunk(3, dim=1)
        z = torch.sigmoid(z_in + z_hid)
        n = torch.tanh(n_in + torch.sigmoid(r_in + r_hid) * n_hid)
        return (1 - z) * n + z * h
    h, c = h.chunk(2, dim=1)
    i, f, g, o = (drive + product(h) + b).chunk(4, dim=1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.cat([torch.sigmoid(o) * torch.tanh(c), c], dim=1)


class Aligned(torch.autograd.Function):
    """``z W^T``, whose backward sends errors to z through another matrix."""

    @staticmethod
    def forward(ctx, z, weight, other):
        ctx.save_for_backward(z, other)
        return z @ weight.T

    @staticmethod
    def backward(ctx, g):
        z, other = ctx.saved_tensors
        return g @ other, g.T @ z, None


def make(name: str, seed: int = 0, time: int = 5, **more) -> Trial:
    model = build(name, seed, **more)
    generator = torch.Generator().manual_seed(seed + 1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=F64)

    part = slice(0, UNITS)  # h of an LSTM, everything else's state
    readout = Readout(model.width, OUTPUTS, hidden=part, generator=seed, dtype=F64)
    feedback = torch.zeros(OUTPUTS, model.width, dtype=F64)
    feedback[:, part] = normal(OUTPUTS, UNITS)
    x, h0, e = normal(2, time, INPUTS), normal(2, model.width), normal(2, time, OUTPUTS)
    return Trial(name, model, x, h0, readout, e, feedback)


names = pytest.mark.parametrize("name", NAMES)
sites = pytest.mark.parametrize("name", list(SITES))


# -- at the outputs ------------------------------------------------------------------------------------------


@names
@settings(max_examples=4)
@given(seed=SEEDS, time=st.integers(2, 6))
@pytest.mark.rows(3)
def test_errors_come_through_B(close, differ, name, seed, time) -> None:
    here = make(name, seed, time)
    rule, flow = FeedbackAlignment.of_matrix(here.feedback), here.flow()
    update = rule.update_operator(flow, here.readout)(here.err)
    close(update, here.gradient(here.e @ here.feedback), 1e-10)
    differ(update, here.gradient(here.err))
    close(rule.update(flow, here.readout).output_operator(here.e), update, 1e-10)


@names
def test_the_readouts_own_weights_give_backpropagation(close, differ, name) -> None:
    here = make(name)
    flow = here.flow()
    own = FeedbackAlignment.of_matrix(here.readout.weight)
    close(own.update_operator(flow, here.readout)(here.err), here.gradient(here.err), 1e-10)
    close(own.flow_operator(flow, here.readout)(here.err), flow.Phi(here.err), 1e-10)
    differ(FeedbackAlignment().update_operator(flow, here.readout)(here.err), here.gradient(here.err))


@names
def test_linear_in_B(close, differ, name) -> None:
    here = make(name)
    flow, other = here.flow(), make(name, 7).feedback

    def update(matrix: torch.Tensor) -> torch.Tensor:
        return FeedbackAlignment.of_matrix(matrix).update_operator(flow, here.readout)(here.err)

    close(update(2 * here.feedback - 0.3 * other), 2 * update(here.feedback) - 0.3 * update(other), 1e-10)
    differ(update(here.feedback + other), update(here.feedback) - update(other))


def test_the_draw_is_fixed_and_has_the_size_asked_for(close, differ) -> None:
    readout = Readout(300, 40, hidden=slice(100, 300), generator=0, dtype=F64)
    drawn = FeedbackAlignment(3).feedback(readout)
    assert drawn.shape == (40, 300)
    assert not drawn[:, :100].any()
    assert float(drawn[:, 100:].std()) == pytest.approx(float(readout.weight.detach().std()), rel=0.03)
    assert float(drawn.abs().max()) <= 200**-0.5
    close(FeedbackAlignment(3, std=0.5).feedback(readout)[:, 100:].std(), torch.tensor(0.5, dtype=F64), 0.02)
    differ(FeedbackAlignment(4).feedback(readout), drawn)
    with torch.no_grad():
        readout.weight.mul_(9)  # what the readout learns does not change B
    assert torch.equal(FeedbackAlignment(3).feedback(readout), drawn)


def test_a_random_rule_is_that_feedback_on_the_rule(close, differ) -> None:
    here = make("rate")
    flow = here.flow()
    composed = (FeedbackAlignment(5) @ RFLO()).update_operator(flow, here.readout)(here.err)
    close(composed, RFLO(feedback="random", seed=5).update_operator(flow, here.readout)(here.err))
    differ(composed, RFLO().update_operator(flow, here.readout)(here.err))
    both = FeedbackThroughTime() @ FeedbackAlignment.of_matrix(here.feedback)
    close(
        both.update_operator(flow, here.readout)(here.err),
        FeedbackThroughTime().update_operator(flow)(here.e @ here.feedback),
    )


# -- direct --------------------------------------------------------------------------------------------------


@names
@settings(max_examples=4)
@given(seed=SEEDS, time=st.integers(2, 6))
@pytest.mark.rows(3)
def test_dfa_does_not_go_back_in_time(close, differ, name, seed, time) -> None:
    here = make(name, seed, time)
    flow, e = here.flow(), here.e
    later = e.flip(1).cumsum(1).flip(1)
    for through, expected in (("none", e), ("broadcast", later)):
        rule = DirectFeedbackAlignment.of_matrix(here.feedback, through=through)
        update = rule.update_operator(flow, here.readout)(here.err)
        close(update, here.gradient(expected @ here.feedback, window=1), 1e-10)
        differ(update, here.gradient(e @ here.feedback))
    differ(here.gradient(e @ here.feedback, window=1), here.gradient(later @ here.feedback, window=1))


@sites
@settings(max_examples=4)
@given(seed=SEEDS, time=st.integers(3, 6))
@pytest.mark.rows(2)
def test_dfa_along_leaks_and_gates(close, differ, name, seed, time) -> None:
    here = make(name, seed, time)
    weight = here.model.get_parameter("weight_hh_l0")
    rule = DirectFeedbackAlignment.of_matrix(here.feedback, through="direct")
    update = rule.update_operator(here.flow(), here.readout)(here.err)
    err = here.e @ here.feedback
    close(update, here.gradient(err, lambda z: z.detach() @ weight.T), 1e-10)
    differ(update, here.gradient(err))


def test_only_a_broadcast_error_reaches_the_steps_before() -> None:
    here = make("vanilla")
    last = torch.zeros_like(here.e)
    last[:, -1] = here.e[:, -1]
    err = last @ here.readout.full_weight().detach()
    flow = here.flow()

    def reached(through: str) -> torch.Tensor:
        P = DirectFeedbackAlignment(through).propagator(flow, here.readout)
        return P.T(err).abs().sum(dim=(0, 2)) > 0

    assert reached("none").tolist() == [False] * 4 + [True]
    assert reached("broadcast").all()


# -- through time --------------------------------------------------------------------------------------------


@sites
@settings(max_examples=4)
@given(seed=SEEDS, time=st.integers(3, 6))
@pytest.mark.rows(2)
def test_errors_travel_through_B(close, differ, name, seed, time) -> None:
    here = make(name, seed, time)
    weight = here.model.get_parameter("weight_hh_l0")
    other = weight.detach().roll(1, 0) * 0.7
    rule = FeedbackThroughTime.of_matrices({"weight_hh_l0": other})
    update = rule.update_operator(here.flow())(here.err)
    close(update, here.gradient(here.err, lambda z: Aligned.apply(z, weight, other)), 1e-10)
    differ(update, here.gradient(here.err))


@sites
def test_the_weights_themselves_give_backpropagation(close, differ, name) -> None:
    here = make(name)
    flow = here.flow()
    own = {"weight_hh_l0": here.model.get_parameter("weight_hh_l0")}
    close(
        FeedbackThroughTime.of_matrices(own).update_operator(flow)(here.err), here.gradient(here.err), 1e-10
    )
    differ(FeedbackThroughTime().update_operator(flow)(here.err), here.gradient(here.err))
    repr_of = repr(FeedbackThroughTime().flow_operator(flow))
    assert repr_of == "P K P[B]*"


def test_each_weight_has_its_own_draw(close, differ) -> None:
    model = build("vanilla", 3, num_layers=2)
    x = torch.randn(2, 4, INPUTS, generator=torch.Generator().manual_seed(0), dtype=F64)
    flow = linearize(model, x)
    every, one = FeedbackThroughTime(seed=2).update(flow).A, FeedbackThroughTime(["*hh_l1"], 2).update(flow).A
    drawn = {p.site.weight: p.weight for p in every.gains.sites if p.site.recurrent}
    chosen = {p.site.weight: p.weight for p in one.gains.sites if p.site.recurrent}
    assert set(drawn) == {"weight_hh_l0", "weight_ih_l1", "weight_hh_l1"}
    assert torch.equal(chosen["weight_hh_l1"], drawn["weight_hh_l1"])
    assert torch.equal(chosen["weight_ih_l1"], model.weight_ih_l1.detach())
    differ(drawn["weight_ih_l1"], model.weight_ih_l1.detach())
    scaled = FeedbackThroughTime(seed=2, std=0.3).update(flow).A.gains.sites
    like = next(p.weight for p in scaled if p.site.weight == "weight_hh_l1")
    rms = model.weight_hh_l1.detach().square().mean().sqrt()
    close(like / 0.3, drawn["weight_hh_l1"] / rms)


# -- what is refused, and the kit ----------------------------------------------------------------------------


def test_refusals() -> None:
    here = make("wrapped")
    flow = here.flow()
    with pytest.raises(UnsupportedError, match="readout: expected the readout that the error comes through"):
        FeedbackAlignment().update_operator(flow)
    with pytest.raises(ShapeError, match=r"matrix: expected shape \[2, 8\] or \[2, 4\], got \[3, 4\]"):
        FeedbackAlignment.of_matrix(torch.ones(3, 4, dtype=F64)).update_operator(flow, here.readout)
    with pytest.raises(
        UnsupportedError, match=r"dfa needs the direct path.*truncated_bptt work on any model"
    ):
        DirectFeedbackAlignment("direct").update_operator(flow, here.readout)
    with pytest.raises(
        UnsupportedError, match=r"feedback_through_time needs .* feedback_alignment, .* any model"
    ):
        FeedbackThroughTime().update_operator(flow)
    site = make("gru").flow()
    with pytest.raises(ArgumentError, match="weights: expected names among weight_hh_l0, got 'weight_hx'"):
        FeedbackThroughTime(["weight_hx"]).update_operator(site)
    with pytest.raises(
        ShapeError, match=r"weights\['weight_hh_l0'\]: expected shape \[12, 4\], got \[4, 4\]"
    ):
        FeedbackThroughTime.of_matrices({"weight_hh_l0": torch.eye(4, dtype=F64)}).update_operator(site)


@pytest.mark.parametrize(
    ("make_rule", "message"),
    [
        (lambda: FeedbackAlignment(-1), "seed: expected int >= 0"),
        (lambda: FeedbackAlignment(std=0.0), "std: expected .*> 0 .*, got 0"),
        (lambda: FeedbackAlignment.of_matrix(torch.eye(2), seed=1), "matrix: expected no seed and no std"),
        (
            lambda: DirectFeedbackAlignment("leak"),
            "through: expected one of 'none', 'direct', 'broadcast', got 'leak'",
        ),
        (lambda: FeedbackThroughTime("weight_hh_l0"), r"weights: expected a list such as \['weight_hh_l0'\]"),
        (lambda: FeedbackThroughTime(std=float("nan")), "std: expected .*, got nan"),
    ],
)
def test_arguments(make_rule, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        make_rule()


def test_repr() -> None:
    assert repr(FeedbackAlignment(2, 0.1)) == "FeedbackAlignment(seed=2, std=0.1)"
    assert repr(FeedbackAlignment.of_matrix(torch.eye(2))) == "FeedbackAlignment(matrix=[2, 2])"
    assert repr(DirectFeedbackAlignment()) == "DirectFeedbackAlignment(through='none', seed=0, std=None)"
    assert repr(FeedbackThroughTime(["w*"])) == "FeedbackThroughTime(weights=['w*'], seed=0, std=None)"


class Direct(DirectFeedbackAlignment):
    def __init__(self) -> None:
        super().__init__("direct")


class Broadcast(DirectFeedbackAlignment):
    def __init__(self) -> None:
        super().__init__("broadcast")


RULES = [FeedbackAlignment, DirectFeedbackAlignment, Direct, Broadcast, FeedbackThroughTime]


@parametrize_with_checks(RULES, kind="rule")
@pytest.mark.rows(9)
def test_conformance(check) -> None:
    check()
