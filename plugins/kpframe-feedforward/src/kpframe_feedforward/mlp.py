"""The multilayer perceptron as a dynamical system: a step is a layer, with weights of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import torch

from kpframe import Model, ParameterOperator, Propagator, Site, SiteModel, Trajectory
from kpframe.errors import check_seed
from kpframe.flow import ParameterJacobian, ProductParameterOperator
from kpframe.models import GramParameterOperator, SiteParameterJacobian, SiteStepJacobian, normal_
from kpframe.operators import PARAMETER, Space, parameter_space
from kpframe.plugin import takes_settings
from kpframe_feedforward import MLPSettings
from kpframe_feedforward.layers import PHI, at_first_step

#: Functions that pass about half of the variance, which sqrt(2) makes up for (He et al. 2015).
_HALVING = ("relu", "gelu", "silu")


class MLP(SiteModel):
    """A feedforward network of ``depth`` hidden layers, layer l at step l::

        u_1 = c_in W_in x + c_b b_1        u_l = c_w W_l h_{l-1} + c_b b_l   for l = 2 .. depth

    =====================  ==========================  ==============================================
    ``form="plain"``       ``h_1 = phi(u_1)``          ``h_l = phi(u_l)``
    ``form="residual"``    ``h_1 = u_1``               ``h_l = h_{l-1} + scale phi(u_l)``
    =====================  ==========================  ==============================================

    The plain form is ``torch.nn.Sequential(Linear, phi, Linear, phi, ...)``; the linear output layer is
    the readout of the last state. The sample x is the input of the first step, whatever stands at later
    steps is not looked at, and neither is h_0: see ``inputs``. Roll-outs have exactly ``depth`` steps.

    With ``parametrisation="standard"`` all c are 1 and the initial values are normal with standard
    deviations sigma_w/sqrt(fan_in) and sigma_b. With ``"ntk"`` they are standard normal and the factors
    stand in the step, c_in = sigma_w/sqrt(input_size), c_w = sigma_w/sqrt(hidden_size), c_b = sigma_b
    (Jacot, Gabriel & Hongler 2018, Neural tangent kernel, section 3): at first both compute functions of
    one distribution, but their kernels K and Phi, and so what they learn, differ.

    Parameters: ``weight_in [H, I]``, ``weight [depth - 1, H, H]`` (from two layers on), ``bias [depth, H]``.
    Layer l moves only h_l within a step, so K is block diagonal over steps: for each layer a Gram matrix
    over trials of what the layer reads. ``flow.A.replace({"weight": B})`` takes a matrix for each step,
    ``[depth, H, H]``, of which the first is never used.

    Raises:
        SettingsError: for settings that are out of bounds or do not go together.
    """

    time_varying = True

    @takes_settings(MLPSettings)
    def __init__(self, settings: MLPSettings) -> None:
        c, depth = settings, settings.depth
        input_size, hidden_size, bias = c.input_size, c.hidden_size, c.bias
        sigma_w = c.sigma_w if c.sigma_w is not None else math.sqrt(2) if c.activation in _HALVING else 1.0
        in_step = c.parametrisation == "ntk"
        factor = c.sigma_b if in_step and bias else 1.0  # of W h + b, so the weights' own makes up for it
        own = sigma_w / math.sqrt(hidden_size) / factor
        super().__init__(
            input_size,
            hidden_size,
            components=("h",),
            sites=(
                Site("weight_in", "input", ("x",)),
                Site(
                    "weight",
                    "h",
                    ("h",),
                    bias="bias" if bias else None,
                    transform=partial(torch.mul, other=own) if in_step else None,
                    per_step=True,
                ),
            ),
        )
        self.steps = self.depth = depth
        self.form, self.scale, self.phi = c.form, c.scale, PHI[c.activation]
        self.parametrisation, self.sigma_w, self.sigma_b = c.parametrisation, sigma_w, c.sigma_b
        self._factor = factor
        self._input_factor = sigma_w / math.sqrt(input_size) if in_step else 1.0
        self.weight_in = torch.nn.Parameter(torch.empty(hidden_size, input_size))
        if depth > 1:
            self.weight = torch.nn.Parameter(torch.empty(depth - 1, hidden_size, hidden_size))
        if bias:
            self.bias = torch.nn.Parameter(torch.empty(depth, hidden_size))
        self.reset_parameters(c.seed)

    def reset_parameters(self, seed: int | None = None) -> None:
        """Draw the weights anew."""
        generator = None if seed is None else torch.Generator().manual_seed(check_seed(seed))
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                size = self.sigma_b if name == "bias" else self.sigma_w / math.sqrt(parameter.shape[-1])
                normal_(parameter, 0, 1.0 if self.parametrisation == "ntk" else size, generator)

    def inputs(self, samples: torch.Tensor) -> torch.Tensor:  # [B, I] -> [B, depth, I]
        """Return samples as the inputs of a roll-out: at the first step, with zeros after it."""
        return at_first_step(samples, self.depth, self.input_size)

    def site_weight(self, name: str) -> torch.Tensor:
        """Return the matrix of a site; the first layer's slot of ``weight`` is empty, for it reads x."""
        if name != "weight":
            return super().site_weight(name)
        if self.depth == 1:
            return self.weight_in.new_zeros(1, self.units, self.units)
        return torch.nn.functional.pad(self.weight, (0, 0, 0, 0, 1, 0))

    def combine(
        self, u: Mapping[str, torch.Tensor], h: Mapping[str, torch.Tensor], t: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Return the layer's state from ``W_in x``, ``W_l h + b_l`` and the state below."""
        assert t is not None  # given to models that vary in time
        first = (t == 0).unsqueeze(-1)
        total = torch.where(first, self._input_factor * u["x"], 0) + self._factor * u["h"]
        if self.form == "plain":
            return {"h": self.phi(total)}
        return {"h": torch.where(first, total, h["h"] + self.scale * self.phi(total))}

    def operators(self, trajectory: Trajectory) -> tuple[Propagator, ParameterOperator]:
        """Return ``P`` and ``K`` from the weight sites, the gains recorded once for both."""
        P = self.propagator(trajectory)
        own = self.trainable()
        known = set(own) <= {"weight_in", "weight", "bias"} and not self.shared_names()
        if not isinstance(P.A, SiteStepJacobian) or not known:  # a subclass has more than this
            return P, Model.parameter_operator(self, trajectory)
        shapes = {name: tuple(p.shape) for name, p in own.items()}
        if "weight" in shapes:
            shapes["weight"] = (self.depth, self.units, self.units)
        slots = SiteParameterJacobian(P.A.gains, parameter_space(shapes), trains_start=False)
        if "weight" not in shapes:
            return P, GramParameterOperator(slots)
        return P, ProductParameterOperator(_LayerJacobian(slots, self.parameter_space))

    def parameter_operator(self, trajectory: Trajectory) -> ParameterOperator:
        """Return ``K``: for each layer a Gram matrix over trials, between the gains."""
        return self.operators(trajectory)[1]


class _LayerJacobian(ParameterJacobian):
    """J of ``weight [depth - 1, H, H]``, from that of a weight with an empty slot for the first layer."""

    method = "sites"

    def __init__(self, slots: ParameterJacobian, domain: Space) -> None:
        super().__init__(domain, slots.codomain, dtype=slots.dtype, device=slots.device)
        self.slots = slots
        start = domain[PARAMETER].part("weight").start
        self._empty = slice(start, start + slots.domain.size - domain.size)

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        nothing = q.new_zeros(*q.shape[:-1], self._empty.stop - self._empty.start)
        before, after = q[..., : self._empty.start], q[..., self._empty.start :]
        return self.slots._apply(torch.cat([before, nothing, after], dim=-1))

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        gradient = self.slots._apply_adjoint(r)
        return torch.cat([gradient[..., : self._empty.start], gradient[..., self._empty.stop :]], dim=-1)
