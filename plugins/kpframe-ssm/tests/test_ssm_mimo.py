"""The models ``s5`` and ``lru`` against loops in NumPy, written from the papers' equations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from kpframe_ssm.hippo import hippo_normal
from kpframe_ssm.lru import LRU
from kpframe_ssm.s5 import S5

from kpframe import linearize
from kpframe.errors import ArgumentError

FORMS = ["s5", "s5 bilinear", "lru", "lru gamma"]


def coefficients(model, p: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    """Return lambda ``[n]``, Bbar ``[n, I]``, C ``[O, n]`` and D, complex, by the papers' formulas."""
    if isinstance(model, LRU):  # Orvieto et al., equation 6 and section 3.4
        lam = np.exp(-np.exp(p["nu_log"]) + 1j * np.exp(p["theta_log"]))
        gamma = np.exp(p["gamma_log"]) if "gamma_log" in p else np.sqrt(1 - np.abs(lam) ** 2)
        B = gamma[:, None] * (p["B_re"] + 1j * p["B_im"])
        return lam, B, p["C_re"] + 1j * p["C_im"], p["D"]
    A = -np.exp(p["log_A_real"]) + 1j * p["A_imag"]
    step = np.exp(p["log_dt"])
    B, C = (p[name][..., 0] + 1j * p[name][..., 1] for name in "BC")
    if model.discretisation == "zoh":  # Smith et al., equation 6
        lam = np.exp(A * step)
        return lam, ((lam - 1) / A)[:, None] * B, C, p["D"]
    BL = 1 / (1 - step / 2 * A)
    return BL * (1 + step / 2 * A), (BL * step)[:, None] * B, C, p["D"]


@pytest.mark.parametrize("form", FORMS)
def test_trajectory_and_output(make, draw, close, differ, form) -> None:
    model = make(form)
    x, h0 = draw(2, 40, 3, seed=1), draw(2, 8, seed=2)
    p = {name: value.numpy() for name, value in model.state_dict().items()}
    lam, B, C, D = coefficients(model, p)
    states, outputs = np.zeros((2, 40, 8)), np.zeros((2, 40, len(C)))
    for b in range(2):
        z = h0[b, :4].numpy() + 1j * h0[b, 4:].numpy()
        for t in range(40):
            z = lam * z + B @ x[b, t].numpy()
            states[b, t] = np.concatenate([z.real, z.imag])
            outputs[b, t] = (C @ z).real + D @ x[b, t].numpy()
    run = model.rollout(x, h0)
    close(run.states, torch.from_numpy(states), 1e-12)
    close(model.output(run), torch.from_numpy(outputs), 1e-12)
    differ(model.rollout(x).states, torch.from_numpy(states))
    differ(model.output(run), torch.from_numpy(states[..., : len(C)]))
    close(run.states @ model.output_weight().T + x @ model.D.T, torch.from_numpy(outputs), 1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_gradients(make, draw, close, differ, form) -> None:
    """Against the backward pass of a loop in complex arithmetic, written from the papers."""
    model = make(form)
    outputs = model.output_size
    x, err, out = draw(2, 7, 3, seed=1), draw(2, 7, 8, seed=2), draw(2, 7, outputs, seed=3)
    p = {name: value.detach().clone().requires_grad_() for name, value in model.named_parameters()}
    if form.startswith("lru"):
        lam = torch.exp(-torch.exp(p["nu_log"]) + 1j * torch.exp(p["theta_log"]))
        gamma = torch.exp(p["gamma_log"]) if "gamma_log" in p else torch.sqrt(1 - lam.abs() ** 2)
        B, C = gamma[:, None] * torch.complex(p["B_re"], p["B_im"]), torch.complex(p["C_re"], p["C_im"])
    else:
        A, step = -torch.exp(p["log_A_real"]) + 1j * p["A_imag"], torch.exp(p["log_dt"])
        B, C = (torch.view_as_complex(p[name]) for name in "BC")
        if form == "s5":
            lam = torch.exp(A * step)
            B = ((lam - 1) / A)[:, None] * B
        else:
            lam = (2 + A * step) / (2 - A * step)
            B = (2 * step / (2 - A * step))[:, None] * B
    z, loss = torch.zeros(2, 4, dtype=torch.complex128), 0.0
    for t in range(7):
        z = lam * z + x[:, t].to(z.dtype) @ B.T
        y = (z @ C.T).real + x[:, t] @ p["D"].T
        loss = loss + (torch.cat([z.real, z.imag], dim=1) * err[:, t]).sum() + (y * out[:, t]).sum()
    loss.backward()
    run = model.rollout(x)
    ((run.states * err).sum() + (model.output(run) * out).sum()).backward()
    for name, reference in p.items():
        close(model.get_parameter(name).grad, reference.grad, 1e-10)
    flow = linearize(model, x)
    gradient = (flow.J.T @ flow.P.T)(err + out @ model.output_weight().detach())
    for part in flow.J.domain["parameter"].parts:
        if not part.name.startswith(("C", "D")):
            close(gradient[part.slice], p[part.name].grad.flatten(), 1e-10)
    differ(flow.J.T(err + out @ model.output_weight().detach()), gradient)


def test_ring() -> None:
    """At the start lambda is uniform on the ring: |lambda|^2 and the phase are uniform."""
    model = LRU(1, 20000, r_min=0.5, r_max=0.9, max_phase=1.0, seed=0)
    decay = model.coefficients().decay.detach()
    square, phase = decay.abs() ** 2, decay.angle()
    assert float(square.min()) >= 0.25 - 1e-6
    assert float(square.max()) <= 0.81 + 1e-6
    assert float(phase.min()) >= 0
    assert float(phase.max()) <= 1 + 1e-6
    # stderr of a quantile at 1/2: width / (2 sqrt(20000)) = 0.35 % of the width
    assert float(square.median()) == pytest.approx(0.53, abs=0.56 * 0.014)
    assert float(phase.median()) == pytest.approx(0.5, abs=0.014)


@pytest.mark.parametrize("trainable", [False, True])
def test_gamma_normalises_white_noise(draw, trainable) -> None:
    """Under white input each mode's variance is that of its input, whatever its |lambda|."""
    model = LRU(2, 5, r_min=0.3, r_max=0.95, trainable_gamma=trainable, seed=0).double()
    lam = model.coefficients().decay.detach()
    states = model.rollout(draw(1, 60000, 2, seed=1)).states[0, 1000:]
    variance = states[:, :5].var(0) + states[:, 5:].var(0)
    expected = (model.B_re**2 + model.B_im**2).sum(1).detach()
    assert torch.allclose(variance, expected, rtol=0.12)
    plain = expected / (1 - lam.abs() ** 2)
    assert float((plain / expected).max()) > 1.5


def test_gamma_near_the_unit_circle() -> None:
    """1 - |lambda|^2 keeps its digits where |lambda| rounds to 1."""
    model = LRU(1, 1, seed=0).double()
    with torch.no_grad():
        model.nu_log.fill_(math.log(1e-18))
        model.B_re.fill_(1.0)
    assert float(model.coefficients().decay.detach().abs()) == 1
    gain = float(model.coefficients().drive.B.detach()[0, 0])
    assert gain == pytest.approx(math.sqrt(2e-18), rel=1e-12)


def test_s5_starts_from_hippo() -> None:
    """A is HiPPO-LegS' normal spectrum, and B, C are real matrices in its eigenvectors' basis."""
    model = S5(3, 6, output_size=2, seed=0).double()
    values, vectors = hippo_normal(6)
    A = model.A.detach()
    assert torch.allclose(A, values, rtol=1e-6)
    full = torch.cat([vectors, vectors.conj()], dim=1)  # the conjugate modes with it
    B = torch.view_as_complex(model.B.detach())
    real = full @ torch.cat([B, B.conj()])
    assert float(real.imag.abs().max()) <= 1e-12
    assert float(real.real.std()) == pytest.approx(3**-0.5, rel=0.3)
    # C carries the conjugates' factor 2: Re(C z) is the real output of the real system
    C = torch.view_as_complex(model.C.detach()) / 2
    original = torch.cat([C, C.conj()], dim=1) @ full.mH
    assert float(original.imag.abs().max()) <= 1e-6
    assert float(original.real.std()) == pytest.approx(12**-0.5, rel=0.4)


def test_refusals() -> None:
    with pytest.raises(ArgumentError, match=r"r_min, r_max: expected r_min <= r_max, got 0\.9, 0\.5"):
        LRU(2, 3, r_min=0.9, r_max=0.5)
    with pytest.raises(ArgumentError, match=r"max_phase: expected float > 0 and <= 6\.28.*, got 7"):
        LRU(2, 3, max_phase=7.0)
    for kind in (LRU, S5):
        with pytest.raises(ArgumentError, match=r"output_size: expected int . None >= 1, got 0"):
            kind(2, 3, output_size=0)
        with pytest.raises(ArgumentError, match=r"hidden_size: expected int >= 1, got 2\.5"):
            kind(2, 2.5)
        with pytest.raises(ArgumentError, match="input_size: expected int >= 1, got 0"):
            kind(0, 2)
    with pytest.raises(ArgumentError, match="dt_min: expected float > 0 and < inf, got 0"):
        S5(2, 3, dt_min=0.0)
