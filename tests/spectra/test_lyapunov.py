"""Lyapunov and finite-time exponents against eigenvalues, singular values and the Lorenz system."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from kpframe import Model, linearize
from kpframe.errors import ArgumentError
from kpframe.flow._step_jacobian import DenseStepJacobian, StepJacobian
from kpframe.spectra._lyapunov import LyapunovSpectrum, finite_time_exponents, lyapunov_exponents
from kpframe.testing._toys import Elman

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


@pytest.mark.slow
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
        torch.testing.assert_close(finite_time_exponents(A, t=t, s=s), expected, rtol=0, atol=1e-9)
        assert (expected - lyapunov_exponents(A).exponents).abs().max() > 1e-3


@pytest.mark.parametrize("gap", [1e-1, 1e-2, 1e-4, 1e-7, 0.0])
@pytest.mark.rows(2)
def test_finite_time_exponents_of_singular_values_close_to_each_other(gap: float) -> None:
    """Sweeps alone would need 1 / gap of them, and stop before."""
    generator = torch.Generator().manual_seed(2)
    left, right = (torch.linalg.qr(torch.randn(2, 4, 4, dtype=F64, generator=generator)).Q for _ in range(2))
    values = torch.tensor([2.0, 2 - 2 * gap, 1e-9, 1e-9 * (1 - gap)], dtype=F64)
    blocks = torch.eye(4, dtype=F64).repeat(2, 5, 1, 1)
    blocks[:, 2] = left * values @ right
    found = finite_time_exponents(DenseStepJacobian(blocks))
    torch.testing.assert_close(found[:, :2], values[:2].log().expand(2, 2) / 5, rtol=0, atol=1e-13)
    torch.testing.assert_close(found[:, 2:], values[2:].log().expand(2, 2) / 5, rtol=0, atol=1e-6)
    product = torch.linalg.svdvals(blocks[:, 2]).log() / 5
    torch.testing.assert_close(found[:, :2], product[:, :2], rtol=0, atol=1e-13)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_finite_time_exponents_of_a_long_product_with_close_values(scale: float) -> None:
    """A product of 60 equal steps V diag V*: its singular values are the steps' to the power of 60."""
    generator = torch.Generator().manual_seed(3)
    basis = torch.linalg.qr(torch.randn(5, 5, dtype=F64, generator=generator)).Q
    values = torch.tensor([1.5, 1.5 * (1 - 1e-5), 1.0, 0.3, 0.3], dtype=F64)
    found = finite_time_exponents(constant(scale * (basis * values) @ basis.T, 60, batch=1), sweeps=5)
    expected = values.log() + torch.tensor(scale, dtype=F64).log()
    torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-12 * float(expected.abs().max()))
    assert float(found[0, 0] - found[0, 1]) == pytest.approx(1e-5, rel=1e-3)


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


def test_the_error_of_the_mean_over_trials() -> None:
    """1, 2 and 6 have the variance 7 (of samples), so their mean is off by sqrt(7 / 3)."""
    spectrum = LyapunovSpectrum(torch.tensor([[1.0, -1.0], [2.0, -1.0], [6.0, -1.0]], dtype=F64), 1.0, 10)
    torch.testing.assert_close(spectrum.stderr, torch.tensor([(7 / 3) ** 0.5, 0.0], dtype=F64))
    torch.testing.assert_close(spectrum.mean, torch.tensor([3.0, -1.0], dtype=F64))
    generator = torch.Generator().manual_seed(0)
    repeated = torch.randn(2000, 9, dtype=F64, generator=generator)  # nine trials, two thousand times
    spread = float(repeated.mean(1).std())
    reported = torch.stack([LyapunovSpectrum(row[:, None], 1.0, 10).stderr for row in repeated])
    assert float(reported.square().mean().sqrt()) == pytest.approx(spread, rel=0.05)


STEPS = 24
#: All steps, one trial that ends early, one that starts late, one with gaps, one that has a single step.
MASK = torch.ones(5, STEPS, dtype=torch.bool)
MASK[1, 7:] = False
MASK[2, :15] = False
MASK[3, torch.tensor([0, 3, 4, 5, 11, 20, 23])] = False
MASK[4] = torch.arange(STEPS) == 9


@cache
def forms() -> list[tuple[StepJacobian, list[StepJacobian]]]:
    """Step Jacobians of a padded flow, and the same of each trial alone without its padding."""
    torch.manual_seed(1)
    model = Elman(3, 4).double()
    x = torch.randn(5, STEPS, 3, dtype=F64)
    out = []
    for method in ("auto", "autograd", "dense"):
        padded = linearize(model, x, mask=MASK, method=method)
        alone = [linearize(model, row[kept][None], method=method) for row, kept in zip(x, MASK, strict=True)]
        out.append((padded.A, [flow.A for flow in alone]))
    sites, trials = out[0]
    pattern = torch.rand(4, 4) < 0.7
    for change in (
        lambda A: A.diagonal(),
        lambda A: A.where(pattern),
        lambda A: A.replace({"weight_hh_l0": A.gains.sites[-1].weight * 1.5}),
        lambda A: 0.5 * A,
        lambda A: A + A.diagonal(),
        lambda A: A.switched(A.diagonal(), torch.zeros(A.steps, dtype=torch.bool)),
        lambda A: A.masked(torch.ones(A.steps, dtype=torch.bool)),
    ):
        out.append((change(sites), [change(A) for A in trials]))
    return out


def test_padding_is_not_averaged_over() -> None:
    for padded, alone in forms():
        found = lyapunov_exponents(padded)
        expected = torch.cat([lyapunov_exponents(A).exponents for A in alone])
        torch.testing.assert_close(found.exponents, expected, rtol=1e-10, atol=1e-10)
        assert found.steps.tolist() == [24, 7, 9, 17, 1]
        assert "5 trials, 1 to 24 steps" in repr(found)
        wrong = found.exponents * found.steps[:, None] / STEPS  # what the length of the batch would give
        assert float((wrong - found.exponents)[1:].abs().min()) > 0.01


@pytest.mark.parametrize("form", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_padding_is_no_part_of_a_finite_time(form: int) -> None:
    padded, alone = forms()[form]
    expected = torch.cat([finite_time_exponents(A) for A in alone])
    found = finite_time_exponents(padded)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    wrong = found * MASK.sum(1)[:, None] / STEPS  # what the length of the batch would give
    assert float((wrong - found)[1:].abs().min()) > 0.01


def test_each_trial_discards_its_own_first_steps() -> None:
    padded, alone = forms()[0]
    found = lyapunov_exponents(DenseStepJacobian(padded.blocks()[:4]).keeping(MASK[:4]), discard=5)
    expected = torch.cat([lyapunov_exponents(A, discard=5).exponents for A in alone[:4]])
    torch.testing.assert_close(found.exponents, expected, rtol=1e-10, atol=1e-10)
    assert found.steps.tolist() == [19, 2, 4, 12]


def test_trials_without_a_step_to_count_are_refused() -> None:
    A = constant(torch.diag(torch.tensor([2.0, 0.5], dtype=F64)), 6)
    A.valid = torch.ones(2, 6, dtype=torch.bool)
    A.valid[1] = False
    with pytest.raises(ArgumentError, match="A: expected at least one valid step in each trial, got 0"):
        lyapunov_exponents(A)
    A.valid[1, 2:4] = True
    with pytest.raises(ArgumentError, match="at least 3 valid steps in each trial, for discard=2, got 2 in"):
        lyapunov_exponents(A, discard=2)
    assert lyapunov_exponents(A, discard=1).steps.tolist() == [5, 1]
    with pytest.raises(ArgumentError, match="A: expected at least one valid step in each trial, got 0"):
        finite_time_exponents(A, t=5, s=3)
    exact = torch.tensor([2.0, 0.5], dtype=F64).log()
    torch.testing.assert_close(finite_time_exponents(A), exact.expand(2, 2), rtol=0, atol=1e-9)


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
        finite_time_exponents(A, t=2, s=2)
    with pytest.raises(ArgumentError, match=r"t: expected a time index in \[-5, 4\], got 5"):
        finite_time_exponents(A, t=5)


def test_a_singular_step_has_no_finite_exponent_left() -> None:
    found = lyapunov_exponents(constant(torch.diag(torch.tensor([2.0, 0.0], dtype=F64)), 5), discard=2)
    assert float(found.mean[0]) == pytest.approx(float(torch.tensor(2.0).log()))
    assert float(found.mean[1]) == -torch.inf
