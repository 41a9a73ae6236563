"""The model ``s4d`` against SciPy's simulators, filters and discretisations, with complex modes."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import scipy.signal
import torch
from kpframe_ssm.discretise import diagonal, phi1
from kpframe_ssm.hippo import hippo_normal, s4d_spectrum
from kpframe_ssm.s4d import S4D

from kpframe import linearize
from kpframe.errors import ArgumentError, ShapeError, StabilityWarning

FORMS = ["s4d", "s4d bilinear", "s4d legs, no encoder", "s4d unconstrained"]


def continuous(model) -> tuple[np.ndarray, ...]:
    """Return A, B, C ``[C, N]`` complex, D, dt and the encoder, from the parameters by their definition."""
    p = {name: value.double().numpy() for name, value in model.state_dict().items()}
    real = -np.exp(p["log_A_real"]) if "log_A_real" in p else p["A_real"]
    B, C = (p[name][..., 0] + 1j * p[name][..., 1] for name in "BC")
    encoder = p.get("encoder", np.eye(len(p["D"])))
    return real + 1j * p["A_imag"], B, C, p["D"], np.exp(p["log_dt"]), encoder


def discrete(model, c: int, method: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return SciPy's discrete lambda ``[N]`` and Bbar ``[N]`` of a channel, mode by mode."""
    A, B, C, D, dt, _ = continuous(model)
    found = []
    for a, b, k in zip(A[c], B[c], C[c], strict=True):
        system = tuple(np.array([[value]]) for value in (a, b, k, D[c]))
        Ad, Bd, *_ = scipy.signal.cont2discrete(system, dt[c], method=method or model.discretisation)
        found.append((Ad.item(), Bd.item()))
    return tuple(np.array(column) for column in zip(*found, strict=True))


@pytest.mark.parametrize("form", FORMS)
def test_discretisation_is_scipys(make, close, differ, form) -> None:
    model = make(form)
    now = model.coefficients()
    decay = now.decay.detach().unflatten(0, (4, 2))
    gain = torch.complex(*now.drive.gain.detach())
    other = "bilinear" if model.discretisation == "zoh" else "zoh"
    for c in range(4):
        lam, bbar = (torch.from_numpy(v) for v in discrete(model, c))
        close(decay[c], lam, 1e-13)
        close(gain[c], bbar, 1e-13)
    wrong = [discrete(model, c, other) for c in range(4)]
    _, bbar = (torch.from_numpy(np.stack(v)) for v in zip(*wrong, strict=True))
    differ(gain, bbar, 1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_trajectory_is_a_filter_in_complex_arithmetic(make, draw, close, differ, form) -> None:
    """Each mode is ``lfilter([bbar], [1, -lambda], v)``; the output sums their real parts."""
    model = make(form)
    x = draw(2, 60, model.input_size, seed=3)
    *_, C, D, _, encoder = continuous(model)
    v = x.numpy() @ encoder.T
    modes = np.empty((2, 60, 4, 2), dtype=complex)
    for c in range(4):
        for n, (lam, bbar) in enumerate(zip(*discrete(model, c), strict=True)):
            modes[:, :, c, n] = scipy.signal.lfilter([bbar], [1, -lam], v[:, :, c], axis=1)
    flat = torch.from_numpy(modes.reshape(2, 60, 8))
    run = model.rollout(x)
    close(run.states, torch.cat([flat.real, flat.imag], dim=-1), 1e-12)
    differ(run.states, torch.cat([flat.imag, flat.real], dim=-1))
    y = torch.from_numpy((C * modes).real.sum(-1) + D * v)
    close(model.output(run), y, 1e-12)
    differ(model.output(run), torch.from_numpy((C.conj() * modes).real.sum(-1) + D * v))


@pytest.mark.parametrize("form", FORMS)
def test_trajectory_is_dlsim_of_the_real_pairs(make, draw, close, form) -> None:
    model = make(form)
    x, h0 = draw(1, 40, model.input_size, seed=3), draw(1, 16, seed=4)
    *_, encoder = continuous(model)
    lam, bbar = (np.concatenate(v) for v in zip(*(discrete(model, c) for c in range(4)), strict=True))
    A = np.block([[np.diag(lam.real), -np.diag(lam.imag)], [np.diag(lam.imag), np.diag(lam.real)]])
    E = np.repeat(encoder, 2, axis=0)
    B = np.concatenate([bbar.real[:, None] * E, bbar.imag[:, None] * E])
    W, D = model.output_weight().detach().numpy(), np.zeros((4, model.input_size))
    longer = np.concatenate([x[0].numpy(), np.zeros((1, model.input_size))])
    _, _, xout = scipy.signal.dlsim((A, B, W, D, 1.0), longer, x0=h0[0].numpy())
    run = model.rollout(x, h0)
    close(run.states[0], torch.from_numpy(xout[1:]), 1e-12)
    close(model.input_weight(), torch.from_numpy(B), 1e-13)
    skip = model.D.detach().numpy() * (x[0].numpy() @ encoder.T)
    close(model.output(run)[0], torch.from_numpy(xout[1:] @ W.T + skip), 1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_gradients(make, draw, close, differ, form) -> None:
    """Against the backward pass of a loop in complex arithmetic, written from the definition."""
    model = make(form)
    x, err, out = draw(2, 7, model.input_size, seed=1), draw(2, 7, 16, seed=2), draw(2, 7, 4, seed=3)
    p = {name: value.detach().clone().requires_grad_() for name, value in model.named_parameters()}
    real = -torch.exp(p["log_A_real"]) if "log_A_real" in p else p["A_real"]
    A = real + 1j * p["A_imag"]
    B, C = (torch.view_as_complex(p[name]) for name in "BC")
    dt = torch.exp(p["log_dt"])[:, None]
    if model.discretisation == "zoh":
        lam = torch.exp(A * dt)
        bbar = (lam - 1) / A * B
    else:
        lam = (2 + A * dt) / (2 - A * dt)
        bbar = 2 * dt / (2 - A * dt) * B
    v = x @ p["encoder"].T if "encoder" in p else x
    z, loss = torch.zeros(2, 4, 2, dtype=torch.complex128), 0.0
    for t in range(7):
        z = lam * z + bbar * v[:, t, :, None]
        h = torch.cat([z.real.flatten(1), z.imag.flatten(1)], dim=1)
        y = (C * z).real.sum(-1) + p["D"] * v[:, t]
        loss = loss + (h * err[:, t]).sum() + (y * out[:, t]).sum()
    loss.backward()
    run = model.rollout(x)
    ((run.states * err).sum() + (model.output(run) * out).sum()).backward()
    for name, reference in p.items():
        close(model.get_parameter(name).grad, reference.grad, 1e-10)
    flow = linearize(model, x)
    gradient = (flow.J.T @ flow.P.T)(err + out @ model.output_weight().detach())
    for part in flow.J.domain["parameter"].parts:
        if part.name not in ("C", "D", "encoder"):  # D v depends on the encoder past the state
            close(gradient[part.slice], p[part.name].grad.flatten(), 1e-10)
    differ(flow.J.T(err), gradient)


def test_phi1_near_zero() -> None:
    """Values and both first derivatives to full precision, where the quotient has lost them all."""
    points = [0, 1e-300, 1e-12j, 1e-5 + 1e-5j, 0.3 - 0.9j, 0.999, 1.001, 1j, -3 + 40j, -30 + 1j]
    z = torch.tensor(points, dtype=torch.complex128, requires_grad=True)
    value = phi1(z)
    sizes = value.detach().abs().tolist()
    (first,) = torch.autograd.grad(value.real.sum(), z, create_graph=True)
    (second,) = torch.autograd.grad(first.real.sum(), z)
    with mpmath.workdps(60):
        for order, found in enumerate((value, first.conj(), second.conj())):
            for point, got in zip(points, found.tolist(), strict=True):
                terms = (
                    mpmath.rf(j + 1, order) * mpmath.mpc(point) ** j / mpmath.factorial(j + order + 1)
                    for j in range(250)
                )
                expected, scale = (
                    complex(mpmath.fsum(terms)),
                    sizes[points.index(point)],
                )
                assert abs(got - expected) <= 3e-15 * max(abs(expected), scale), (order, point)
    naive = (torch.exp(z) - 1) / z
    assert abs(complex(naive[3].detach()) - complex(value[3].detach())) > 1e-13


@pytest.mark.parametrize("rate", [0.0, -1e-30, -1e-9 + 1e-9j])
def test_no_nan_where_lambda_dt_vanishes(rate) -> None:
    A = torch.tensor([[rate, -0.5 + 1j]], dtype=torch.complex128)
    one = torch.ones(1, 2, dtype=torch.complex128)
    dt, D = torch.tensor([1e-3], dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    if rate == 0:
        with pytest.warns(StabilityWarning):
            model = S4D.from_continuous(A, one, one, D, dt)
    else:
        model = S4D.from_continuous(A, one, one, D, dt)
    decay, gain = diagonal(A, dt, "zoh")
    assert complex(gain[0, 0]) == pytest.approx(1e-3, rel=1e-11)
    assert complex(decay[0, 0]) == pytest.approx(1, abs=1e-11)
    x = torch.ones(1, 4, 1, dtype=torch.float64)
    model.rollout(x).states.square().sum().backward()
    rates = "log_A_real" if model.constrained else "A_real"
    for name in (rates, "A_imag", "log_dt", "B"):
        assert bool(torch.isfinite(model.get_parameter(name).grad).all()), name
    # d h / d Re A at A = 0: h_t = dt Sum_s (1 + A dt (t - s + 1/2)), by hand
    if rate == 0:
        t = torch.arange(1, 5, dtype=torch.float64)
        by_rate = 1e-6 * t**2 / 2
        expected = float((2 * 1e-3 * t * by_rate).sum())
        assert float(model.A_real.grad[0, 0]) == pytest.approx(expected, rel=1e-12)


def test_initial_spectra() -> None:
    """S4D-Lin, S4D-Inv and the spectrum of HiPPO-LegS' normal part, from the published formulas."""
    n = np.arange(5)
    assert np.allclose(s4d_spectrum("lin", 5).numpy(), -0.5 + 1j * np.pi * n, rtol=1e-15)
    inverse = -0.5 + 1j * 10 / np.pi * (10 / (2 * n + 1) - 1)
    assert np.allclose(s4d_spectrum("inv", 5).numpy(), inverse, rtol=1e-15)
    N = 10
    A = np.zeros((N, N))
    for i in range(N):
        A[i, i] = -(i + 1)
        for j in range(i):
            A[i, j] = -math.sqrt((2 * i + 1) * (2 * j + 1))
    P = np.sqrt(np.arange(N) + 0.5)
    normal = A + np.outer(P, P)
    eigenvalues = np.linalg.eigvals(normal)
    expected = sorted(value.imag for value in eigenvalues if value.imag > 0)
    values, vectors = (v.numpy() for v in hippo_normal(5))
    assert np.allclose(values.imag, expected, rtol=1e-12)
    assert np.allclose(values.real, -0.5)
    assert np.allclose(normal @ vectors, vectors * values, atol=1e-12)
    assert np.allclose(vectors.conj().T @ vectors, np.eye(5), atol=1e-12)
    for init in ("lin", "inv", "legs"):
        model = S4D(2, 3, 5, init=init, seed=0)
        spectrum = s4d_spectrum(init, 5).imag.float().expand(3, 5)
        assert torch.equal(model.A_imag.detach(), spectrum)
        assert torch.allclose(model.A.detach().real, torch.tensor(-0.5))


def test_time_steps_are_log_uniform() -> None:
    log_dt = S4D(1, 4000, 1, dt_min=0.001, dt_max=0.1, seed=0).log_dt.detach() / math.log(10)
    assert -3 <= float(log_dt.min()) < -2.99
    assert -1.01 < float(log_dt.max()) <= -1
    assert float(log_dt.mean()) == pytest.approx(-2, abs=0.03)  # stderr 2 / sqrt(12 * 4000) = 0.009


def test_from_continuous_takes_what_it_is_given(draw, close) -> None:
    A = torch.complex(-draw(3, 2, seed=1).exp(), draw(3, 2, seed=2))
    B, C = (torch.complex(draw(3, 2, seed=s), draw(3, 2, seed=s + 1)) for s in (3, 5))
    D, dt = draw(3, seed=7), draw(3, seed=8).exp()
    model = S4D.from_continuous(A, B, C.conj(), D, dt, discretisation="bilinear")
    assert model.constrained
    close(model.A, A, 1e-15)
    close(torch.view_as_complex(model.C.detach()), C.conj().resolve_conj(), 1e-15)
    decay, _ = diagonal(A, dt[:, None], "bilinear")
    close(model.coefficients().decay, decay.flatten(), 1e-14)


def test_instability() -> None:
    with pytest.warns(StabilityWarning, match=r"modes with Re A < 0 \(\|lambda\| < 1\), got Re A = 0.1") as c:
        S4D(2, 3, 2, constrained=False, real=0.1)
    assert c[0].filename == __file__
    one = torch.ones(1, 1, dtype=torch.complex128)
    real = torch.ones(1, dtype=torch.float64)
    with pytest.warns(StabilityWarning, match="got Re A = 0: states grow or never decay"):
        model = S4D.from_continuous(1j * one, one, one, real, real)
    assert not model.constrained
    assert float(model.coefficients().decay.detach().abs()) == pytest.approx(1, rel=1e-15)
    S4D(2, 3, 2, constrained=False, real=-0.1)  # no warning, which would be an error here


def test_refusals() -> None:
    one, real = torch.ones(2, 1, dtype=torch.complex128), torch.ones(2, dtype=torch.float64)
    with pytest.raises(ShapeError, match=r"C: expected shape \[2, 1\], got \[1, 1\]"):
        S4D.from_continuous(-one, one, one[:1], real, real)
    with pytest.raises(ShapeError, match="A: expected a complex tensor"):
        S4D.from_continuous(real, one, one, real, real)
    with pytest.raises(ArgumentError, match="dt: expected 2 positive numbers, got"):
        S4D.from_continuous(-one, one, one, real, 0 * real)
    with pytest.raises(ArgumentError, match="real: expected a number below 0, or constrained=False, got 0"):
        S4D(2, 2, real=0.0)
    with pytest.raises(ArgumentError, match="input_size: expected hidden_size=3 without an encoder, got 2"):
        S4D(2, 3, encoder=False)
    with pytest.raises(ArgumentError, match="dt_min, dt_max: expected dt_min <= dt_max, got 1"):
        S4D(2, 2, dt_min=1.0, dt_max=0.1)
    for name in ("init", "discretisation", "scan"):
        with pytest.raises(ArgumentError, match=f"{name}: expected .*, got 'no'"):
            S4D(2, 2, **{name: "no"})
