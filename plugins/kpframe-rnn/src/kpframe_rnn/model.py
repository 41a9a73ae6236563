"""``h' = phi(W_ih x + b_ih + W_hh h + b_hh)`` and its leaky forms."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from kpframe import Site, SiteModel
from kpframe.errors import ArgumentError, mismatch

_PHI = {"tanh": torch.tanh, "relu": torch.relu}


class RNN(SiteModel):
    """The vanilla recurrent network and two leaky forms, with ``a = dt / tau``.

    ====================  ======================================================
    ``form="vanilla"``    ``h' = phi(W_ih x + b_ih + W_hh h + b_hh)``
    ``form="rate"``       ``h' = (1-a) h + a phi(W_ih x + b_ih + W_hh h + b_hh)``
    ``form="current"``    ``h' = (1-a) h + a (W_ih x + b_ih + W_hh phi(h) + b_hh)``
    ====================  ======================================================

    The vanilla form is ``torch.nn.RNN`` to the last bit of its definition, with its parameter names
    and shapes: ``weight_ih_l0 [H, I]``, ``weight_hh_l0 [H, H]``, ``bias_ih_l0 [H]``, ``bias_hh_l0 [H]``.
    With ``a = 1`` the rate form is the vanilla one. In the current form the state is a current and the
    rate, which a readout usually reads, is ``phi(h)``.

    Args:
        input_size: inputs per step.
        hidden_size: number of units.
        nonlinearity: ``"tanh"`` or ``"relu"``.
        bias: two bias vectors, as torch has them.
        form: ``"vanilla"``, ``"rate"`` or ``"current"``.
        alpha: ``a``, in (0, 1]; the vanilla form takes 1 only.
        gain: standard deviation of the recurrent weights times sqrt(H); left out, all weights are
            uniform in +-1/sqrt(H) as in torch.
        trainable_initial_state: makes ``h_0`` a parameter.
        seed: seed of the initial weights.

    Raises:
        ArgumentError: for an unknown name, or an ``alpha`` that the form does not use.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        nonlinearity: str = "tanh",
        bias: bool = True,
        form: str = "vanilla",
        alpha: float = 1.0,
        gain: float | None = None,
        trainable_initial_state: bool = False,
        seed: int | None = None,
    ) -> None:
        if nonlinearity not in _PHI:
            raise ArgumentError(mismatch("nonlinearity", "'tanh' or 'relu'", repr(nonlinearity)))
        if form not in ("vanilla", "rate", "current"):
            raise ArgumentError(mismatch("form", "'vanilla', 'rate' or 'current'", repr(form)))
        if not 0 < alpha <= 1:
            raise ArgumentError(mismatch("alpha", "a number in (0, 1]", alpha))
        if form == "vanilla" and alpha != 1:
            raise ArgumentError(
                mismatch("alpha", "1 with form='vanilla'", f"{alpha}; leaky: 'rate', 'current'")
            )
        phi = _PHI[nonlinearity]
        transform = phi if form == "current" else None
        super().__init__(
            input_size,
            hidden_size,
            components=("h",),
            sites=(
                Site("weight_ih_l0", "input", ("u",), bias="bias_ih_l0" if bias else None),
                Site("weight_hh_l0", "h", ("u",), bias="bias_hh_l0" if bias else None, transform=transform),
            ),
            trainable_initial_state=trainable_initial_state,
        )
        self.form, self.alpha, self.phi = form, alpha, phi
        self.weight_ih_l0 = torch.nn.Parameter(torch.empty(hidden_size, input_size))
        self.weight_hh_l0 = torch.nn.Parameter(torch.empty(hidden_size, hidden_size))
        if bias:
            self.bias_ih_l0 = torch.nn.Parameter(torch.empty(hidden_size))
            self.bias_hh_l0 = torch.nn.Parameter(torch.empty(hidden_size))
        self.reset_parameters(gain, seed)

    def reset_parameters(self, gain: float | None = None, seed: int | None = None) -> None:
        """Draw the weights anew; the initial state is set to zero."""
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        bound = 1 / math.sqrt(self.units)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name == "h0":
                    parameter.zero_()
                elif name == "weight_hh_l0" and gain is not None:
                    parameter.normal_(0, gain * bound, generator=generator)
                else:
                    parameter.uniform_(-bound, bound, generator=generator)

    def combine(
        self, u: Mapping[str, torch.Tensor], h: Mapping[str, torch.Tensor], t: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Return the next state from the summed preactivation ``u`` and the state ``h``."""
        if self.form == "vanilla":
            return {"h": self.phi(u["u"])}
        drive = u["u"] if self.form == "current" else self.phi(u["u"])
        return {"h": (1 - self.alpha) * h["h"] + self.alpha * drive}
