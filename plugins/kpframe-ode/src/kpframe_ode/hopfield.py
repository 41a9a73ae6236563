"""The continuous Hopfield network."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping

import torch
from attrs import frozen

from kpframe import Site
from kpframe.errors import ShapeError, StabilityWarning, check_seed, mismatch
from kpframe.models import normal_, uniform_
from kpframe.plugin import takes_settings
from kpframe_ode import HopfieldSettings
from kpframe_ode.site_velocity import SiteODEModel
from kpframe_ode.symmetric import symmetric_hollow


@frozen
class Rate:
    """What a neuron sends at a potential: ``g(u)``, tanh or the logistic function of ``gain u``."""

    function: str
    gain: float

    def __call__(self, u: torch.Tensor) -> torch.Tensor:
        """Return ``g(u)``."""
        return torch.tanh(self.gain * u) if self.function == "tanh" else torch.sigmoid(self.gain * u)

    def cost(self, u: torch.Tensor) -> torch.Tensor:
        """Return the integral of ``g^-1`` from 0 to ``g(u)``, which is ``u g(u) - Integral_u g``."""
        z = self.gain * u
        if self.function == "tanh":
            integral = z.abs() + torch.nn.functional.softplus(-2 * z.abs()) - math.log(2)  # log cosh z
        else:
            integral = torch.nn.functional.softplus(z)
        return u * self(u) - integral / self.gain


class Hopfield(SiteODEModel):
    """Graded-response neurons (Hopfield 1984, PNAS 81:3088, equation 5)::

        tau du/dt = -u + W g(u) + W_ih x + b

    with g(u) = tanh(gain u), between -1 and 1, or the logistic function of gain u, between 0 and 1. The
    state u is a potential, and what neurons send is g(u). With ``symmetric`` the matrix that acts is
    ``W = (V + V*) / 2`` with a zero diagonal, V being the parameter ``weight_hh_l0``; then ``energy`` never
    grows along the exact solution under constant input. Without it W is the parameter itself.

    Parameters: ``weight_ih_l0 [H, I]``, ``weight_hh_l0 [H, H]``, ``bias_ih_l0 [H]``. The linear part of
    ``"exponential_euler"`` is -u / tau.

    Initial weights: those of the input are uniform in +-1/sqrt(H), the entries of W are drawn from
    N(0, coupling^2 / H). The slope ``gain`` is Hopfield's lambda.

    Raises:
        SettingsError: listing the settings that are unusable.
    """

    @takes_settings(HopfieldSettings)
    def __init__(self, settings: HopfieldSettings) -> None:
        c, rate = settings, Rate(settings.nonlinearity, settings.gain)
        name, made_of = ("symmetric_weight", "weight_hh_l0") if c.symmetric else ("weight_hh_l0", ())
        super().__init__(
            c.input_size,
            c.hidden_size,
            components=("u",),
            sites=(
                Site("weight_ih_l0", "input", "current", bias="bias_ih_l0" if c.bias else None),
                Site(name, "u", "current", transform=rate, parameters=made_of),
            ),
            dt=c.dt,
            integrator=c.integrator,
            substeps=c.substeps,
            trainable_initial_state=c.trainable_initial_state,
        )
        self.symmetric, self.rate, self.tau, self.coupling = c.symmetric, rate, c.tau, c.coupling
        self.weight_ih_l0 = torch.nn.Parameter(torch.empty(c.hidden_size, c.input_size))
        self.weight_hh_l0 = torch.nn.Parameter(torch.empty(c.hidden_size, c.hidden_size))
        if c.bias:
            self.bias_ih_l0 = torch.nn.Parameter(torch.empty(c.hidden_size))
        self.reset_parameters(c.seed)
        if abs(self.scheme.amplification(-1 / c.tau, -1 / c.tau)) > 1:
            warnings.warn(
                f"hopfield: a step of {self.scheme.step:g} with {c.integrator} is unstable for "
                f"tau={c.tau:g}; lower dt, raise substeps, or take exponential_euler",
                StabilityWarning,
                stacklevel=3,
            )

    def reset_parameters(self, seed: int | None = None) -> None:
        """Draw the weights anew; the initial state is set to zero."""
        generator = None if seed is None else torch.Generator().manual_seed(check_seed(seed))
        bound = 1 / math.sqrt(self.units)
        spread = self.coupling * bound * (math.sqrt(2) if self.symmetric else 1)  # of two, the mean acts
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name == "h0":
                    parameter.zero_()
                elif name == "weight_hh_l0":
                    normal_(parameter, 0, spread, generator)
                else:
                    uniform_(parameter, -bound, bound, generator)

    def store(self, patterns: torch.Tensor) -> None:
        """Set W to Hebb's rule, ``Sum_p xi_p xi_p* / H`` with a zero diagonal (Hopfield 1982, PNAS 79:2554).

        Args:
            patterns: ``[P, H]``, entries -1 and 1.

        Raises:
            ShapeError: for patterns of another width.
        """
        if patterns.ndim != 2 or patterns.shape[1] != self.units:
            raise ShapeError(mismatch("patterns", f"shape [patterns, {self.units}]", list(patterns.shape)))
        with torch.no_grad():
            weight = patterns.to(self.weight_hh_l0)
            self.weight_hh_l0.copy_((weight.mT @ weight / self.units).fill_diagonal_(0))

    def matrix(self) -> torch.Tensor:  # [H, H]
        """Return W, the matrix that acts."""
        return symmetric_hollow(self.weight_hh_l0) if self.symmetric else self.weight_hh_l0

    def site_weight(self, name: str) -> torch.Tensor:
        """Return the matrix of a site."""
        return self.matrix() if name == "symmetric_weight" else super().site_weight(name)

    def velocity(
        self, u: Mapping[str, torch.Tensor], h: Mapping[str, torch.Tensor], t: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Return ``du/dt`` from the currents and the potentials."""
        return {"u": (u["current"] - h["u"]) / self.tau}

    def linear_part(
        self, u: Mapping[str, torch.Tensor], h: Mapping[str, torch.Tensor], t: torch.Tensor | None = None
    ) -> dict[str, float]:
        """Return the rate of the leak [1/s]."""
        return {"u": -1 / self.tau}

    def energy(self, u: torch.Tensor, x: torch.Tensor) -> torch.Tensor:  # [..., H], [..., I] -> [...]
        """Return ``E = -1/2 v* W v - v*(W_ih x + b) + Sum_i Integral_0^{v_i} g^-1`` with v = g(u).

        For a symmetric W and constant x, ``dE/dt = -tau Sum_i g'(u_i) (du_i/dt)^2 <= 0`` (Hopfield 1984,
        equation 7). A small enough step keeps this; for other W nothing of the kind holds.
        """
        v = self.rate(u)
        current = torch.nn.functional.linear(x, self.weight_ih_l0, getattr(self, "bias_ih_l0", None))
        return self.rate.cost(u).sum(-1) - (v * (current + 0.5 * (v @ self.matrix().mT))).sum(-1)
