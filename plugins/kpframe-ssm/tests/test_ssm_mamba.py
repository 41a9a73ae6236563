"""The model ``mamba`` against mambapy's block (traces kept as data) and against a loop in NumPy."""

from __future__ import annotations

from ast import literal_eval
from pathlib import Path

import numpy as np
import pytest
import torch
from kpframe_ssm.mamba import Mamba

from kpframe import linearize
from kpframe.errors import ArgumentError

DATA = Path(__file__).parent / "data"
CASES = ("plain", "biases", "no_conv_bias")


@pytest.fixture(params=CASES)
def reference(request) -> dict[str, np.ndarray]:
    with np.load(DATA / f"mamba_{request.param}.npz") as kept:
        return dict(kept)


def group(reference: dict[str, np.ndarray], kind: str) -> dict[str, torch.Tensor]:
    chosen = {name: value for name, value in reference.items() if name.startswith(kind + " ")}
    return {name.removeprefix(kind + " "): torch.from_numpy(value) for name, value in chosen.items()}


def build(reference: dict[str, np.ndarray], scan: str = "auto") -> Mamba:
    s = literal_eval(str(reference["settings"]))
    model = Mamba(
        s["d_model"],
        s["expand_factor"] * s["d_model"],
        state_size=s["d_state"],
        conv_size=s["d_conv"],
        dt_rank=s.get("dt_rank"),
        bias=s.get("bias", False),
        conv_bias=s.get("conv_bias", True),
        scan=scan,
    ).double()
    model.load_state_dict(group(reference, "parameter"))
    return model


@pytest.mark.parametrize("scan", ["sequential", "chunked"])
def test_trajectory_and_output_are_mambapys(reference, close, differ, scan) -> None:
    model = build(reference, scan)
    x = torch.from_numpy(reference["x"])
    run = model.rollout(x)
    close(run.states, torch.from_numpy(reference["states"]), 1e-13)
    close(model.output(run), torch.from_numpy(reference["y"]), 1e-13)
    other = Mamba(model.input_size, model.hidden_size, model.state_size, model.conv_size, seed=0).double()
    differ(other.rollout(x).states, run.states)


def test_gradients_are_mambapys(reference, close, differ) -> None:
    model = build(reference)
    x = torch.from_numpy(reference["x"])
    (model.output(model.rollout(x)) * torch.from_numpy(reference["err"])).sum().backward()
    for name, gradient in group(reference, "gradient").items():
        close(model.get_parameter(name).grad, gradient, 1e-12)
    flow = linearize(model, x)
    err = torch.from_numpy(reference["err_states"])
    found = (flow.J.T @ flow.P.T)(err)
    expected = group(reference, "state gradient")
    whole = torch.cat([expected[part.name].flatten() for part in flow.J.domain["parameter"].parts])
    close(found, whole, 1e-12)
    differ(flow.J.T(err), whole)
    differ((flow.J.T @ flow.P.T)(err.flip(1)), whole)


def test_the_reference_is_what_it_says(reference) -> None:
    assert "mambapy" in str(reference["versions"])
    assert all(value.dtype == np.float64 for name, value in reference.items() if value.ndim)


def loop(model: Mamba, x: np.ndarray, h0: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return states and outputs, one trial, step, channel and mode at a time, from the paper's equations."""
    p = {name: value.numpy() for name, value in model.state_dict().items()}
    E, N, K, R = model.hidden_size, model.state_size, model.conv_size, model.dt_rank

    def sigmoid(v: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-v))

    states, outputs = np.zeros((*x.shape[:2], E * (K - 1 + N))), np.zeros_like(x)
    for b in range(len(x)):
        past = h0[b, : E * (K - 1)].reshape(E, K - 1)
        h = h0[b, E * (K - 1) :].reshape(E, N).copy()
        for t in range(x.shape[1]):
            projected = p["in_proj.weight"] @ x[b, t] + p.get("in_proj.bias", 0)
            u, z = projected[:E], projected[E:]
            window = np.concatenate([past, u[:, None]], axis=1)
            a = np.empty(E)
            for e in range(E):
                c = sum(p["conv1d.weight"][e, 0, k] * window[e, k] for k in range(K))
                c += p["conv1d.bias"][e] if "conv1d.bias" in p else 0
                a[e] = c * sigmoid(c)
            selected = p["x_proj.weight"] @ a
            delta, B, C = selected[:R], selected[R : R + N], selected[R + N :]
            dt = np.log1p(np.exp(p["dt_proj.weight"] @ delta + p["dt_proj.bias"]))
            y = np.empty(E)
            for e in range(E):
                for n in range(N):
                    h[e, n] = np.exp(-dt[e] * np.exp(p["A_log"][e, n])) * h[e, n] + dt[e] * B[n] * a[e]
                y[e] = C @ h[e] + p["D"][e] * a[e]
            past = window[:, 1:]
            states[b, t] = np.concatenate([past.ravel(), h.ravel()])
            outputs[b, t] = p["out_proj.weight"] @ (y * z * sigmoid(z)) + p.get("out_proj.bias", 0)
    return states, outputs


@pytest.mark.parametrize("form", ["mamba", "mamba biases", "mamba no conv"])
def test_trajectory_and_output_are_those_of_a_loop(make, draw, close, differ, form) -> None:
    model = make(form)
    x, h0 = draw(2, 9, 3, seed=1), draw(2, model.width, seed=2)
    run = model.rollout(x, h0)
    states, outputs = (torch.from_numpy(v) for v in loop(model, x.numpy(), h0.numpy()))
    close(run.states, states, 1e-13)
    close(model.output(run), outputs, 1e-13)
    differ(model.rollout(x).states, states)


def test_channels_mix_only_through_the_selection(make, draw) -> None:
    """A is lower triangular over the components, and diagonal within h: no channel's h reads another's."""
    model = make("mamba")
    blocks = linearize(model, draw(1, 4, 3, seed=1), draw(1, 16, seed=2)).A.blocks()[0]
    conv, h = slice(0, 8), slice(8, 16)
    assert not bool(blocks[:, conv, h].any())
    within = blocks[:, h, h]
    assert torch.equal(within, torch.diag_embed(within.diagonal(dim1=-2, dim2=-1)))
    assert bool(blocks[:, h, conv].any())
    shift = torch.kron(torch.eye(4, dtype=torch.float64), torch.tensor([[0.0, 1.0], [0, 0]]).double())
    assert torch.equal(blocks[:, conv, conv], shift.expand(4, 8, 8))


def test_initial_values() -> None:
    """A = -(1 .. N) in each channel, D = 1, and Delta log-uniform at a zero input, as published."""
    model = Mamba(8, 4000, state_size=3, dt_min=0.01, dt_max=1.0, seed=0)
    rates = torch.tensor([-1.0, -2.0, -3.0]).expand(4000, 3)
    assert torch.allclose(model.A.detach(), rates, rtol=1e-6)
    assert torch.equal(model.D.detach(), torch.ones(4000))
    assert model.dt_rank == 1
    assert Mamba(33, 2).dt_rank == 3
    dt = torch.log10(torch.nn.functional.softplus(model.dt_proj.bias.detach().double()))
    assert -2.001 <= float(dt.min()) < -1.99
    assert -0.01 < float(dt.max()) <= 1e-6
    assert float(dt.mean()) == pytest.approx(-1, abs=0.03)  # stderr 2 / sqrt(12 * 4000) = 0.009


def test_large_steps(draw, close) -> None:
    """Beyond 20 torch's softplus is the identity; so is its derivative in the structured form."""
    model = Mamba(2, 3, state_size=2, conv_size=2, dt_max=40.0, dt_min=30.0, seed=0).double()
    x = draw(1, 3, 2, seed=1)
    flow, twin = linearize(model, x), linearize(model, x, method="autograd")
    close(flow.J.to_dense(), twin.J.to_dense(), 1e-13)


def test_refusals() -> None:
    for name in ("hidden_size", "state_size", "conv_size", "dt_rank"):
        with pytest.raises(ArgumentError, match=f"{name}: expected int .*>= 1, got 0"):
            Mamba(**{"input_size": 2, "hidden_size": 3, name: 0})
    with pytest.raises(ArgumentError, match="'auto', 'sequential', 'chunked', got 'fft'"):
        Mamba(2, 3, scan="fft")
    with pytest.raises(ArgumentError, match="dt_min: expected float > 0 and < inf, got 0"):
        Mamba(2, 3, dt_min=0.0)
