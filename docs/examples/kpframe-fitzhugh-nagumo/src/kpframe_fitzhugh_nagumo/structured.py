"""The same neurons with their weights declared as sites, from which kpframe derives fast operators."""

import math
from collections.abc import Mapping

import torch

import kpframe


class FitzHughNagumoSites(kpframe.SiteModel):
    """The network of :class:`~kpframe_fitzhugh_nagumo.model.FitzHughNagumo`, parameter by parameter."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        dt: float = 0.1,
        a: float = 0.7,
        b: float = 0.8,
        tau: float = 12.5,
        seed: int | None = None,
    ) -> None:
        super().__init__(
            input_size,
            hidden_size,
            components=("v", "w"),
            sites=(
                kpframe.Site("coupling", source="v", targets=("current",)),
                kpframe.Site("drive", source="input", targets=("current",)),
            ),
        )
        self.dt, self.a, self.b, self.tau = dt, a, b, tau
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        coupling = torch.randn(hidden_size, hidden_size, generator=generator) / hidden_size**0.5
        drive = torch.randn(hidden_size, input_size, generator=generator) / input_size**0.5
        self.coupling, self.drive = torch.nn.Parameter(0.5 * coupling), torch.nn.Parameter(drive)

    def combine(
        self, u: Mapping[str, torch.Tensor], h: Mapping[str, torch.Tensor], t: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Return the next v and w ``[N, n]``, neuron by neuron, from the current that the sites add up."""
        v, w = h["v"], h["w"]
        kicked = math.exp(self.dt) * v / torch.sqrt(1 + math.expm1(2 * self.dt) / 3 * v**2)
        dw = (v + self.a - self.b * w) / self.tau
        return {"v": kicked + self.dt * (u["current"] - w), "w": w + self.dt * dw}
