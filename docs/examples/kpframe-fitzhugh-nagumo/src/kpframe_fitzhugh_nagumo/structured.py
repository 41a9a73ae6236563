"""The same neurons with their weights declared as sites, from which kpframe derives fast operators."""

import math
from collections.abc import Mapping

import torch

import kpframe
from kpframe.plugin import takes_settings
from kpframe_fitzhugh_nagumo import Settings
from kpframe_fitzhugh_nagumo.model import initial_weights


class FitzHughNagumoSites(kpframe.SiteModel):
    """The network of :class:`~kpframe_fitzhugh_nagumo.model.FitzHughNagumo`, parameter by parameter."""

    @takes_settings(Settings)
    def __init__(self, settings: Settings) -> None:
        super().__init__(
            settings.input_size,
            settings.hidden_size,
            components=("v", "w"),
            sites=(
                kpframe.Site("coupling", source="v", targets=("current",)),
                kpframe.Site("drive", source="input", targets=("current",)),
            ),
        )
        self.dt, self.a, self.b, self.tau = settings.dt, settings.a, settings.b, settings.tau
        self.coupling, self.drive = initial_weights(settings)

    def combine(
        self, u: Mapping[str, torch.Tensor], h: Mapping[str, torch.Tensor], t: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Return the next v and w ``[N, n]``, neuron by neuron, from the current that the sites add up."""
        v, w = h["v"], h["w"]
        kicked = math.exp(self.dt) * v / torch.sqrt(1 + math.expm1(2 * self.dt) / 3 * v**2)
        dw = (v + self.a - self.b * w) / self.tau
        return {"v": kicked + self.dt * (u["current"] - w), "w": w + self.dt * dw}
