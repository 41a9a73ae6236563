"""``dh/dt = MLP(h, x) - leak h``: a neural ordinary differential equation."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch

from kpframe import Site, Stage
from kpframe.errors import StabilityWarning, check_seed
from kpframe.models import uniform_
from kpframe.plugin import takes_settings
from kpframe_ode import NeuralODESettings
from kpframe_ode.site_velocity import SiteODEModel

_ACTIVATIONS = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "softplus": torch.nn.functional.softplus,
    "silu": torch.nn.functional.silu,
    "elu": torch.nn.functional.elu,
}


class NeuralODE(SiteODEModel):
    """A velocity field that is a multilayer perceptron of state and input::

        z_1   = phi(W_hh h + W_ih x + b_1)
        z_k   = phi(W_k z_{k-1} + b_k)                 k = 2 .. depth
        dh/dt = W_out z_depth + b_out - leak h

    (Chen, Rubanova, Bettencourt & Duvenaud 2018, Neural Ordinary Differential Equations.) The layers are
    stages of weight sites, so A, J and K are structured whatever the integrator.

    Parameters, with W = mlp_width units in each hidden layer: ``weight_hh_l0 [W, H]``,
    ``weight_ih_l0 [W, I]``, ``weight_l1 [W, W]`` and so on, ``weight_out [H, W]``, and biases ``bias_l0``,
    ``bias_l1`` and so on, ``bias_out``.

    The leak is the linear part of ``"exponential_euler"``, which with a leak of 0 is Euler's method. Initial
    weights are uniform in +-1/sqrt(fan in) as in torch.nn.Linear.

    Raises:
        SettingsError: listing the settings that are unusable.
    """

    @takes_settings(NeuralODESettings)
    def __init__(self, settings: NeuralODESettings) -> None:
        c, width, depth = settings, settings.mlp_width, settings.mlp_depth
        read = (Site("weight_ih_l0", "input", "a1", bias="bias_l0"), Site("weight_hh_l0", "h", "a1"))
        layers = [Stage("z1", width, read, combine="layer")]
        for k in range(1, depth):
            site = Site(f"weight_l{k}", f"z{k}'", f"a{k + 1}", bias=f"bias_l{k}")
            layers.append(Stage(f"z{k + 1}", width, (site,), combine="layer"))
        site = Site("weight_out", f"z{depth}'", "out", bias="bias_out")
        super().__init__(
            c.input_size,
            components=("h",),
            stages=(*layers, Stage("h", c.hidden_size, (site,), combine="velocity")),
            dt=c.dt,
            integrator=c.integrator,
            substeps=c.substeps,
            trainable_initial_state=c.trainable_initial_state,
        )
        self.activation, self.leak = c.activation, c.leak
        self._phi = _ACTIVATIONS[c.activation]
        self.weight_ih_l0 = torch.nn.Parameter(torch.empty(width, c.input_size))
        self.weight_hh_l0 = torch.nn.Parameter(torch.empty(width, c.hidden_size))
        self.bias_l0 = torch.nn.Parameter(torch.empty(width))
        for k in range(1, depth):
            setattr(self, f"weight_l{k}", torch.nn.Parameter(torch.empty(width, width)))
            setattr(self, f"bias_l{k}", torch.nn.Parameter(torch.empty(width)))
        self.weight_out = torch.nn.Parameter(torch.empty(c.hidden_size, width))
        self.bias_out = torch.nn.Parameter(torch.empty(c.hidden_size))
        self.reset_parameters(c.seed)
        if abs(self.scheme.amplification(-c.leak, -c.leak)) > 1:
            warnings.warn(
                f"neural_ode: leak={c.leak:g} is unstable with {c.integrator} at a step of "
                f"{self.scheme.step:g}; lower dt, raise substeps, or take exponential_euler",
                StabilityWarning,
                stacklevel=3,
            )

    def reset_parameters(self, seed: int | None = None) -> None:
        """Draw the weights anew; the initial state is set to zero."""
        generator = None if seed is None else torch.Generator().manual_seed(check_seed(seed))
        width = self.weight_out.shape[1]
        first = self.input_size + self.weight_out.shape[0]
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name == "h0":
                    parameter.zero_()
                else:
                    bound = (first if name.endswith("_l0") else width) ** -0.5
                    uniform_(parameter, -bound, bound, generator)

    def layer(
        self, u: Mapping[str, torch.Tensor], h: Mapping[str, torch.Tensor], t: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Return the activities of a hidden layer, ``z_k`` of ``a_k``."""
        return {f"z{name[1:]}": self._phi(a) for name, a in u.items()}

    def velocity(
        self, u: Mapping[str, torch.Tensor], h: Mapping[str, torch.Tensor], t: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Return ``dh/dt`` from the perceptron's output and the state."""
        return {"h": u["out"] - self.leak * h["h"] if self.leak else u["out"]}

    def linear_part(
        self, u: Mapping[str, torch.Tensor], h: Mapping[str, torch.Tensor], t: torch.Tensor | None = None
    ) -> dict[str, float]:
        """Return the rate of the leak [1/s]."""
        return {"h": -self.leak}
