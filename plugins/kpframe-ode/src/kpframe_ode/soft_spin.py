"""Soft spins in double wells: gradient descent on an energy, or Langevin dynamics at a temperature."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping

import torch

from kpframe import Site, Trajectory
from kpframe.errors import ShapeError, StabilityWarning, check_seed, mismatch
from kpframe.models import normal_, uniform_
from kpframe.plugin import takes_settings
from kpframe.tasks import seeded_generator
from kpframe_ode import SoftSpinSettings
from kpframe_ode.site_velocity import SiteODEModel
from kpframe_ode.symmetric import symmetric_hollow


class SoftSpin(SiteODEModel):
    """A soft-spin glass (Sompolinsky & Zippelius 1982, Phys. Rev. B 25:6860)::

        E(h; x) = Sum_i well (h_i^4 / 4 - h_i^2 / 2) - 1/2 h* J h - h*(W_ih x + b)
        dh/dt   = -grad E + sqrt(2 temperature) xi(t)

    with ``J = (V + V*) / 2`` without its diagonal, V being the parameter ``weight_hh_l0``. With Euler's
    method and eta = dt a step is ``h' = h - eta grad E + sqrt(2 eta temperature) xi``, and
    ``A = I - eta Hess E`` is symmetric; exponential Euler has phi_1(well dt) dt in the place of eta,
    ``well h`` being its linear part.

    Chance is passed in: at a temperature above zero, ``hidden_size`` columns of standard normal numbers xi_n,
    which ``with_noise`` draws, stand behind the signals in the input, and the force
    sqrt(2 temperature / dt) xi_n lasts for the step. A, J, P and K are those at this noise. As dt goes to
    zero the states' distribution under constant input tends to Boltzmann's, exp(-E / temperature).

    Explicit methods follow the cubic force only where the step is small: Euler's method leaves the finite
    numbers from about ``h^2 > 1 + 2 / (well dt)`` on.

    Parameters: ``weight_ih_l0 [H, I]``, ``weight_hh_l0 [H, H]``, ``bias_ih_l0 [H]``.

    The wells at -1 and 1 are separated by a barrier of well / 4. Initial weights: those of the input are
    uniform in +-1/sqrt(H), the entries of J are drawn from N(0, coupling^2 / H).

    Attributes:
        signal_size: number of signals; ``input_size`` counts all columns of the input.

    Raises:
        SettingsError: listing the settings that are unusable.
    """

    @takes_settings(SoftSpinSettings)
    def __init__(self, settings: SoftSpinSettings) -> None:
        c = settings
        columns = c.input_size + (c.hidden_size if c.temperature else 0)
        signals = slice(0, c.input_size)
        sites = [
            Site("weight_ih_l0", "input", "field", bias="bias_ih_l0" if c.bias else None, columns=signals),
            Site("coupling_matrix", "h", "field", parameters="weight_hh_l0"),
        ]
        if c.temperature:
            sites.append(Site(None, "input", "noise", columns=slice(c.input_size, columns)))
        super().__init__(
            columns,
            c.hidden_size,
            components=("h",),
            sites=sites,
            dt=c.dt,
            integrator=c.integrator,
            substeps=c.substeps,
            trainable_initial_state=c.trainable_initial_state,
        )
        self.signal_size = c.input_size
        self.temperature, self.well, self.coupling = c.temperature, c.well, c.coupling
        self.weight_ih_l0 = torch.nn.Parameter(torch.empty(c.hidden_size, c.input_size))
        self.weight_hh_l0 = torch.nn.Parameter(torch.empty(c.hidden_size, c.hidden_size))
        if c.bias:
            self.bias_ih_l0 = torch.nn.Parameter(torch.empty(c.hidden_size))
        self.reset_parameters(c.seed)
        if abs(self.scheme.amplification(-2 * c.well, c.well)) > 1:
            warnings.warn(
                f"soft_spin: a step of {self.scheme.step:g} with {c.integrator} does not settle in wells of "
                f"curvature 2 well = {2 * c.well:g}, and may explode; lower dt or raise substeps",
                StabilityWarning,
                stacklevel=3,
            )

    def reset_parameters(self, seed: int | None = None) -> None:
        """Draw the weights anew; the initial state is set to zero."""
        generator = None if seed is None else torch.Generator().manual_seed(check_seed(seed))
        bound = 1 / math.sqrt(self.units)
        spread = self.coupling * bound * math.sqrt(2)  # J_ij is the mean of two entries
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name == "h0":
                    parameter.zero_()
                elif name == "weight_hh_l0":
                    normal_(parameter, 0, spread, generator)
                else:
                    uniform_(parameter, -bound, bound, generator)

    def matrix(self) -> torch.Tensor:  # [H, H]
        """Return J, the matrix of couplings."""
        return symmetric_hollow(self.weight_hh_l0)

    def site_weight(self, name: str) -> torch.Tensor:
        """Return the matrix of a site."""
        return self.matrix() if name == "coupling_matrix" else super().site_weight(name)

    def velocity(
        self, u: Mapping[str, torch.Tensor], h: Mapping[str, torch.Tensor], t: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Return ``-grad E``, and the force of the noise at a temperature."""
        force = self.well * (h["h"] - h["h"] ** 3) + u["field"]
        if self.temperature:
            force = force + math.sqrt(2 * self.temperature / self.dt) * u["noise"]
        return {"h": force}

    def linear_part(
        self, u: Mapping[str, torch.Tensor], h: Mapping[str, torch.Tensor], t: torch.Tensor | None = None
    ) -> dict[str, float]:
        """Return the rate at which a small h leaves the top of the barrier."""
        return {"h": self.well}

    def energy(self, h: torch.Tensor, x: torch.Tensor) -> torch.Tensor:  # [..., H], [..., I] -> [...]
        """Return ``E(h; x)``; columns of noise in x do not count."""
        signals, bias = x[..., : self.signal_size], getattr(self, "bias_ih_l0", None)
        field = torch.nn.functional.linear(signals, self.weight_ih_l0, bias)
        wells = self.well * (h**4 / 4 - h**2 / 2)
        return (wells - h * (field + 0.5 * (h @ self.matrix()))).sum(-1)

    def with_noise(
        self, x: torch.Tensor, generator: torch.Generator | int | None = None
    ) -> torch.Tensor:  # [..., signal_size] -> [..., input_size]
        """Return signals with the columns of noise behind them; the signals alone at temperature 0.

        Args:
            x: the signals.
            generator: a seed, a CPU generator, which advances, or None for torch's global one. The draw
                does not depend on dtype and device of ``x``.

        Raises:
            ShapeError: for signals of another width than ``signal_size``.
        """
        if x.ndim < 1 or x.shape[-1] != self.signal_size:
            raise ShapeError(mismatch("x", f"shape [..., input={self.signal_size}]", list(x.shape)))
        if generator is not None and not isinstance(generator, torch.Generator):
            generator = seeded_generator(generator)
        shape = (*x.shape[:-1], self.input_size - self.signal_size)
        noise = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
        return torch.cat([x, noise.to(x)], dim=-1)

    def rollout(
        self, x: torch.Tensor, h0: torch.Tensor | None = None, mask: torch.Tensor | None = None
    ) -> Trajectory:
        """Run the model over ``x``; see ``Model.rollout``."""
        if self.temperature and isinstance(x, torch.Tensor) and x.shape[-1:] == (self.signal_size,):
            columns = f"{self.signal_size} signals and {self.input_size - self.signal_size} columns of noise"
            expected = f"{columns}, as model.with_noise(x, generator) makes them"
            raise ShapeError(mismatch("x", expected, f"shape {list(x.shape)}"))
        return super().rollout(x, h0, mask)
