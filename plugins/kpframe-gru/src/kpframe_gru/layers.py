"""One layer of the network in its two published forms: parameters, weight sites, pointwise functions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import torch
from attrs import frozen

from kpframe import Site, Stage

#: In torch's order of the rows.
GATES = ("r", "z", "n")

Tensors = Mapping[str, torch.Tensor]
Function = Callable[..., dict[str, torch.Tensor]]


@frozen
class Layer(ABC):
    """What the two forms share.

    Attributes:
        number: from 0, as in torch's parameter names: ``weight_ih_l0``.
        suffix: what the names of its component and preactivations end in; empty in a network of one layer.
        source: what it reads: ``"input"`` or the new state of the layer below.
        source_width: width of that.
        units: number of units, H.
        bias: whether there are biases.
    """

    number: int
    suffix: str
    source: str
    source_width: int
    units: int
    bias: bool

    @property
    def component(self) -> str:
        """Name of the state's component."""
        return self._named("h")

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Parameter -> shape, in torch's order."""
        rows = len(GATES) * self.units
        weights: dict[str, tuple[int, ...]] = {
            self._parameter("weight_ih"): (rows, self.source_width),
            self._parameter("weight_hh"): (rows, self.units),
        }
        if not self.bias:
            return weights
        return weights | {self._parameter("bias_ih"): (rows,), self._parameter("bias_hh"): (rows,)}

    @property
    @abstractmethod
    def stages(self) -> tuple[Stage, ...]:
        """The stages of a step."""

    def _named(self, name: str) -> str:
        return name + self.suffix

    def _parameter(self, name: str) -> str:
        return f"{name}_l{self.number}"

    def _bias(self, name: str) -> str | None:
        return self._parameter(name) if self.bias else None


@frozen
class ResetAfter(Layer):
    """``n = tanh(W_in x + b_in + r (W_hn h + b_hn))``: r scales the product, all in one stage."""

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stage of the whole layer."""
        read = tuple(self._named(target) for target in ("r", "z", "n_input"))
        recurrent = tuple(self._named(target) for target in ("r", "z", "n_hidden"))
        sites = (
            Site(self._parameter("weight_ih"), self.source, read, self._bias("bias_ih")),
            Site(self._parameter("weight_hh"), self.component, recurrent, self._bias("bias_hh")),
        )
        return (Stage(self.component, self.units, sites, combine=self.unit),)

    def unit(self, u: Tensors, h: Tensors, t: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Return the new state from the gates' preactivations and the state."""
        r = torch.sigmoid(u[self._named("r")])
        z = torch.sigmoid(u[self._named("z")])
        n = torch.tanh(u[self._named("n_input")] + r * u[self._named("n_hidden")])
        return {self.component: (1 - z) * n + z * h[self.component]}


@frozen
class ResetBefore(Layer):
    """``n = tanh(W_in x + b_in + W_hn (r h) + b_hn)``: r scales what the product reads.

    The first stage computes the gates, and with them ``r h``; the second multiplies that by ``W_hn``. The
    two row blocks of ``weight_hh`` act at a site each, under the names ``weight_hh_l0[r,z]`` and
    ``weight_hh_l0[n]``. All else that n needs is computed in the first stage and handed on.
    """

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The gates, then the new state."""
        weight = self._parameter("weight_hh")
        r, z, n = (self._named(gate) for gate in GATES)
        sites = [
            Site(self._parameter("weight_ih"), self.source, (r, z, n), self._bias("bias_ih")),
            Site(f"{weight}[r,z]", self.component, (r, z), parameters=weight),
        ]
        if self.bias:
            sites.append(Site(None, None, (r, z, n), self._bias("bias_hh")))
        product = Site(f"{weight}[n]", f"{self._named('rh')}'", self._named("n_hidden"), parameters=weight)
        outputs = tuple(self._named(output) for output in ("rh", "z", "n_input"))
        return (
            Stage(outputs, self.units, sites, combine=self.gates),
            Stage(self.component, self.units, (product,), combine=self.unit),
        )

    def gates(self, u: Tensors, h: Tensors, t: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Return ``r h``, ``z`` and what of n's preactivation is known already."""
        r, z, n = (u[self._named(gate)] for gate in GATES)
        return {
            self._named("rh"): torch.sigmoid(r) * h[self.component],
            self._named("z"): torch.sigmoid(z),
            self._named("n_input"): n,
        }

    def unit(self, u: Tensors, h: Tensors, t: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Return the new state."""
        z = h[f"{self._named('z')}'"]
        n = torch.tanh(h[f"{self._named('n_input')}'"] + u[self._named("n_hidden")])
        return {self.component: (1 - z) * n + z * h[self.component]}


FORMS: dict[str, type[Layer]] = {"after": ResetAfter, "before": ResetBefore}


def stack(input_size: int, hidden_size: int, num_layers: int, bias: bool, reset: str) -> list[Layer]:
    """Return the layers of a network, each reading the new state of the one below."""
    layers: list[Layer] = []
    source, width = "input", input_size
    for number in range(num_layers):
        suffix = f"_l{number}" if num_layers > 1 else ""
        layers.append(FORMS[reset](number, suffix, source, width, hidden_size, bias))
        source, width = f"{layers[-1].component}'", hidden_size
    return layers
