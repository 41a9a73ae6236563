"""Random feedback local online learning, against its eligibility traces."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kpframe import Readout, Site, SiteModel, create_rule, linearize
from kpframe.errors import UnsupportedError

SEEDS = st.integers(0, 2**31 - 1)
ALPHA = {"vanilla": 1.0, "rate": 0.4, "current": 0.4}


def traces(here, name: str, err: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the gradients by Murray's traces, for all weights of a network of one component.

    ``p_ij(t) = (1-a) p_ij(t-1) + a phi'(u_i) z_j``, with the rates for z and no slope in the current form.
    """
    model, a = here.model, ALPHA[name]
    theta = {key: p.detach() for key, p in model.trainable().items()}
    gradient = {key: torch.zeros_like(p) for key, p in theta.items()}
    for b in range(len(here.x)):
        h = here.h0[b]
        p = {key: torch.zeros_like(value) for key, value in theta.items()}
        for t in range(here.x.shape[1]):
            if here.mask is not None and not here.mask[b, t]:
                for key in p:  # the state is held, and what it depends on
                    gradient[key] += (err[b, t] if p[key].ndim == 1 else err[b, t][:, None]) * p[key]
                continue
            z = torch.tanh(h) if name == "current" else h
            u = theta["weight_ih_l0"] @ here.x[b, t] + theta["weight_hh_l0"] @ z
            u = u + theta["bias_ih_l0"] + theta["bias_hh_l0"]
            slope = torch.ones_like(u) if name == "current" else 1 - torch.tanh(u) ** 2
            sources = {"weight_ih_l0": here.x[b, t], "weight_hh_l0": z}
            for key in p:
                drive = a * slope
                if key in sources:
                    drive = drive[:, None] * sources[key]
                p[key] = (1 - a) * p[key] + drive
                gradient[key] += (err[b, t] if p[key].ndim == 1 else err[b, t][:, None]) * p[key]
            h = (1 - a) * h + a * (u if name == "current" else torch.tanh(u))
    return gradient


@settings(max_examples=6)
@given(seed=SEEDS, time=st.integers(3, 6), masked=st.booleans())
@pytest.mark.rows(2)
def test_update_is_that_of_the_traces(make, close, differ, leaky, seed, time, masked) -> None:
    here = make(leaky, seed, time, masked=masked)
    flow = here.flow()
    update = create_rule("rflo").gradient(flow, here.err)
    exact = create_rule("bptt").gradient(flow, here.err)
    for key, expected in traces(here, leaky, here.err).items():
        close(update[key], expected)
        differ(exact[key], expected, 1e-6)


@settings(max_examples=5)
@given(seed=SEEDS)
@pytest.mark.rows(2)
def test_random_feedback(make, close, differ, leaky, seed) -> None:
    here = make(leaky, seed)
    flow = here.flow()
    readout = Readout(4, 3, generator=2, dtype=torch.float64)
    e = here.err[..., :3]
    err = e @ readout.weight.detach()
    rule = create_rule("rflo", feedback="random", seed=5)
    B = rule.update(flow, readout).feedback
    update = rule.gradient(flow, err, readout)
    for key, expected in traces(here, leaky, e @ B).items():
        close(update[key], expected)
        differ(create_rule("rflo").gradient(flow, err, readout)[key], expected)


def test_without_a_leak_it_is_truncation_to_one_step(make, close, differ) -> None:
    readout = Readout(4, 2, generator=2, dtype=torch.float64)
    rule, one = create_rule("rflo"), create_rule("truncated_bptt", window=1)
    for name in ("vanilla", "rate"):
        here = make(name)
        flow = here.flow()
        err = here.err[..., :2] @ readout.weight.detach()
        pair = rule.update_operator(flow, readout)(err), one.update_operator(flow, readout)(err)
        if name == "vanilla":
            close(*pair)
            random = create_rule("rflo", feedback="random").update_operator(flow, readout)(err)
            differ(random, pair[1])
        else:
            differ(*pair)


class Linear(SiteModel):
    """``h' = (1-a) h + a (W h + U x)`` with a leak of each unit."""

    def __init__(self, leak: torch.Tensor) -> None:
        sites = (Site("weight_ih", "input", "u"), Site("weight_hh", "h", "u"))
        super().__init__(2, len(leak), ("h",), sites)
        self.leak = leak
        generator = torch.Generator().manual_seed(3)
        for name, width in (("weight_ih", 2), ("weight_hh", len(leak))):
            drawn = torch.randn(len(leak), width, generator=generator, dtype=torch.float64)
            setattr(self, name, torch.nn.Parameter(0.4 * drawn))

    def combine(self, u, h, t=None):
        return {"h": (1 - self.leak) * h["h"] + self.leak * u["u"]}


@settings(max_examples=5)
@given(seed=SEEDS, outputs=st.integers(1, 3))
def test_a_linear_network_learns_in_as_many_directions_as_it_has_outputs(seed, outputs) -> None:
    generator = torch.Generator().manual_seed(seed)
    model = Linear(torch.full((6,), 0.3, dtype=torch.float64))
    flow = linearize(model, torch.randn(4, 9, 2, generator=generator, dtype=torch.float64))
    readout = Readout(6, outputs, generator=seed, dtype=torch.float64)
    e = torch.randn(4, 9, outputs, generator=generator, dtype=torch.float64)
    err = e @ readout.weight.detach()
    for feedback in ("readout", "random"):
        rule = create_rule("rflo", feedback=feedback)
        change = rule.gradient(flow, err, readout)["weight_hh"]
        assert int(torch.linalg.matrix_rank(change, rtol=1e-9)) == outputs
    exact = create_rule("bptt").gradient(flow, err)["weight_hh"]
    assert int(torch.linalg.matrix_rank(exact, rtol=1e-9)) == 6


def test_units_with_leaks_of_their_own(close, differ) -> None:
    leak = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    flow = linearize(Linear(leak), torch.randn(2, 5, 2, generator=generator, dtype=torch.float64))
    P = create_rule("rflo").propagator(flow)
    expected = torch.diag_embed((1 - leak).expand(2, 3)) ** 3
    steps = P.to_dense().reshape(2, 5, 3, 2, 5, 3)
    close(torch.stack([steps[b, 4, :, b, 1] for b in range(2)]), expected)
    differ(steps[0, 4, :, 0, 1], steps[0, 4, :, 0, 2])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "gru",
            r"rflo needs a constant leak; here the direct path of state entry \d goes from .*eprop",
        ),
        ("lstm", "rflo needs a constant leak; .*snap1 the whole path"),
        (
            "cell",
            "rflo needs the direct path of the step Jacobian.*snap1 and truncated_bptt work on any",
        ),
    ],
)
def test_models_without_a_constant_leak(make, name, message) -> None:
    flow = make(name).flow()
    with pytest.raises(UnsupportedError, match=message):
        create_rule("rflo").update(flow)


class Crossed(Linear):
    """Two components, each of which decays into the other at a constant rate."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        SiteModel.__init__(self, 2, 2, ("h", "s"), (Site("weight_ih", "input", "u"),))
        self.weight_ih = torch.nn.Parameter(torch.ones(2, 2, dtype=torch.float64))

    def combine(self, u, h, t=None):
        return {"h": 0.5 * h["s"] + u["u"], "s": 0.9 * h["s"] + 0.1 * h["h"]}


def test_a_leak_from_one_component_to_another(make) -> None:
    flow = linearize(Crossed(), torch.ones(1, 4, 2, dtype=torch.float64))
    with pytest.raises(UnsupportedError, match="the direct path leads from one component of the state to"):
        create_rule("rflo").update(flow)
    assert create_rule("eprop").update(flow).P.domain.shape == (1, 4, 4)


def test_after_chunks_and_formula(make, close, differ) -> None:
    here = make("rate")
    flow = here.flow()
    rule = create_rule("rflo")
    assert repr(rule) == "RFLO(feedback='readout', seed=0)"
    assert repr(rule.flow_operator(flow)) == "P K P[leak]*"
    chunks = create_rule("truncated_bptt", window=3, mode="chunked")
    P = (rule @ chunks).propagator(flow).to_dense().reshape(2, 6, 4, 2, 6, 4)
    assert not P[0, 3:, :, 0, :3].any()
    close(P[0, 2, :, 0, 0], 0.6**2 * torch.eye(4, dtype=torch.float64))
    differ(P[0, 2, :, 0, 0], P[0, 2, :, 0, 1])
