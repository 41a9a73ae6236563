"""One layer of the network: its parameters, the weight sites they act at, and what is pointwise."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from attrs import frozen

from kpframe import Site, Stage

#: In torch's order of the rows.
GATES = ("i", "f", "g", "o")

Tensors = Mapping[str, torch.Tensor]


@frozen
class Layer:
    """One layer: a cell and, if asked for, a projection of what it puts out.

    Attributes:
        number: from 0, as in torch's parameter names: ``weight_ih_l0``.
        suffix: what the names of its components and preactivations end in; empty in a network of one
            layer.
        source: what it reads: ``"input"`` or the new ``h`` of the layer below.
        source_width: width of that.
        units: number of memory cells, H.
        projected: width P of a projected ``h``; 0 for none.
        bias: whether there are biases.
    """

    number: int
    suffix: str
    source: str
    source_width: int
    units: int
    projected: int
    bias: bool

    @property
    def components(self) -> tuple[str, str]:
        """Names of the state's two components, ``h`` first."""
        return self._named("h"), self._named("c")

    @property
    def width(self) -> int:
        """Width of ``h``."""
        return self.projected or self.units

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Parameter -> shape, in torch's order."""
        rows = len(GATES) * self.units
        shapes: dict[str, tuple[int, ...]] = {
            self._parameter("weight_ih"): (rows, self.source_width),
            self._parameter("weight_hh"): (rows, self.width),
        }
        if self.bias:
            shapes |= {self._parameter("bias_ih"): (rows,), self._parameter("bias_hh"): (rows,)}
        if self.projected:
            shapes[self._parameter("weight_hr")] = (self.projected, self.units)
        return shapes

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages of a step: the cell, and the projection where there is one."""
        h, c = self.components
        gates = tuple(self._named(gate) for gate in GATES)
        sites = (
            Site(self._parameter("weight_ih"), self.source, gates, self._bias("bias_ih")),
            Site(self._parameter("weight_hh"), h, gates, self._bias("bias_hh")),
        )
        cell = Stage((c, self._out), self.units, sites, combine=self.cell)
        if not self.projected:
            return (cell,)
        read = Site(self._parameter("weight_hr"), f"{self._out}'", self._named("read"))
        return cell, Stage(h, self.projected, (read,), combine=self.project)

    def cell(self, u: Tensors, h: Tensors, t: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Return the new memory and what the cell puts out."""
        i, f, g, o = (u[self._named(gate)] for gate in GATES)
        memory = self._named("c")
        c = torch.sigmoid(f) * h[memory] + torch.sigmoid(i) * torch.tanh(g)
        return {memory: c, self._out: torch.sigmoid(o) * torch.tanh(c)}

    def project(self, u: Tensors, h: Tensors, t: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Return the new ``h``, the projection as it is."""
        return {self._named("h"): u[self._named("read")]}

    @property
    def _out(self) -> str:
        """What the cell puts out: the new ``h`` itself unless that is projected."""
        return self._named("m" if self.projected else "h")

    def _named(self, name: str) -> str:
        return name + self.suffix

    def _parameter(self, name: str) -> str:
        return f"{name}_l{self.number}"

    def _bias(self, name: str) -> str | None:
        return self._parameter(name) if self.bias else None


def stack(input_size: int, hidden_size: int, num_layers: int, proj_size: int, bias: bool) -> list[Layer]:
    """Return the layers of a network, each reading the new ``h`` of the one below."""
    layers: list[Layer] = []
    source, width = "input", input_size
    for number in range(num_layers):
        suffix = f"_l{number}" if num_layers > 1 else ""
        layers.append(Layer(number, suffix, source, width, hidden_size, proj_size, bias))
        source, width = f"{layers[-1].components[0]}'", layers[-1].width
    return layers
