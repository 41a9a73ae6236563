"""``h' = (1-z) n + z h`` with torch's gate order r, z, n."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from kpframe import Site, SiteModel


class GRU(SiteModel):
    """The gated recurrent unit, exactly ``torch.nn.GRU`` (Cho et al. 2014, as cuDNN defines it)::

        r  = sigmoid(W_ir x + b_ir + W_hr h + b_hr)
        z  = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
        n  = tanh(W_in x + b_in + r (W_hn h + b_hn))
        h' = (1 - z) n + z h

    with torch's parameter names and shapes: ``weight_ih_l0 [3H, I]``, ``weight_hh_l0 [3H, H]``,
    ``bias_ih_l0 [3H]``, ``bias_hh_l0 [3H]``. The reset gate acts after the product, so K is diagonal over
    units between the gates' gains.

    Args:
        input_size: inputs per step.
        hidden_size: number of units.
        bias: two bias vectors, as torch has them.
        trainable_initial_state: makes ``h_0`` a parameter.
        seed: seed of the initial weights, uniform in +-1/sqrt(H) as in torch.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        trainable_initial_state: bool = False,
        seed: int | None = None,
    ) -> None:
        super().__init__(
            input_size,
            hidden_size,
            components=("h",),
            sites=(
                Site("weight_ih_l0", "input", ("r", "z", "n_input"), bias="bias_ih_l0" if bias else None),
                Site("weight_hh_l0", "h", ("r", "z", "n_hidden"), bias="bias_hh_l0" if bias else None),
            ),
            trainable_initial_state=trainable_initial_state,
        )
        self.weight_ih_l0 = torch.nn.Parameter(torch.empty(3 * hidden_size, input_size))
        self.weight_hh_l0 = torch.nn.Parameter(torch.empty(3 * hidden_size, hidden_size))
        if bias:
            self.bias_ih_l0 = torch.nn.Parameter(torch.empty(3 * hidden_size))
            self.bias_hh_l0 = torch.nn.Parameter(torch.empty(3 * hidden_size))
        self.reset_parameters(seed)

    def reset_parameters(self, seed: int | None = None) -> None:
        """Draw the weights anew; the initial state is set to zero."""
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        bound = 1 / math.sqrt(self.units)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name == "h0":
                    parameter.zero_()
                else:
                    parameter.uniform_(-bound, bound, generator=generator)

    def combine(
        self, u: Mapping[str, torch.Tensor], h: Mapping[str, torch.Tensor], t: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Return the next state from the gates' preactivations and the state ``h``."""
        r = torch.sigmoid(u["r"])
        z = torch.sigmoid(u["z"])
        n = torch.tanh(u["n_input"] + r * u["n_hidden"])
        return {"h": (1 - z) * n + z * h["h"]}
