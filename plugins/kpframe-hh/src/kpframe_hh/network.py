"""What networks of conductance-based neurons share: currents, synapses, integration, the state at rest."""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping

import torch

from kpframe import Site, SiteModel
from kpframe.errors import NonFiniteError, StabilityWarning, check_seed, mismatch
from kpframe.flow import ParameterOperator, Propagator, Trajectory
from kpframe.models import normal_, uniform_
from kpframe_hh.rates import relax, relax_gate
from kpframe_hh.settings import NetworkSettings
from kpframe_hh.synapses import count_inhibitory, softplus_inverse, synapse_rates, synapse_sites

Tensors = Mapping[str, torch.Tensor]

#: Voltage that no neuron reaches, however it is driven: beyond it a roll-out is blowing up [mV].
BLOWN_UP = 1e6


class ConductanceNetwork(SiteModel):
    """Neurons with a voltage ``V``, gates and a synaptic variable ``s``, one step ``dt`` at a time::

        C dV/dt = I - Sum_c g_c (V - E_c) - Sum_j W_ij s_j (V - E_j)
        dx/dt   = alpha_x(V) (1 - x) - beta_x(V) x             for every gate x, and for s

    All variables are updated from the old ones, so ``x`` of a step moves ``V`` in that step and ``s`` in the
    next. Parameters, each where the settings ask for it:

    =========================  ===========  =============================================================
    ``weight_ih``              ``[n, I]``   currents of the inputs [uA/cm2]; without it x is the current
    ``bias_ih``                ``[n]``      constant currents [uA/cm2]
    ``weight_excitatory``      ``[n, n_e]`` conductances of synapses of the first n_e neurons [mS/cm2]
    ``weight_inhibitory``      ``[n, n_i]`` those of the last n_i neurons [mS/cm2]
    ``weight_synapses``        ``[n, n]``   in place of these two, where ``reversals`` gives every E_ij
    ``g_k``, ``g_l`` ...       ``[n]``      maximal conductances [mS/cm2]
    =========================  ===========  =============================================================

    With ``nonnegative`` the conductances are softplus(parameter). Without it they are the parameters,
    positive at first, which training may carry below zero. No neuron has a synapse on itself: the entries of
    W_ii neither act nor learn, unless the settings ask for ``autapses``.

    Args:
        settings: see ``NetworkSettings``.
        gates: names of the gates, the state's components between V and s.
        conductances: maximal conductances by name [mS/cm2].
        peak: total ionic conductance at the peak of a spike [mS/cm2], which bounds explicit steps.
    """

    inhibitory: torch.Tensor | None
    reversals: torch.Tensor | None
    others: torch.Tensor | None

    def __init__(
        self,
        settings: NetworkSettings,
        gates: tuple[str, ...],
        conductances: Mapping[str, float],
        peak: float,
    ) -> None:
        n, inputs = settings.hidden_size, settings.input_size
        trained = tuple(dict.fromkeys(settings.trainable_conductances))
        bias = "bias_ih" if settings.bias else None
        currents = (
            [Site("weight_ih", "input", ("I",), bias=bias)]
            if settings.weighted
            else [Site(None, "input", ("I",)), *([Site(None, None, ("I",), bias=bias)] if bias else [])]
        )
        super().__init__(
            inputs,
            n,
            components=("V", *gates, "s"),
            sites=(
                *currents,
                *synapse_sites(settings),
                *(Site(None, None, (name,), bias=name) for name in trained),
            ),
            trainable_initial_state=settings.trainable_initial_state,
        )
        self.settings, self.conductances = settings, dict(conductances)
        first = n - count_inhibitory(settings)
        self.register_buffer("inhibitory", torch.arange(n) >= first if first < n else None)
        self.register_buffer(
            "reversals",
            None if settings.reversals is None else torch.tensor(settings.reversals, dtype=torch.float64),
        )
        others = None if settings.autapses else 1 - torch.eye(n)  # [n, n]: who may have a synapse on whom
        self.register_buffer("others", others, persistent=False)
        self._senders = {site.weight: site.columns or slice(None) for site in self.sites if site.recurrent}
        if settings.method == "forward_euler":
            self._warn(peak)
        for site in self.sites:
            width = inputs if site.source == "input" else n
            if site.weight is not None:
                columns = len(range(*(site.columns or slice(None)).indices(width)))
                self.register_parameter(site.weight, torch.nn.Parameter(torch.empty(n, columns)))
            if site.bias is not None:
                self.register_parameter(site.bias, torch.nn.Parameter(torch.empty(n)))
        self.reset_parameters(settings.seed)

    def reset_parameters(self, seed: int | None = None) -> None:
        """Draw the weights anew; constants, and the initial state, take the values of the settings."""
        c = self.settings
        generator = None if seed is None else torch.Generator().manual_seed(check_seed(seed))
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name == "weight_ih":
                    normal_(parameter, 0, c.input_gain / math.sqrt(c.input_size), generator)
                elif name == "bias_ih":
                    parameter.zero_()
                elif name == "h0":
                    parameter.copy_(self.resting_state())
                else:
                    if name in self.conductances:
                        parameter.fill_(self.conductances[name])
                    else:
                        drawn = torch.empty(parameter.shape, dtype=torch.float32, device="cpu")
                        uniform_(drawn, 0, 1, generator)  # 0 is drawn, 1 is not
                        parameter.copy_(2 * c.g_synapse / c.hidden_size * (1 - drawn))
                    if c.nonnegative:
                        parameter.copy_(softplus_inverse(parameter))

    @abstractmethod
    def channels(self, u: Tensors, h: Tensors) -> Iterator[tuple[torch.Tensor | float, float]]:
        """Yield conductance [mS/cm2] and reversal potential [mV] of each ionic current."""

    @abstractmethod
    def gate_rates(self, V: torch.Tensor) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Return gate -> rates of opening and closing [1/ms] at ``V`` [mV]."""

    def rates(self, V: torch.Tensor) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Return gate -> rates of opening and closing [1/ms] at ``V`` ``[..., n]`` [mV], with those of s."""
        return {**self.gate_rates(V), "s": synapse_rates(V, self.settings, self.inhibitory)}

    def maximal(self, name: str, u: Tensors) -> torch.Tensor | float:
        """Return a maximal conductance [mS/cm2]: trained, one a neuron, or the setting."""
        if name not in u:
            return self.conductances[name]
        return torch.nn.functional.softplus(u[name]) if self.settings.nonnegative else u[name]

    def site_weight(self, name: str) -> torch.Tensor:
        """Return the matrix of a site: for synapses the conductances, made of ``weight_...``."""
        weight = super().site_weight(name)
        if name == "weight_ih":
            return weight
        if self.settings.nonnegative:
            weight = torch.nn.functional.softplus(weight)
        if self.others is not None:
            weight = self.others[:, self._senders[name]] * weight
        return weight if self.reversals is None else torch.cat([weight, self.reversals.to(weight) * weight])

    def resting_state(self) -> torch.Tensor:  # [H]
        """Return ``V_init`` with every gate, and s, at its steady state there."""
        like = next(self.parameters())
        with torch.no_grad():
            V = like.new_full((self.settings.hidden_size,), self.settings.V_init)
            rates = self.rates(V)
            steady = {name: opening / (opening + closing) for name, (opening, closing) in rates.items()}
            return torch.cat([V, *(steady[name] for name in self.components if name != "V")])

    def initial_state(self, batch: int) -> torch.Tensor:  # [batch, H]
        """Return ``h_0``: the state at rest, or the parameter ``h0`` where it is trainable."""
        if self.trainable_initial_state:
            return super().initial_state(batch)
        return self.resting_state().expand(batch, -1)

    def combine(self, u: Tensors, h: Tensors, t: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Return the next state from currents and conductances ``u`` and the state, neuron by neuron."""
        c, V = self.settings, h["V"]
        synapses = {"g_excitatory": c.E_excitatory, "g_inhibitory": c.E_inhibitory}
        present = [(u[name], E) for name, E in synapses.items() if name in u]
        conductance, drive = torch.zeros_like(V), u["I"]
        for g, E in (*self.channels(u, h), *present):
            conductance, drive = conductance + g, drive + g * E
        if "g_synapses" in u:
            conductance, drive = conductance + u["g_synapses"], drive + u["gE_synapses"]
        new = {"V": relax(V, drive / c.C, conductance / c.C, c.dt, c.method)}
        for name, (opening, closing) in self.rates(V).items():
            new[name] = relax_gate(h[name], opening, closing, c.dt, c.method)
        return new

    def operators(self, trajectory: Trajectory) -> tuple[Propagator, ParameterOperator]:
        """Return ``P`` and ``K`` along a roll-out.

        Raises:
            NonFiniteError: where a voltage is beyond 1e6 mV, which says that the roll-out blew up even if
                its numbers are finite; names the first step, trial and neuron.
        """
        V = trajectory.component("V")
        if bool((V.abs() > BLOWN_UP).any()):
            t, b, i = (V.abs() > BLOWN_UP).transpose(0, 1).nonzero()[0].tolist()
            where = f"{float(V[b, t, i]):.3g} mV first at step {t}, trial {b}, component 'V', unit {i}"
            raise NonFiniteError(mismatch("roll-out", f"voltages within {BLOWN_UP:.0e} mV", where))
        return super().operators(trajectory)

    def _warn(self, peak: float) -> None:
        """Warn of steps that overshoot: an explicit step contracts only while it is below 2 / rate."""
        c = self.settings
        V = torch.full((c.hidden_size,), c.V_init, dtype=torch.float64)
        gates = [float((opening + closing).max()) for opening, closing in self.rates(V).values()]
        limit = 2 / max(peak / c.C, *gates)
        if c.dt >= limit:
            warnings.warn(
                f"forward_euler is unstable at dt = {c.dt} ms: take less than {limit:.2g} ms, or "
                "exponential_euler",
                StabilityWarning,
                stacklevel=5,
            )
