"""``dh/dt = MLP(h, x) - leak h``: a neural ordinary differential equation."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping

import torch

from kpframe import Site, Stage
from kpframe.errors import ArgumentError, StabilityWarning, check_seed, mismatch, whole
from kpframe.models import uniform_
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

    Args:
        input_size: inputs per step.
        hidden_size: width H of the state.
        mlp_width: units of each hidden layer.
        mlp_depth: number of hidden layers.
        activation: ``"tanh"``, ``"relu"``, ``"softplus"``, ``"silu"`` or ``"elu"``.
        leak: rate at which the state decays by itself [1/s], the linear part of ``"exponential_euler"``,
            which with a leak of 0 is Euler's method.
        dt: time step [s].
        integrator, substeps: see ``ODEModel``.
        trainable_initial_state: makes ``h_0`` a parameter.
        seed: seed of the initial weights, uniform in +-1/sqrt(fan in) as in torch.nn.Linear.

    Raises:
        ArgumentError: naming the argument.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        mlp_width: int = 32,
        mlp_depth: int = 1,
        activation: str = "tanh",
        leak: float = 0.0,
        dt: float = 0.1,
        integrator: str = "rk4",
        substeps: int = 1,
        trainable_initial_state: bool = False,
        seed: int | None = None,
    ) -> None:
        if activation not in _ACTIVATIONS:
            expected = f"one of {', '.join(_ACTIVATIONS)}"
            raise ArgumentError(mismatch("activation", expected, repr(activation)))
        hidden_size = whole(hidden_size, "hidden_size")
        mlp_width, mlp_depth = whole(mlp_width, "mlp_width"), whole(mlp_depth, "mlp_depth")
        if not 0 <= leak < math.inf:
            raise ArgumentError(mismatch("leak", "a finite number >= 0", leak))
        read = (Site("weight_ih_l0", "input", "a1", bias="bias_l0"), Site("weight_hh_l0", "h", "a1"))
        layers = [Stage("z1", mlp_width, read, combine="layer")]
        for k in range(1, mlp_depth):
            site = Site(f"weight_l{k}", f"z{k}'", f"a{k + 1}", bias=f"bias_l{k}")
            layers.append(Stage(f"z{k + 1}", mlp_width, (site,), combine="layer"))
        site = Site("weight_out", f"z{mlp_depth}'", "out", bias="bias_out")
        super().__init__(
            input_size,
            components=("h",),
            stages=(*layers, Stage("h", hidden_size, (site,), combine="velocity")),
            dt=dt,
            integrator=integrator,
            substeps=substeps,
            trainable_initial_state=trainable_initial_state,
        )
        self.activation, self.leak = activation, leak
        self._phi = _ACTIVATIONS[activation]
        self.weight_ih_l0 = torch.nn.Parameter(torch.empty(mlp_width, input_size))
        self.weight_hh_l0 = torch.nn.Parameter(torch.empty(mlp_width, hidden_size))
        self.bias_l0 = torch.nn.Parameter(torch.empty(mlp_width))
        for k in range(1, mlp_depth):
            setattr(self, f"weight_l{k}", torch.nn.Parameter(torch.empty(mlp_width, mlp_width)))
            setattr(self, f"bias_l{k}", torch.nn.Parameter(torch.empty(mlp_width)))
        self.weight_out = torch.nn.Parameter(torch.empty(hidden_size, mlp_width))
        self.bias_out = torch.nn.Parameter(torch.empty(hidden_size))
        self.reset_parameters(seed)
        if abs(self.scheme.amplification(-leak, -leak)) > 1:
            warnings.warn(
                f"neural_ode: leak={leak:g} is unstable with {integrator} at a step of {self.scheme.step:g}; "
                "lower dt, raise substeps, or take exponential_euler",
                StabilityWarning,
                stacklevel=2,
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
