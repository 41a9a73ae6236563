"""FitzHugh-Nagumo neurons by their equations; P, K, Phi and the rest follow from ``step``."""

import math

import torch

import kpframe


class FitzHughNagumo(kpframe.Model):
    """Excitable neurons with a fast variable v and a recovery w, coupled and driven by trainable weights::

        dv/dt = v - v^3/3 - w + I        dw/dt = (v + a - b w) / tau        I = coupling v + drive x

    (FitzHugh 1961, Biophysical Journal 1:445). A step solves v' = v - v^3/3 exactly and makes Euler's step
    of the rest: so the cubic term does not explode, however strong the current.
    """

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
        super().__init__(input_size=input_size, state={"v": hidden_size, "w": hidden_size})
        self.dt, self.a, self.b, self.tau = dt, a, b, tau
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        coupling = torch.randn(hidden_size, hidden_size, generator=generator) / hidden_size**0.5
        drive = torch.randn(hidden_size, input_size, generator=generator) / input_size**0.5
        self.coupling, self.drive = torch.nn.Parameter(0.5 * coupling), torch.nn.Parameter(drive)

    def step(self, x: torch.Tensor, h: torch.Tensor, t: torch.Tensor | None = None) -> torch.Tensor:
        """Return the next state: x ``[N, I]``, h ``[N, 2 n]`` -> ``[N, 2 n]``."""
        v, w = h.chunk(2, dim=-1)
        current = v @ self.coupling.mT + x @ self.drive.mT
        kicked = math.exp(self.dt) * v / torch.sqrt(1 + math.expm1(2 * self.dt) / 3 * v**2)
        dw = (v + self.a - self.b * w) / self.tau
        return torch.cat([kicked + self.dt * (current - w), w + self.dt * dw], dim=-1)
