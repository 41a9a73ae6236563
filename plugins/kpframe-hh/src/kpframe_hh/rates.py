"""Rate functions of ion channels, safe to differentiate twice at every voltage.

``x / (1 - exp(-x))`` has a removable singularity at 0, which a neuron meets at -40 and -55 mV. A plain
``torch.where`` gives the right value there and a NaN gradient: both branches are differentiated.
"""

from __future__ import annotations

import math

import torch

#: Below it ``exprel`` is its Taylor series: the quotient's second derivative loses eps / z^2 to rounding.
_SERIES_BELOW = 0.03
_SERIES = tuple(1 / math.factorial(k + 1) for k in range(8))

#: Exponents saturate here (e^60 = 1e26). A gate that relaxes at such a rate is at its steady state after
#: any step, so only float32 notices: its gradients stay finite however far a neuron is driven.
_LARGEST = 60.0


def exprel(z: torch.Tensor) -> torch.Tensor:
    """Return ``(e^z - 1) / z``, 1 at 0; values and two derivatives are right everywhere."""
    small = z.abs() < _SERIES_BELOW
    near, far = torch.where(small, z, 0.0), torch.where(small, 1.0, z)
    series = torch.full_like(near, _SERIES[-1])
    for coefficient in reversed(_SERIES[:-1]):
        series = series * near + coefficient
    return torch.where(small, series, torch.expm1(far) / far)


def linoid(x: torch.Tensor) -> torch.Tensor:
    """Return ``x / (1 - e^-x)``, 1 at 0: a rate that rises linearly with the voltage."""
    return 1 / exprel((-x).clamp(max=_LARGEST))


def exponential(x: torch.Tensor) -> torch.Tensor:
    """Return ``e^x``, saturating at e^60."""
    return torch.exp(x.clamp(max=_LARGEST))


def squid_axon(V: torch.Tensor) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return gate -> rates of opening and closing ``(alpha, beta)`` [1/ms] at ``V`` [mV], at 6.3 degrees.

    Hodgkin & Huxley (1952), J. Physiol. 117:500, equations 12, 13, 20, 21, 23 and 24, with the resting
    potential at -65 mV and depolarisation positive.
    """
    alpha_m, alpha_n = linoid(torch.stack([(V + 40) / 10, (V + 55) / 10])).unbind()
    return {
        "m": (alpha_m, 4 * exponential(-(V + 65) / 18)),
        "h": (0.07 * exponential(-(V + 65) / 20), torch.sigmoid((V + 35) / 10)),
        "n": (0.1 * alpha_n, 0.125 * exponential(-(V + 65) / 80)),
    }


def relax(x: torch.Tensor, drive: torch.Tensor, rate: torch.Tensor, dt: float, method: str) -> torch.Tensor:
    """Return ``x`` after a step of ``dx/dt = drive - rate x``, with drive and rate held.

    ``"exponential_euler"`` solves the step exactly, also at ``rate = 0``; ``"forward_euler"`` is the
    explicit step ``x + dt (drive - rate x)``.
    """
    step = dt * (drive - rate * x)
    return x + (step if method == "forward_euler" else step * exprel(-dt * rate))


def relax_gate(
    x: torch.Tensor, opening: torch.Tensor, closing: torch.Tensor, dt: float, method: str
) -> torch.Tensor:
    """Return a gate after a step of ``dx/dt = opening (1 - x) - closing x``, both rates [1/ms] held.

    The same as ``relax``, at less cost: the rates' sum is positive.
    """
    rate = opening + closing
    if method == "forward_euler":
        return x + dt * (opening - rate * x)
    steady = opening / rate
    return steady + (x - steady) * torch.exp(-dt * rate)
