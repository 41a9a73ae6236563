"""Velocity fields for kpframe: neural ODE, continuous Hopfield network, soft-spin glass, and your own.

``ODEModel`` and ``SiteODEModel`` are the bases to derive from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any

from attrs import frozen

from kpframe.plugin import ModelSpec, hookimpl, setting
from kpframe_ode.integrators import INTEGRATORS

if TYPE_CHECKING:
    from kpframe_ode.site_velocity import SiteODEModel
    from kpframe_ode.velocity import ODEModel

__all__ = ["INTEGRATORS", "ODEModel", "SiteODEModel"]

_LAZY = {"ODEModel": "velocity", "SiteODEModel": "site_velocity"}  # they need torch, listing plugins does not


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)


def _positive(default: float, text: str) -> Any:
    return setting(default, gt=0, lt=math.inf, help=text)


def _integrator(default: str) -> Any:
    text = "method of each step; rk4: the classical one, rk4_38: the 3/8 rule (torchdiffeq's rk4)"
    return setting(default, choices=INTEGRATORS, help=text)


@frozen
class NeuralODESettings:
    """Settings of the model ``neural_ode``."""

    input_size: int = setting(ge=1, help="inputs per step")
    hidden_size: int = setting(ge=1, help="width of the state")
    mlp_width: int = setting(32, ge=1, help="units of each hidden layer of the velocity")
    mlp_depth: int = setting(1, ge=1, help="hidden layers of the velocity")
    activation: str = setting(
        "tanh", choices=("tanh", "relu", "softplus", "silu", "elu"), help="pointwise function of the layers"
    )
    leak: float = setting(0.0, ge=0, lt=math.inf, help="rate at which the state decays by itself [1/s]")
    dt: float = _positive(0.1, "time step, over which the input is constant [s]")
    integrator: str = _integrator("rk4")
    substeps: int = setting(1, ge=1, help="steps of the method in each dt")
    trainable_initial_state: bool = setting(False, help="h_0 is a parameter, zero at first")
    seed: int | None = setting(
        None, ge=0, lt=2**32, help="seed of the initial weights; unset: torch's own generator"
    )


@frozen
class HopfieldSettings:
    """Settings of the model ``hopfield``."""

    input_size: int = setting(ge=1, help="inputs per step")
    hidden_size: int = setting(ge=1, help="number of neurons")
    symmetric: bool = setting(True, help="W is (V + V*)/2 with a zero diagonal, V the parameter")
    nonlinearity: str = setting(
        "tanh", choices=("tanh", "sigmoid"), help="what a neuron sends, of gain times its potential"
    )
    gain: float = _positive(1.0, "slope of the nonlinearity")
    tau: float = _positive(1.0, "time constant of the neurons [s]")
    coupling: float = setting(1.0, ge=0, lt=math.inf, help="W_ij ~ N(0, coupling^2/hidden_size)")
    bias: bool = setting(True, help="a constant current of each neuron")
    dt: float = _positive(0.1, "time step, over which the input is constant [s]")
    integrator: str = _integrator("euler")
    substeps: int = setting(1, ge=1, help="steps of the method in each dt")
    trainable_initial_state: bool = setting(
        False, help="the initial potentials are a parameter, zero at first"
    )
    seed: int | None = setting(
        None, ge=0, lt=2**32, help="seed of the initial weights; unset: torch's own generator"
    )


@frozen
class SoftSpinSettings:
    """Settings of the model ``soft_spin``."""

    input_size: int = setting(ge=1, help="signals per step; at a temperature, noise comes beside them")
    hidden_size: int = setting(ge=1, help="number of spins")
    temperature: float = setting(
        0.0, ge=0, lt=math.inf, help="in units of the energy; 0: none, and no columns of noise"
    )
    well: float = _positive(1.0, "a of the double well a (h^4/4 - h^2/2)")
    coupling: float = setting(1.0, ge=0, lt=math.inf, help="J_ij ~ N(0, coupling^2/hidden_size)")
    bias: bool = setting(True, help="a constant field of each spin")
    dt: float = _positive(0.05, "time step, eta, over which the input is constant")
    integrator: str = _integrator("euler")
    substeps: int = setting(1, ge=1, help="steps of the method in each dt")
    trainable_initial_state: bool = setting(False, help="h_0 is a parameter, zero at first")
    seed: int | None = setting(
        None, ge=0, lt=2**32, help="seed of the initial weights; unset: torch's own generator"
    )


@hookimpl
def kpframe_models() -> Iterator[ModelSpec]:
    """Offer the models ``neural_ode``, ``hopfield`` and ``soft_spin``."""
    yield ModelSpec(
        name="neural_ode",
        factory="kpframe_ode.neural_ode:NeuralODE",
        settings=NeuralODESettings,
        api=1,
        summary="dh/dt is a multilayer perceptron of state and input",
    )
    yield ModelSpec(
        name="hopfield",
        factory="kpframe_ode.hopfield:Hopfield",
        settings=HopfieldSettings,
        api=1,
        summary="continuous Hopfield network, tau du/dt = -u + W g(u) + W_ih x + b",
    )
    yield ModelSpec(
        name="soft_spin",
        factory="kpframe_ode.soft_spin:SoftSpin",
        settings=SoftSpinSettings,
        api=1,
        summary="soft-spin glass, h' = h - eta grad E and noise at a temperature",
    )
