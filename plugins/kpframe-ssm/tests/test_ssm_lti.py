"""The model ``lti`` against SciPy's simulators, filters and discretisations."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import scipy.signal
import torch
from kpframe_ssm.lti import LTI

from kpframe import linearize
from kpframe.errors import ArgumentError, ShapeError, StabilityWarning


def matrices(model) -> list[np.ndarray]:
    return [getattr(model, name).detach().numpy() for name in "ABCD"]


def test_trajectory_and_output_are_dlsim(make, draw, close, differ) -> None:
    """dlsim returns x[k] before the update by u[k]: ours at step t is its x[t + 1]."""
    model = make("lti")
    x = draw(1, 50, 3, seed=1)
    h0 = draw(1, 4, seed=2)
    A, B, C, D = matrices(model)
    longer = np.concatenate([x[0].numpy(), np.zeros((1, 3))])
    _, _, xout = scipy.signal.dlsim((A, B, C, D, 1.0), longer, x0=h0[0].numpy())
    run = model.rollout(x, h0)
    close(run.states[0], torch.from_numpy(xout[1:]), 1e-12)
    differ(run.states[0], torch.from_numpy(xout[:-1]))
    # y_t = C h_t + D x_t reads the updated state: the outputs of (A, B, C A, C B + D) in dlsim's count
    _, y, _ = scipy.signal.dlsim((A, B, C @ A, C @ B + D, 1.0), x[0].numpy(), x0=h0[0].numpy())
    close(model.output(run)[0], torch.from_numpy(y), 1e-12)
    _, late, _ = scipy.signal.dlsim((A, B, C, D, 1.0), x[0].numpy(), x0=h0[0].numpy())
    differ(model.output(run)[0], torch.from_numpy(late))


def test_impulse_response_is_a_filter(close, differ) -> None:
    """A third-order transfer function through ``lfilter``, and its companion form as a model."""
    numerator, denominator = np.array([0.4, -0.3, 0.2, 0.1]), np.array([1.0, -1.2, 0.7, -0.1])
    A, B, C, D = scipy.signal.tf2ss(numerator, denominator)
    # tf2ss's y[k] = C x[k] + D u[k] reads the state before the update: C A^-1 reads it after
    Ci = C @ np.linalg.inv(A)
    model = LTI.from_matrices(*(torch.from_numpy(np.asarray(M)) for M in (A, B, Ci, D - Ci @ B)))
    u = np.random.default_rng(0).normal(size=80)
    y = model.output(model.rollout(torch.from_numpy(u)[None, :, None]))[0, :, 0]
    close(y, torch.from_numpy(scipy.signal.lfilter(numerator, denominator, u)), 1e-11)
    differ(y, torch.from_numpy(scipy.signal.lfilter(numerator[::-1], denominator, u)))


@pytest.mark.parametrize("method", ["zoh", "bilinear"])
def test_discretisation_is_scipys(draw, close, differ, method) -> None:
    A = draw(4, 4, seed=1) - 3 * torch.eye(4, dtype=torch.float64)
    B, C, D = draw(4, 2, seed=2), draw(3, 4, seed=3), draw(3, 2, seed=4)
    model = LTI.from_continuous(A, B, C, D, dt=0.3, discretisation=method)
    expected = scipy.signal.cont2discrete([M.numpy() for M in (A, B, C, D)], 0.3, method=method)
    for name, matrix in zip("AB", expected, strict=False):
        close(getattr(model, name), torch.from_numpy(matrix), 1e-13)
    other = "bilinear" if method == "zoh" else "zoh"
    wrong = scipy.signal.cont2discrete([M.numpy() for M in (A, B, C, D)], 0.3, method=other)
    differ(model.B, torch.from_numpy(wrong[1]))
    assert torch.equal(model.C.detach(), C)
    assert torch.equal(model.D.detach(), D)


def test_zoh_of_a_singular_system() -> None:
    """An integrator has no inverse of A; the exponential of the augmented matrix needs none."""
    A, B = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    with pytest.warns(StabilityWarning, match="spectral radius of A: expected a number below 1, got 1"):
        model = LTI.from_continuous(A, B, B, B, dt=0.25)
    assert model.A.item() == pytest.approx(1, rel=1e-15)
    assert model.B.item() == pytest.approx(0.25, rel=1e-15)


def test_gradients(make, draw, close, differ) -> None:
    """J* P* Err against the backward pass of an independent loop, for the states and for the output."""
    model = make("lti")
    x, err = draw(2, 7, 3, seed=1), draw(2, 7, 2, seed=2)
    theta = [getattr(model, name).detach().clone().requires_grad_() for name in "ABCD"]
    A, B, C, D = theta
    h, loss = torch.zeros(2, 4, dtype=torch.float64), 0.0
    for t in range(7):
        h = torch.einsum("ij,bj->bi", A, h) + torch.einsum("ij,bj->bi", B, x[:, t])
        y = torch.einsum("ij,bj->bi", C, h) + torch.einsum("ij,bj->bi", D, x[:, t])
        loss = loss + (y * err[:, t]).sum()
    loss.backward()
    (model.output(model.rollout(x)) * err).sum().backward()
    for name, reference in zip("ABCD", theta, strict=True):
        close(getattr(model, name).grad, reference.grad, 1e-12)
    flow = linearize(model, x)
    gradient = (flow.J.T @ flow.P.T)(err @ model.C.detach())
    parts = {part.name: part.slice for part in flow.J.domain["parameter"].parts}
    for name, reference in zip("AB", theta, strict=False):
        close(gradient[parts[name]], reference.grad.flatten(), 1e-12)
    differ(flow.J.T(err @ model.C.detach())[parts["A"]], A.grad.flatten())


def test_products_with_a_constant_matrix(make, draw, close, differ) -> None:
    """P[t, s] = A^(t-s), one matrix kept; another may take its place on the paths through time."""
    model = make("lti")
    flow = linearize(model, draw(1, 5, 3, seed=1))
    A = model.A.detach()
    blocks = flow.P.to_dense().reshape(5, 4, 5, 4)
    for t in range(5):
        for s in range(t + 1):
            close(blocks[t, :, s], torch.linalg.matrix_power(A, t - s), 1e-13)
    other = flow.A.replace({"A": A.T.contiguous()})
    close(other.blocks()[0, 2], A.T, 1e-15)
    differ(other.blocks(), flow.A.blocks())


@pytest.mark.parametrize("size", [1, 5, 40])
def test_spectral_radius(size) -> None:
    model = LTI(2, size, spectral_radius=0.6, seed=3)
    eigenvalues = np.linalg.eigvals(model.A.detach().numpy().astype(float))
    assert np.abs(eigenvalues).max() == pytest.approx(0.6, rel=1e-5)


def test_unstable_matrices_warn() -> None:
    eye = torch.eye(2, dtype=torch.float64)
    with pytest.warns(StabilityWarning, match=r"expected a number below 1, got 1\.2") as caught:
        model = LTI.from_matrices(1.2 * eye, eye, eye, eye)
    assert caught[0].filename == __file__
    assert model.rollout(torch.ones(1, 3, 2, dtype=torch.float64)).states[0, -1, 0].item() == pytest.approx(
        1 + 1.2 + 1.44
    )
    LTI.from_matrices(0.99 * eye, eye, eye, eye)  # no warning, which would be an error here


def test_refusals() -> None:
    eye = torch.eye(2)
    with pytest.raises(ShapeError, match=r"B: expected shape \[2, 3\], got \[3, 3\]"):
        LTI.from_matrices(eye, torch.eye(3), eye, eye)
    with pytest.raises(ShapeError, match=r"A: expected a matrix, got shape \[2\]"):
        LTI.from_matrices(eye[0], eye, eye, eye)
    with pytest.raises(ArgumentError, match="dt: expected a positive number, got 0"):
        LTI.from_continuous(eye, eye, eye, eye, dt=0.0)
    with pytest.raises(ArgumentError, match="discretisation: expected 'zoh' or 'bilinear', got 'tustin'"):
        LTI.from_continuous(eye, eye, eye, eye, dt=0.1, discretisation="tustin")
    with pytest.raises(ArgumentError, match="spectral_radius: expected float >= 0 and < 1, got 1"):
        LTI(2, 2, spectral_radius=1.0)
