"""The forms of the scan: they are equal, adjoint, differentiable, and chosen by cost."""

from __future__ import annotations

import pytest
import torch
from kpframe_ssm.lru import LRU
from kpframe_ssm.scan import choose, linear_scan, recur
from kpframe_ssm.step import (
    ChunkedModePropagator,
    FFTModePropagator,
    ModePropagator,
    ModeStepJacobian,
    SequentialModePropagator,
    check_scan,
    in_form,
)

from kpframe import create_model, linearize
from kpframe.errors import ArgumentError, UnsupportedError
from kpframe.flow import DiagonalStepJacobian, ScanPropagator
from kpframe.operators import state_space


def draw_complex(*shape: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.complex128)


def decays(time: int, batch: int, n: int, seed: int, real: bool = False) -> torch.Tensor:
    """Return decays inside the unit disc, one of them zero and one of modulus 1."""
    a = draw_complex(time, 1, batch, n, seed=seed)
    a = a / (1 + a.abs())
    a[..., 0] = 0
    a[..., 1] /= a[..., 1].abs()
    return a.real.contiguous() if real else a


def loop(decay: torch.Tensor, source: torch.Tensor, reverse: bool) -> torch.Tensor:
    decay = decay.expand(len(source), *decay.shape[1:])
    out = torch.zeros_like(source)
    for i in range(len(source)):
        t = len(source) - 1 - i if reverse else i
        out[t] = source[t]
        if i and reverse:
            out[t] += decay[t + 1].conj() * out[t + 1]
        elif i:
            out[t] += decay[t] * out[t - 1]
    return out


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("time", [1, 2, 3, 16, 17, 50, 63])
@pytest.mark.parametrize("varying", ["constant", "by step", "by step and trial", "real"])
@pytest.mark.rows(6)
def test_forms_are_equal(close, differ, varying, time, reverse) -> None:
    real = varying == "real"
    decay = decays(1 if varying == "constant" else time, 1 + (varying == "by step and trial"), 4, 1, real)
    source = draw_complex(time, 3, 2, 4, seed=2)
    source = source.real.contiguous() if real else source
    expected = loop(decay, source, reverse)
    before = source.clone()
    for method in ("sequential", "chunked", "auto") + (("fft",) if varying == "constant" else ()):
        close(recur(decay, source, method, reverse), expected, 1e-12)
    assert torch.equal(source, before)
    if time > 1:
        differ(recur(decay, source, "chunked", not reverse), expected)


@pytest.mark.parametrize("method", ["sequential", "chunked", "fft"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("varying", [False, True], ids=["constant", "varying"])
@pytest.mark.rows(6)
def test_derivatives(method, reverse, varying) -> None:
    """First and second, by both arguments, also for batches of cotangents."""
    if varying and method == "fft":
        method = "auto"
    decay = (0.9 * decays(4 if varying else 1, 1 + varying, 2, seed=1)).requires_grad_()
    source = draw_complex(4, 1, 2, 2, seed=2).requires_grad_()

    def scan(a: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        return linear_scan(a, s, method, reverse)

    assert torch.autograd.gradcheck(scan, (decay, source), check_batched_grad=True)
    assert torch.autograd.gradgradcheck(scan, (decay, source))


@pytest.mark.parametrize("method", ["sequential", "chunked"])
def test_vmap(close, method) -> None:
    """torch.func's transforms go through the scan."""
    decay, source = decays(1, 1, 3, seed=1, real=True), draw_complex(20, 1, 2, 3, seed=2).real
    many = torch.stack([source, 2 * source, source.flip(0)])
    out = torch.func.vmap(lambda s: linear_scan(decay, s, method))(many)
    close(out, torch.stack([linear_scan(decay, s, method) for s in many]), 1e-14)
    by_decay = torch.func.jacrev(lambda a: linear_scan(a, source, method).sum((0, 2)))(decay)
    leaf = decay.clone().requires_grad_()
    (expected,) = torch.autograd.grad(linear_scan(leaf, source, method)[..., 2].sum(), leaf)
    close(by_decay[0, 2], expected, 1e-14)


def test_choice() -> None:
    """Chunks where a step is small and there are many, steps where each is work enough."""
    constant, varying = decays(1, 1, 8, seed=1), decays(100, 1, 8, seed=1)
    small, short = draw_complex(100, 1, 2, 8, seed=2), draw_complex(20, 1, 2, 8, seed=2)
    large = draw_complex(1, 1, 20, 256, seed=2).expand(100, 1, 20, 256)
    assert choose("auto", constant, small) == "chunked"
    assert choose("auto", constant, short) == "sequential"
    assert choose("auto", constant, large) == "sequential"
    assert choose("auto", constant, large.to("meta")) == "chunked"
    assert choose("fft", constant, large) == "fft"
    assert choose("fft", varying, small) == "chunked"
    assert choose("chunked", constant, short) == "chunked"
    assert choose("sequential", constant, small) == "sequential"


def test_the_flow_says_which_and_takes_another(draw, close, differ) -> None:
    model = LRU(2, 3, seed=0).double()
    x, q = draw(2, 40, 2, seed=1), draw(2, 40, 6, seed=2)
    flow = linearize(model, x)
    assert flow.P.method == "chunked"
    assert "P: chunked" in repr(flow)
    assert linearize(model, x[:, :8]).P.method == "sequential"
    twin = linearize(model, x, method="autograd").P
    for scan in ("sequential", "chunked", "fft"):
        P = flow.with_propagator(f"modes_{scan}").P
        assert P.method == scan
        assert repr(P) == "P"
        close(P(q), twin(q), 1e-12)
        close(P.T(q), twin.T(q), 1e-12)
        assert linearize(LRU(2, 3, seed=0, scan=scan), x.float()).P.method == scan
    mask = torch.ones(2, 40, dtype=torch.bool)
    mask[0, 30:] = False
    held = linearize(LRU(2, 3, seed=0, scan="fft").double(), x, None, mask)  # lambda is 1 at held steps
    assert held.P.method == "chunked"
    close(held.P(q), linearize(model, x, None, mask, method="autograd").P(q), 1e-12)
    differ(held.P(q), flow.P(q))
    with pytest.raises(UnsupportedError, match="needs the same lambda at every step"):
        held.with_propagator("modes_fft")


@pytest.mark.parametrize("form", [SequentialModePropagator, ChunkedModePropagator, FFTModePropagator])
@pytest.mark.parametrize("name", ["lru", "mamba"])
@pytest.mark.rows(3)
def test_a_changed_A_keeps_the_form_where_it_fits(draw, close, differ, form, name) -> None:
    model, x = create_model(name, input_size=2, hidden_size=3, seed=0).double(), draw(2, 40, 2, seed=1)
    flow = linearize(model, x)
    q = draw(2, 40, model.width, seed=2)
    if form is FFTModePropagator and name == "mamba":
        with pytest.raises(UnsupportedError, match="needs the same lambda at every step"):
            form(flow.A)
        return
    P = form(flow.A, name="P_rule")
    keep = torch.arange(40) % 7 != 3
    twin = linearize(model, x, method="autograd").P
    cut, reference = P.with_step(P.A.masked(keep)), twin.with_step(twin.A.masked(keep))
    assert type(cut) is (ModePropagator if form is FFTModePropagator else form)
    assert repr(cut) == "P_rule"
    close(cut(q), reference(q), 1e-12)
    close(cut.T(q), reference.T(q), 1e-12)
    differ(cut(q), P(q))
    assert isinstance(P.chunked(5), ModePropagator)
    close(P.chunked(5).T(q), twin.chunked(5).T(q), 1e-12)
    assert type(P.with_step(P.A.diagonal())) is ScanPropagator
    assert type(P.with_step(P.A)) is form


def test_a_convolution_is_not_taken_for_modes_that_grow(draw, close) -> None:
    """Its error is eps of the largest power of lambda, here 1e21, whatever the product's size."""
    lam = torch.full((1, 1, 1, 1), 1.05, dtype=torch.complex128)
    A = ModeStepJacobian(lam, state_space(1, 1000, {"re": 1, "im": 1}))
    with pytest.raises(UnsupportedError, match=r"needs \|lambda\| <= 1, got 1.05"):
        FFTModePropagator(A)
    assert type(in_form("fft", A)) is ModePropagator
    q = torch.zeros(1, 1000, 2, dtype=torch.float64)
    q[:, -20:] = draw(1, 20, 2, seed=1)
    expected = ScanPropagator(A)(q)
    close(in_form("fft", A)(q), expected, 1e-12)
    convolved = A.propagate(q, "fft")
    assert float((convolved - expected).norm()) > 1e-3 * float(expected.norm())


def test_other_dynamics_have_no_modes(draw) -> None:
    A = DiagonalStepJacobian(draw(1, 5, 2, seed=0))
    for form in (ModePropagator, SequentialModePropagator, ChunkedModePropagator, FFTModePropagator):
        with pytest.raises(UnsupportedError, match="it scans over modes that do not mix"):
            form(A)
    with pytest.raises(ArgumentError, match="'chunked', 'fft', got 'parallel'"):
        check_scan("parallel")


@pytest.mark.parametrize("method", ["sequential", "chunked", "fft"])
def test_long_and_slow(method) -> None:
    """10,000 steps with |lambda| = 1 - 1e-5, against the closed form of a constant source."""
    lam = torch.polar(torch.tensor([1 - 1e-5], dtype=torch.float64), torch.tensor([0.3], dtype=torch.float64))
    y = recur(lam.view(1, 1, 1, 1), torch.ones(10000, 1, 1, 1, dtype=torch.complex128), method)
    t = torch.arange(1, 10001, dtype=torch.float64)
    expected = (1 - torch.exp(t * torch.log(lam))) / (1 - lam)
    assert float((y[:, 0, 0, 0] - expected).abs().max()) <= 1e-12 * float(expected.abs().max())


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("lru", {"hidden_size": 20000}),
        ("s4d", {"hidden_size": 2500, "state_size": 8, "encoder": False, "input_size": 2500}),
        ("mamba", {"hidden_size": 2500, "state_size": 13}),
    ],
)
def test_nothing_of_the_size_of_a_square(draw, close, differ, name, settings) -> None:
    """States of 40,000 over 8 steps: dense Jacobians of the steps would take 50 GB."""
    model = create_model(name, **{"input_size": 2, "seed": 0} | settings)
    assert model.width == 40000
    x = draw(1, 8, model.input_size, seed=1).float()
    flow = linearize(model, x)
    q = draw(1, 8, model.width, seed=2).float()
    moved = flow.Phi(q)
    assert float((moved * q).sum()) > 0
    close(flow.P.inverse(flow.P(q)), q, 1e-5)
    differ(flow.P(q), q)
