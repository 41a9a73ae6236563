"""The conformance kit: the registered models in all their settings, and fields that users might write."""

from __future__ import annotations

import pytest
import torch
from kpframe_ode import ODEModel, SiteODEModel

from kpframe import Site, Stage
from kpframe.testing import parametrize_with_checks


class Adapting(SiteODEModel):
    """Two fast units, a slow one that reads what these send, and time in the velocity."""

    time_varying = True

    def __init__(self) -> None:
        fast = Stage(
            ("v", "r"),
            2,
            (Site("w_x", "input", "u", bias="b"), Site("w_v", "v", "u", transform=torch.tanh)),
            combine="fast",
        )
        slow = Stage("a", 1, (Site("w_r", "r'", "drive"),), combine="slow")
        super().__init__(2, components=("v", "a"), stages=(fast, slow), dt=0.3, integrator="heun")
        self.w_x, self.w_v, self.w_r = (torch.nn.Parameter(torch.randn(n, 2)) for n in (2, 2, 1))
        self.b = torch.nn.Parameter(torch.randn(2))

    def fast(self, u, h, t=None):
        wave = torch.cos(t).unsqueeze(-1)
        return {"v": wave * u["u"] - h["v"], "r": torch.sigmoid(h["v"])}

    def slow(self, u, h, t=None):
        return {"a": 0.2 * (u["drive"] - h["a"])}


class Rotor(ODEModel):
    """A trained linear part, all of it treated exactly, and a cubic rest."""

    def __init__(self, input_size: int) -> None:
        super().__init__(input_size, {"z": 2}, dt=0.2, integrator="exponential_euler")
        self.L = torch.nn.Parameter(torch.tensor([[-0.2, 2.0], [-2.0, -0.2]]))
        self.B = torch.nn.Parameter(torch.randn(2, input_size))

    def velocity(self, x, h, t=None):
        return h @ self.L.T + torch.tanh(x @ self.B.T) - 0.1 * h**3

    def linear_part(self):
        return self.L


@parametrize_with_checks(["neural_ode", "hopfield", "soft_spin"])
@pytest.mark.rows(20)
def test_conformance(check) -> None:
    check()


@pytest.mark.slow
@parametrize_with_checks([Adapting, Rotor])
def test_conformance_of_fields_of_ones_own(check) -> None:
    check()
