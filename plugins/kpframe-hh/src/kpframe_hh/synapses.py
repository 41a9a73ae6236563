"""Conductance synapses ``I_i = Sum_j W_ij s_j (V_i - E_j)``: kinetics of ``s``, and weight sites on ``s``."""

from __future__ import annotations

import torch

from kpframe import Site
from kpframe_hh.settings import NetworkSettings


def count_inhibitory(settings: NetworkSettings) -> int:
    """Return the number of inhibitory neurons, the last ones; halves are rounded up."""
    return int(settings.inhibitory_fraction * settings.hidden_size + 0.5)


def synapse_sites(settings: NetworkSettings) -> tuple[Site, ...]:
    """Return the weight sites of the synapses: preactivations are conductances [mS/cm2].

    Senders of one kind share their reversal potential, so one site reads the columns of each kind. With
    ``reversals`` one site adds up both the conductances ``W s`` and the drive ``(W o E) s``. A matrix that
    is not its parameter itself, such as one without autapses, says what it is made of.
    """
    n, inhibitory = settings.hidden_size, count_inhibitory(settings)
    excitatory = n - inhibitory
    if settings.reversals is not None:
        made_of = ("weight_synapses",)
        return (
            Site("weight_synapses", "s", ("g_synapses", "gE_synapses"), parameters=made_of, unitwise=True),
        )
    slices = {"excitatory": slice(0, excitatory), "inhibitory": slice(excitatory, n)}
    return tuple(
        Site(
            f"weight_{kind}",
            "s",
            (f"g_{kind}",),
            columns=columns,
            parameters=(f"weight_{kind}",) if settings.nonnegative or not settings.autapses else (),
            unitwise=True,
        )
        for kind, columns in slices.items()
        if columns.start < columns.stop
    )


def synapse_rates(
    V: torch.Tensor, settings: NetworkSettings, inhibitory: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the rates of rise and decay of ``s`` [1/ms] at presynaptic voltages ``V`` ``[..., n]``.

    Args:
        V: voltages [mV].
        settings: the constants.
        inhibitory: bool ``[n]``, the neurons with inhibitory synapses; None where there are none.
    """
    release = torch.sigmoid((V - settings.V_T) / settings.K_p)
    rise, decay = settings.a * release, torch.full_like(V, settings.b)
    if inhibitory is not None:
        rise = torch.where(inhibitory, settings.a_inhibitory * release, rise)
        decay = torch.where(inhibitory, torch.full_like(V, settings.b_inhibitory), decay)
    return rise, decay


def softplus_inverse(g: torch.Tensor) -> torch.Tensor:
    """Return the parameter whose softplus is ``g > 0``."""
    return g + torch.log(-torch.expm1(-g))
