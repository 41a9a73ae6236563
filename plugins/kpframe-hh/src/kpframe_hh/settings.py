"""The settings of both models, with units. No torch here: listing plugins stays fast."""

from __future__ import annotations

import math
from typing import Any

from attrs import Factory, frozen

from kpframe.errors import ArgumentError, mismatch
from kpframe.plugin import setting

METHODS = ("exponential_euler", "forward_euler")

#: What distinguishes the published sets of Morris-Lecar constants.
MORRIS_LECAR_SETS = {
    "hopf": {"g_ca": 4.4, "V_3": 2.0, "V_4": 30.0, "phi": 0.04},
    "snic": {"g_ca": 4.0, "V_3": 12.0, "V_4": 17.4, "phi": 1 / 15},
    "homoclinic": {"g_ca": 4.0, "V_3": 12.0, "V_4": 17.4, "phi": 0.23},
}


def _finite(default: Any, text: str) -> Any:
    return setting(default, gt=-math.inf, lt=math.inf, help=text)


def _positive(default: Any, text: str) -> Any:
    return setting(default, gt=0, lt=math.inf, help=text)


def _nonnegative(default: Any, text: str) -> Any:
    return setting(default, ge=0, lt=math.inf, help=text)


def _published(name: str) -> Any:
    return Factory(lambda settings: MORRIS_LECAR_SETS[settings.excitability][name], takes_self=True)


@frozen
class NetworkSettings:
    """Inputs, synapses and starting values, which both models share.

    The synapse is the first-order kinetics of Destexhe, Mainen & Sejnowski (1998) in "Methods in Neuronal
    Modeling" (Koch & Segev, MIT Press), chapter 1: transmitter [T] = sigma((V_j - V_T) / K_p) in mM, AMPA
    receptors by default for excitatory neurons and GABA_A receptors for inhibitory ones.
    """

    input_size: int = setting(ge=1, help="inputs per step")
    hidden_size: int = setting(ge=1, help="number of neurons")
    dt: float = _positive(0.025, "time step [ms]")
    method: str = setting("exponential_euler", choices=METHODS, help="how a step is integrated")
    V_init: float = _finite(-65.0, "initial voltage, every gate at its steady state [mV]")
    C: float = _positive(1.0, "membrane capacitance [uF/cm2]")
    trainable_conductances: tuple[str, ...] = ()
    input_weights: bool | None = setting(
        None,
        help="currents are weight_ih x; false: x is the current itself, one a neuron [uA/cm2]; "
        "unset: weights unless input_size = hidden_size",
    )
    input_gain: float = _positive(10.0, "weight_ih ~ N(0, input_gain^2/input_size) [uA/cm2]")
    bias: bool = setting(False, help="a constant current of each neuron trains, bias_ih [uA/cm2]")
    inhibitory_fraction: float = setting(
        0.0, ge=0, le=1, help="share of inhibitory neurons, the last ones, rounded to a whole number [1]"
    )
    autapses: bool = setting(False, help="whether neurons have synapses on themselves, W_ii")
    g_synapse: float = _nonnegative(0.5, "W_ij ~ uniform from 0 to 2 g_synapse/hidden_size [mS/cm2]")
    reversals: tuple[tuple[float, ...], ...] | None = setting(
        None,
        gt=-math.inf,
        lt=math.inf,
        help="E_ij of each synapse, a row for each receiving neuron [mV]; unset: by the sender's kind",
    )
    nonnegative: bool = setting(
        False, help="synaptic weights and trained conductances are softplus(parameter), not the parameter"
    )
    E_excitatory: float = _finite(0.0, "reversal potential of excitatory synapses [mV]")
    E_inhibitory: float = _finite(-80.0, "reversal potential of inhibitory synapses [mV]")
    a: float = _nonnegative(1.1, "rate of rise of excitatory synapses (AMPA) [1/ms]")
    b: float = _positive(0.19, "rate of decay of excitatory synapses (AMPA) [1/ms]")
    a_inhibitory: float = _nonnegative(5.0, "rate of rise of inhibitory synapses (GABA_A) [1/ms]")
    b_inhibitory: float = _positive(0.18, "rate of decay of inhibitory synapses (GABA_A) [1/ms]")
    V_T: float = _finite(2.0, "presynaptic voltage of half release [mV]")
    K_p: float = _positive(5.0, "steepness of release [mV]")
    trainable_initial_state: bool = setting(False, help="h_0 is a parameter, at rest at first")
    seed: int | None = setting(
        None, ge=0, lt=2**32, help="seed of the initial weights; unset: torch's own generator"
    )

    def __attrs_post_init__(self) -> None:
        n = self.hidden_size
        if not self.weighted and self.input_size != n:
            expected = f"hidden_size={n} with input_weights=False: a current for each neuron"
            raise ArgumentError(mismatch("input_size", expected, self.input_size))
        rows = self.reversals
        if rows is not None and {len(rows), *map(len, rows)} != {n}:
            got = f"rows of lengths {[len(row) for row in rows]}"
            raise ArgumentError(mismatch("reversals", f"{n} rows of {n} numbers [mV]", got))
        if self.nonnegative:
            for name in ("g_synapse", *self.trainable_conductances):
                if getattr(self, name) == 0:
                    expected = "more than 0 with nonnegative=True: softplus is positive"
                    raise ArgumentError(mismatch(name, expected, getattr(self, name)))

    @property
    def weighted(self) -> bool:
        """Whether the inputs have weights; without them they are the currents."""
        return self.input_size != self.hidden_size if self.input_weights is None else self.input_weights


@frozen
class HodgkinHuxleySettings(NetworkSettings):
    """Settings of the model ``hh``: the squid axon of Hodgkin & Huxley (1952), rest at -65 mV."""

    trainable_conductances: tuple[str, ...] = setting(
        (), choices=("g_na", "g_k", "g_l"), help="maximal conductances that train, one a neuron"
    )
    temperature: float = setting(
        6.3, ge=-20, le=60, help="gates are 3^((temperature - 6.3)/10) times faster [degrees C]"
    )
    g_na: float = _nonnegative(120.0, "maximal sodium conductance [mS/cm2]")
    E_na: float = _finite(50.0, "sodium reversal potential [mV]")
    g_k: float = _nonnegative(36.0, "maximal potassium conductance [mS/cm2]")
    E_k: float = _finite(-77.0, "potassium reversal potential [mV]")
    g_l: float = _nonnegative(0.3, "leak conductance [mS/cm2]")
    E_l: float = _finite(-54.387, "leak reversal potential [mV]")


@frozen
class MorrisLecarSettings(NetworkSettings):
    """Settings of the model ``morris_lecar``, the constants by Rinzel & Ermentrout (1998)."""

    dt: float = _positive(0.1, "time step [ms]")
    excitability: str = setting(
        "hopf",
        choices=tuple(MORRIS_LECAR_SETS),
        help="published set of constants, by how firing begins: gives g_ca, V_3, V_4 and phi",
    )
    trainable_conductances: tuple[str, ...] = setting(
        (), choices=("g_ca", "g_k", "g_l"), help="maximal conductances that train, one a neuron"
    )
    V_init: float = _finite(-60.0, "initial voltage, every gate at its steady state [mV]")
    C: float = _positive(20.0, "membrane capacitance [uF/cm2]")
    g_ca: float = _nonnegative(
        _published("g_ca"), "maximal calcium conductance [mS/cm2]; computed: by excitability"
    )
    E_ca: float = _finite(120.0, "calcium reversal potential [mV]")
    g_k: float = _nonnegative(8.0, "maximal potassium conductance [mS/cm2]")
    E_k: float = _finite(-84.0, "potassium reversal potential [mV]")
    g_l: float = _nonnegative(2.0, "leak conductance [mS/cm2]")
    E_l: float = _finite(-60.0, "leak reversal potential [mV]")
    V_1: float = _finite(-1.2, "voltage at which m_inf is 1/2 [mV]")
    V_2: float = _positive(18.0, "width of m_inf [mV]")
    V_3: float = _finite(_published("V_3"), "voltage at which w_inf is 1/2 [mV]; computed: by excitability")
    V_4: float = _positive(_published("V_4"), "width of w_inf [mV]; computed: by excitability")
    phi: float = _positive(_published("phi"), "rate of w at V_3 [1/ms]; computed: by excitability")
