"""``h_t = phi(W_eff x_t + b)``, and the modulations ``M_t`` that plasticity leaves behind."""

from __future__ import annotations

import math

import torch

from kpframe import Model, ParameterOperator, Propagator, Trajectory
from kpframe.errors import check_seed
from kpframe.flow import ScanPropagator
from kpframe.models import uniform_
from kpframe.plugin import takes_settings
from kpframe_mpn import MPNSettings
from kpframe_mpn.gains import gains_along
from kpframe_mpn.operators import (
    ModulationParameterJacobian,
    ModulationParameterOperator,
    ModulationStepJacobian,
)
from kpframe_mpn.rates import Range, Rate
from kpframe_mpn.stability import warn_if_unstable

PHI = {"tanh": torch.tanh, "sigmoid": torch.sigmoid, "relu": torch.relu, "identity": torch.positive}
CONSTRAINTS = {"free": Range(), "positive": Range(0.0)}


class MPN(Model):
    """The multi-plasticity network: one layer of weights W that plasticity modulates at every step.

    The old modulations act on the input, the new activity writes the new ones::

        h_t = phi(W_eff x_t + b)        W_eff = W o (1 + M_{t-1})   (multiplicative)
                                        W_eff = W + M_{t-1}         (additive)
        M_t = N(lambda M_{t-1} + eta Delta_t)

    ===========================  ==========================================================
    ``rule="hebbian"``           ``Delta = h_t x_t^T``
    ``rule="presynaptic"``       ``Delta = n^{-1/2} 1 x_t^T``: the input alone
    ``rule="oja"``               ``Delta = h_t x_t^T - sign(eta) h_t^2 o M_{t-1}``
    ``normalization="none"``     ``N(M) = M``
    ``normalization="row"``      ``N(M)_i = M_i / |M_i|``, for the inputs of each neuron; zero stays zero
    ``normalization="tanh"``     ``N(M) = tanh(M)``, entry by entry
    ===========================  ==========================================================

    There are no recurrent weights: all memory is in M. The first two rules, both forms and the order of the
    update are those of Aitken & Mihalas (2023), Neural population dynamics of computing with synaptic
    modulations, eLife 12:e83035, whose network is multiplicative with tanh; rates that differ from input to
    input or from neuron to neuron, and unit rows or tanh of M, are options of their published code. The
    additive form is a linear layer with fast weights (Schmidhuber 1992; Ba et al. 2016). Oja's rule is that
    of Oja (1982), J. Math. Biology 15:267, with a decay besides; for negative eta its second term keeps the
    sign that stabilises. Where ``|M_i|`` is zero, the row has no direction and counts as constant:
    its derivatives are taken as zero.

    The state is ``h`` [n], then ``M`` [n k], row by row (neuron by neuron). Parameters: ``weight_ih_l0``
    [n, k], ``bias_ih_l0`` [n], ``eta.raw`` and ``lam.raw``, each [], [k], [n] or [n, k]. ``model.eta()`` and
    ``model.lam()`` give the rates in plain units.

    A constrained rate trains as a smooth function of its parameter: a positive eta as ``softplus(raw)``,
    lambda as ``lam_max * sigmoid(raw)``, so in (0, lam_max); fixed, it is at most lam_max. Initial weights
    are uniform in ``+-sqrt(6 / (n + k))`` (Glorot & Bengio 2010). Trainable ``h_0`` and ``M_0`` are the
    parameter ``h0`` [n + n k].

    Raises:
        SettingsError: for settings that are out of bounds or do not go together.

    Warns:
        StabilityWarning: when M is known to grow without bound; see ``kpframe_mpn.stability``.
    """

    @takes_settings(MPNSettings)
    def __init__(self, settings: MPNSettings) -> None:
        c, size = settings, (settings.hidden_size, settings.input_size)
        super().__init__(
            c.input_size,
            {"h": c.hidden_size, "M": c.hidden_size * c.input_size},
            trainable_initial_state=c.trainable_initial_state,
        )
        self.hidden_size, self.form, self.rule = c.hidden_size, c.form, c.rule
        self.normalization, self.nonlinearity = c.normalization, c.nonlinearity
        self.weight_ih_l0 = torch.nn.Parameter(torch.empty(size))
        self.bias_ih_l0 = torch.nn.Parameter(torch.empty(c.hidden_size)) if c.bias else None
        self.eta = Rate(c.eta, c.eta_shape, size, CONSTRAINTS[c.eta_constraint], c.train_eta)
        self.lam = Rate(c.lam, c.lam_shape, size, Range(0.0, c.lam_max), c.train_lam)
        self.reset_parameters(c.seed)
        warn_if_unstable(self)

    def reset_parameters(self, seed: int | None = None) -> None:
        """Draw the weights anew; bias and initial state are set to zero, the rates stay."""
        generator = None if seed is None else torch.Generator().manual_seed(check_seed(seed))
        bound = math.sqrt(3.0) * math.sqrt(2.0 / (self.hidden_size + self.input_size))  # Glorot & Bengio 2010
        uniform_(self.weight_ih_l0, -bound, bound, generator)
        with torch.no_grad():
            for parameter in (self.bias_ih_l0, self.h0 if self.trainable_initial_state else None):
                if parameter is not None:
                    parameter.zero_()

    def step(self, x: torch.Tensor, h: torch.Tensor, t: torch.Tensor | None = None) -> torch.Tensor:
        """Return the next state: x ``[N, k]``, h ``[N, n + n k]`` -> ``[N, n + n k]``."""
        M = h[:, self.hidden_size :].reshape(-1, self.hidden_size, self.input_size)
        modulated = M if self.form == "additive" else self.weight_ih_l0 * M
        drive = torch.nn.functional.linear(x, self.weight_ih_l0, self.bias_ih_l0)
        new = PHI[self.nonlinearity](drive + (modulated @ x.unsqueeze(-1)).squeeze(-1))
        return torch.cat([new, self.plasticity(x, new, M).flatten(1)], dim=1)

    def plasticity(self, x: torch.Tensor, h: torch.Tensor, M: torch.Tensor) -> torch.Tensor:
        """Return the new modulations: x ``[N, k]``, the new h ``[N, n]``, the old M ``[N, n, k]``."""
        eta = self.eta()
        post = h.unsqueeze(-1)
        if self.rule == "presynaptic":
            change = eta * (x.unsqueeze(1) / math.sqrt(self.hidden_size))
        else:
            change = eta * (post * x.unsqueeze(1))
        new: torch.Tensor = self.lam() * M + change
        if self.rule == "oja":
            new = new - abs(eta) * post.square() * M
        if self.normalization == "tanh":
            return torch.tanh(new)
        if self.normalization == "row":
            squares = new.square().sum(dim=-1, keepdim=True)
            zero = squares == 0  # filled twice: neither the root nor its derivative sees a zero
            return new.masked_fill(zero, 0) / squares.masked_fill(zero, 1).sqrt()
        return new

    def operators(self, trajectory: Trajectory) -> tuple[Propagator, ParameterOperator]:
        """Return ``P`` and ``K``, which share their gains; K by autograd where parameters are shared."""
        gains = gains_along(self, trajectory)
        if self.shared_names():
            return ScanPropagator(ModulationStepJacobian(gains)), super().parameter_operator(trajectory)
        trains_start = "h0" in self.trainable() and not trajectory.given
        jacobian = ModulationParameterJacobian(gains, self.parameter_space, trains_start)
        return ScanPropagator(ModulationStepJacobian(gains)), ModulationParameterOperator(jacobian)

    def propagator(self, trajectory: Trajectory) -> Propagator:
        """Return ``P`` with the step Jacobian by neurons."""
        return self.operators(trajectory)[0]

    def parameter_operator(self, trajectory: Trajectory) -> ParameterOperator:
        """Return ``K`` by neurons."""
        return self.operators(trajectory)[1]
