"""Networks of Hodgkin-Huxley neurons."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from kpframe.plugin import takes_settings
from kpframe_hh.network import ConductanceNetwork, Tensors
from kpframe_hh.rates import squid_axon
from kpframe_hh.settings import HodgkinHuxleySettings

#: Share of the maximal conductances that is open at the peak of a spike (0.2 to 0.23, by the current).
OPEN_AT_PEAK = 0.2


class HodgkinHuxley(ConductanceNetwork):
    """The squid axon of Hodgkin & Huxley (1952, J. Physiol. 117:500), with synapses; state V, m, h, n, s::

        C dV/dt = I - g_na m^3 h (V - E_na) - g_k n^4 (V - E_k) - g_l (V - E_l) - Sum_j W_ij s_j (V - E_j)
        dx/dt   = alpha_x(V) (1 - x) - beta_x(V) x,  x = m, h, n       ``kpframe_hh.rates.squid_axon``
        ds/dt   = a sigma((V - V_T) / K_p) (1 - s) - b s               ``kpframe_hh.synapses``

    ``"exponential_euler"`` solves each equation exactly over a step, the other variables held, so that
    gates stay within 0 and 1 at any ``dt``; ``"forward_euler"`` is the explicit step. Both are of first
    order.

    Raises:
        SettingsError: for settings that are out of bounds or do not go together.
    """

    settings: HodgkinHuxleySettings

    @takes_settings(HodgkinHuxleySettings)
    def __init__(self, settings: HodgkinHuxleySettings) -> None:
        c = settings
        conductances = {"g_na": c.g_na, "g_k": c.g_k, "g_l": c.g_l}
        super().__init__(c, ("m", "h", "n"), conductances, OPEN_AT_PEAK * sum(conductances.values()))

    def channels(self, u: Tensors, h: Tensors) -> Iterator[tuple[torch.Tensor | float, float]]:
        """Yield conductance [mS/cm2] and reversal potential [mV] of sodium, potassium and leak."""
        c = self.settings
        yield self.maximal("g_na", u) * h["m"] ** 3 * h["h"], c.E_na
        yield self.maximal("g_k", u) * h["n"] ** 4, c.E_k
        yield self.maximal("g_l", u), c.E_l

    def gate_rates(self, V: torch.Tensor) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Return rates of opening and closing [1/ms] of m, h and n at ``V`` [mV]."""
        faster = 3 ** ((self.settings.temperature - 6.3) / 10)  # Q10 = 3
        rates = squid_axon(V)
        if faster == 1:
            return rates
        return {gate: (faster * opening, faster * closing) for gate, (opening, closing) in rates.items()}
