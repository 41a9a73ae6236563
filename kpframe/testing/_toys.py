"""Small models that need no plugin: what rules and reducers are checked on, and the kit's own tests."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from kpframe.models._model import Model
from kpframe.models._sites.declaration import Site
from kpframe.models._sites.model import SiteModel
from kpframe.models._wrap.cell import wrap


def _parameter(*shape: int) -> torch.nn.Parameter:
    return torch.nn.Parameter(0.7 * torch.randn(shape))


class Elman(SiteModel):
    """``h' = (1-a) h + a tanh(W x + U h + b + c)`` from weight sites, with torch's parameter names.

    Of ``input_size`` inputs and ``hidden_size`` units; ``trainable_initial_state`` makes h_0 a parameter.
    Source: Elman 1990, with a leak.
    """

    leak = 0.6

    def __init__(self, input_size: int, hidden_size: int, trainable_initial_state: bool = False) -> None:
        super().__init__(
            input_size,
            hidden_size,
            components=("h",),
            sites=(
                Site("weight_ih_l0", "input", ("u",), bias="bias_ih_l0"),
                Site("weight_hh_l0", "h", ("u",), bias="bias_hh_l0"),
            ),
            trainable_initial_state=trainable_initial_state,
        )
        self.weight_ih_l0, self.bias_ih_l0 = _parameter(hidden_size, input_size), _parameter(hidden_size)
        self.weight_hh_l0, self.bias_hh_l0 = _parameter(hidden_size, hidden_size), _parameter(hidden_size)

    def combine(
        self, u: Mapping[str, torch.Tensor], h: Mapping[str, torch.Tensor], t: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Return the next state."""
        return {"h": (1 - self.leak) * h["h"] + self.leak * torch.tanh(u["u"])}


class Gated(SiteModel):
    """The gated recurrent unit (reset after the product), from weight sites.

    Of ``input_size`` inputs and ``hidden_size`` units. Source: Cho et al. 2014, as ``torch.nn.GRU`` has it.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(
            input_size,
            hidden_size,
            components=("h",),
            sites=(
                Site("weight_ih_l0", "input", ("r", "z", "n_input"), bias="bias_ih_l0"),
                Site("weight_hh_l0", "h", ("r", "z", "n_hidden"), bias="bias_hh_l0"),
            ),
        )
        self.weight_ih_l0, self.bias_ih_l0 = (
            _parameter(3 * hidden_size, input_size),
            _parameter(3 * hidden_size),
        )
        self.weight_hh_l0, self.bias_hh_l0 = (
            _parameter(3 * hidden_size, hidden_size),
            _parameter(3 * hidden_size),
        )

    def combine(
        self, u: Mapping[str, torch.Tensor], h: Mapping[str, torch.Tensor], t: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Return the next state."""
        r, z = torch.sigmoid(u["r"]), torch.sigmoid(u["z"])
        n = torch.tanh(u["n_input"] + r * u["n_hidden"])
        return {"h": (1 - z) * n + z * h["h"]}


class Plain(Model):
    """Only ``step``, two components that interact beyond a weight site: everything is derived. Ours.

    Of ``input_size`` inputs and ``hidden_size`` units in each component.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, {"v": hidden_size, "w": 1})
        self.weight_ih_l0 = _parameter(hidden_size, input_size)
        self.weight_hh_l0 = _parameter(hidden_size, hidden_size)
        self.bias_hh_l0 = _parameter(hidden_size)

    def step(self, x: torch.Tensor, h: torch.Tensor, t: torch.Tensor | None = None) -> torch.Tensor:
        """Return the next state."""
        v, w = h[:, :-1], h[:, -1:]
        drive = torch.tanh(v @ self.weight_hh_l0.T + x @ self.weight_ih_l0.T + self.bias_hh_l0)
        return torch.cat([0.8 * v + 0.3 * drive - 0.1 * w * v, 0.9 * w + 0.1 * v.mean(1, keepdim=True)], 1)


class Started(Elman):
    """An ``Elman`` cell whose initial state is a parameter."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, trainable_initial_state=True)


class Tied(Elman):
    """An ``Elman`` cell that reads its input and its state by one matrix; as many inputs as units."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__(hidden_size, hidden_size)
        self.weight_ih_l0 = self.weight_hh_l0


def wrapped(input_size: int, hidden_size: int) -> Model:
    """Return torch's gated recurrent unit, wrapped."""
    return wrap(torch.nn.GRUCell(input_size, hidden_size))
