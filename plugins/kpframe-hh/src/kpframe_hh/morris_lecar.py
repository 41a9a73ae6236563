"""Networks of Morris-Lecar neurons."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from kpframe.plugin import takes_settings
from kpframe_hh.network import ConductanceNetwork, Tensors
from kpframe_hh.rates import exponential
from kpframe_hh.settings import MorrisLecarSettings


class MorrisLecar(ConductanceNetwork):
    """The barnacle muscle fibre of Morris & Lecar (1981, Biophys. J. 35:193), with synapses; state V, w, s::

        C dV/dt = I - g_ca m_inf(V) (V - E_ca) - g_k w (V - E_k) - g_l (V - E_l) - Sum_j W_ij s_j (V - E_j)
        dw/dt   = phi cosh((V - V_3) / (2 V_4)) (w_inf(V) - w)
        m_inf   = (1 + tanh((V - V_1) / V_2)) / 2      w_inf = (1 + tanh((V - V_3) / V_4)) / 2

    Two variables spike, calcium in the place of sodium, at a third of the cost of ``HodgkinHuxley``. The
    sets of constants are those of Rinzel & Ermentrout (1998), "Analysis of neural excitability and
    oscillations", in Koch & Segev, Methods in Neuronal Modeling, MIT Press, chapter 7: firing begins at a
    finite frequency with ``"hopf"``, and at frequency zero with ``"snic"`` and ``"homoclinic"``.

    Raises:
        SettingsError: for settings that are out of bounds or do not go together.
    """

    settings: MorrisLecarSettings

    @takes_settings(MorrisLecarSettings)
    def __init__(self, settings: MorrisLecarSettings) -> None:
        c = settings
        conductances = {"g_ca": c.g_ca, "g_k": c.g_k, "g_l": c.g_l}
        super().__init__(c, ("w",), conductances, sum(conductances.values()))

    def channels(self, u: Tensors, h: Tensors) -> Iterator[tuple[torch.Tensor | float, float]]:
        """Yield conductance [mS/cm2] and reversal potential [mV] of calcium, potassium and leak."""
        c = self.settings
        yield self.maximal("g_ca", u) * torch.sigmoid(2 * (h["V"] - c.V_1) / c.V_2), c.E_ca
        yield self.maximal("g_k", u) * h["w"], c.E_k
        yield self.maximal("g_l", u), c.E_l

    def gate_rates(self, V: torch.Tensor) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Return rates of opening and closing [1/ms] of w at ``V`` [mV]: their sum is 1/tau_w."""
        c = self.settings
        z = (V - c.V_3) / c.V_4
        rate = 0.5 * c.phi * (exponential(z / 2) + exponential(-z / 2))
        return {"w": (rate * torch.sigmoid(2 * z), rate * torch.sigmoid(-2 * z))}
