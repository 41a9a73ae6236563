"""Lyapunov and finite-time exponents against eigenvalues, singular values and the Lorenz system."""

from __future__ import annotations

import pytest
import torch

from kpframe import Model, linearize
from kpframe.errors import ArgumentError
from kpframe.spectra.lyapunov import LyapunovSpectrum, finite_time_exponents, lyapunov_exponents
from kpframe.step_jacobian import DenseStepJacobian

F64 = torch.float64


def constant(matrix: torch.Tensor, steps: int, batch: int = 2) -> DenseStepJacobian:
    return DenseStepJacobian(matrix.expand(batch, steps, *matrix.shape).contiguous())


def with_eigenvalues(values: list[float], seed: int = 0) -> torch.Tensor:
    """Return a non-normal matrix with real eigenvalues."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.randn(len(values), len(values), dtype=F64, generator=generator)
    return basis @ torch.diag(torch.tensor(values, dtype=F64)) @ torch.linalg.inv(basis)


def test_a_linear_system_has_the_logarithms_of_its_eigenvalues() -> None:
    values = [1.1, 0.9, -0.6, 0.2]
    expected = torch.tensor(values, dtype=F64).abs().log()
    found = lyapunov_exponents(constant(with_eigenvalues(values), 400), discard=250)
    torch.testing.assert_close(found.exponents, expected.expand(2, 4), rtol=0, atol=1e-10)
    halved = lyapunov_exponents(constant(with_eigenvalues(values), 400), discard=250, dt=0.5, k=2)
    torch.testing.assert_close(halved.exponents[0], 2 * expected[:2], rtol=0, atol=1e-10)
    other = lyapunov_exponents(constant(with_eigenvalues([1.2, 0.9, -0.6, 0.2]), 400), discard=250)
    assert (other.mean - expected)[0].abs() > 0.05


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_ten_thousand_steps_neither_overflow_nor_underflow(scale: float) -> None:
    matrix = with_eigenvalues([1.5, 0.5]) * scale
    found = lyapunov_exponents(constant(matrix, 10_000, batch=1), discard=100)
    expected = torch.tensor([1.5, 0.5], dtype=F64).log() + torch.tensor(scale, dtype=F64).log()
    torch.testing.assert_close(found.mean, expected, rtol=1e-10, atol=1e-10)


def test_finite_time_exponents_are_the_singular_values_of_the_transition() -> None:
    generator = torch.Generator().manual_seed(1)
    blocks = torch.randn(3, 9, 4, 4, dtype=F64, generator=generator)
    A = DenseStepJacobian(blocks)
    for t, s, first, last in ((-1, None, 0, 8), (6, 2, 3, 6)):
        product = torch.eye(4, dtype=F64).expand(3, 4, 4)
        for step in range(first, last + 1):
            product = blocks[:, step] @ product
        expected = torch.linalg.svdvals(product).log() / (last - first + 1)
        torch.testing.assert_close(finite_time_exponents(A, t, s), expected, rtol=0, atol=1e-9)
        assert (expected - lyapunov_exponents(A).exponents).abs().max() > 1e-3


class Lorenz(Model):
    """The Lorenz system (sigma 10, rho 28, beta 8/3) by the classical Runge-Kutta method."""

    def __init__(self, dt: float) -> None:
        super().__init__(1, {"xyz": 3})
        self.dt = dt
        self.rho = torch.nn.Parameter(torch.tensor(28.0, dtype=F64))

    def _velocity(self, h: torch.Tensor) -> torch.Tensor:
        x, y, z = h.unbind(-1)
        return torch.stack([10 * (y - x), x * (self.rho - z) - y, x * y - 8 / 3 * z], dim=-1)

    def step(self, x: torch.Tensor, h: torch.Tensor, t: torch.Tensor | None = None) -> torch.Tensor:
        k1 = self._velocity(h)
        k2 = self._velocity(h + self.dt / 2 * k1)
        k3 = self._velocity(h + self.dt / 2 * k2)
        k4 = self._velocity(h + self.dt * k3)
        return h + self.dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


@pytest.mark.slow
def test_lorenz() -> None:
    """0.906, 0, -14.57 per unit time (Sprott, Chaos and Time-Series Analysis, 2003)."""
    torch.manual_seed(0)
    dt, trials, steps = 0.01, 100, 6000
    start = torch.tensor([1.0, 1.0, 25.0], dtype=F64) + torch.randn(trials, 3, dtype=F64)
    flow = linearize(Lorenz(dt), torch.zeros(trials, steps, 1, dtype=F64), h0=start)
    assert flow.P.method == "dense"
    found = lyapunov_exponents(flow.A, dt=dt, discard=1000)
    mean = found.mean
    assert float(mean[0]) == pytest.approx(0.906, abs=0.02)
    assert float(mean[1]) == pytest.approx(0, abs=0.02)
    assert float(mean[2]) == pytest.approx(-14.57, abs=0.05)
    assert float(found.dimension.mean()) == pytest.approx(2.062, abs=0.01)
    assert float(found.expansion_rate.mean()) == pytest.approx(0.906, abs=0.03)


def test_dimension_and_expansion_rate() -> None:
    spectrum = LyapunovSpectrum(
        torch.tensor([[0.9, 0.0, -14.6], [-0.1, -0.2, -0.3], [1.0, 0.5, 0.2]]), 1.0, 10
    )
    torch.testing.assert_close(spectrum.dimension, torch.tensor([2 + 0.9 / 14.6, 0.0, 3.0]))
    torch.testing.assert_close(spectrum.expansion_rate, torch.tensor([0.9, 0.0, 1.7]))
    assert "3 trials, 10 steps" in repr(spectrum)
    assert torch.isnan(LyapunovSpectrum(torch.zeros(1, 2), 1.0, 1).stderr).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 3}, r"k: expected a whole number in \[1, 2\], got 3"),
        ({"k": 0}, r"k: expected"),
        ({"discard": 5}, r"discard: expected a whole number in \[0, 4\], got 5"),
        ({"dt": 0}, r"dt: expected a positive number, got 0"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        lyapunov_exponents(constant(torch.eye(2, dtype=F64), 5), **arguments)


def test_finite_time_indices_out_of_range() -> None:
    A = constant(torch.eye(2, dtype=F64), 5)
    with pytest.raises(ArgumentError, match=r"s: expected an index below t = 2, got 2"):
        finite_time_exponents(A, 2, 2)
    with pytest.raises(ArgumentError, match=r"t: expected a time index in \[-5, 4\], got 5"):
        finite_time_exponents(A, 5)


def test_a_singular_step_has_no_finite_exponent_left() -> None:
    found = lyapunov_exponents(constant(torch.diag(torch.tensor([2.0, 0.0], dtype=F64)), 5), discard=2)
    assert float(found.mean[0]) == pytest.approx(float(torch.tensor(2.0).log()))
    assert float(found.mean[1]) == -torch.inf
