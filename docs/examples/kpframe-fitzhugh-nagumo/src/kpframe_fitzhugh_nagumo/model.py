"""FitzHugh-Nagumo neurons by their equations; P, K, Phi and the rest follow from ``step``."""

import math

import torch

import kpframe
from kpframe.plugin import takes_settings
from kpframe_fitzhugh_nagumo import Settings


class FitzHughNagumo(kpframe.Model):
    """Excitable neurons with a fast variable v and a recovery w, coupled and driven by trainable weights::

        dv/dt = v - v^3/3 - w + I        dw/dt = (v + a - b w) / tau        I = coupling v + drive x

    (FitzHugh 1961, Biophysical Journal 1:445). A step solves v' = v - v^3/3 exactly and makes Euler's step
    of the rest: so the cubic term does not explode, however strong the current.
    """

    @takes_settings(Settings)
    def __init__(self, settings: Settings) -> None:
        n = settings.hidden_size
        super().__init__(input_size=settings.input_size, state={"v": n, "w": n})
        self.dt, self.a, self.b, self.tau = settings.dt, settings.a, settings.b, settings.tau
        self.coupling, self.drive = initial_weights(settings)

    def step(self, x: torch.Tensor, h: torch.Tensor, t: torch.Tensor | None = None) -> torch.Tensor:
        """Return the next state: x ``[N, I]``, h ``[N, 2 n]`` -> ``[N, 2 n]``."""
        v, w = h.chunk(2, dim=-1)
        current = v @ self.coupling.mT + x @ self.drive.mT
        kicked = math.exp(self.dt) * v / torch.sqrt(1 + math.expm1(2 * self.dt) / 3 * v**2)
        dw = (v + self.a - self.b * w) / self.tau
        return torch.cat([kicked + self.dt * (current - w), w + self.dt * dw], dim=-1)


def initial_weights(settings: Settings) -> tuple[torch.nn.Parameter, torch.nn.Parameter]:
    """Return the coupling ``[n, n]`` and the drive ``[n, I]``, normal numbers of the settings' seed."""
    n, inputs, seed = settings.hidden_size, settings.input_size, settings.seed
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    coupling = torch.randn(n, n, generator=generator) / n**0.5
    drive = torch.randn(n, inputs, generator=generator) / inputs**0.5
    return torch.nn.Parameter(0.5 * coupling), torch.nn.Parameter(drive)
