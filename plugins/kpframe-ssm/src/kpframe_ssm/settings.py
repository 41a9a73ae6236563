"""Settings of the state-space models."""

from __future__ import annotations

import math

from attrs import frozen

from kpframe.errors import ArgumentError, mismatch
from kpframe.plugin import setting

KINDS = ("lti", "s4d", "s5", "lru", "mamba")
SCANS = ("auto", "sequential", "chunked", "fft")
DISCRETISATIONS = ("zoh", "bilinear")


def _check_range(settings: object, least: str, most: str) -> None:
    low, high = getattr(settings, least), getattr(settings, most)
    if low > high:
        raise ArgumentError(mismatch(f"{least}, {most}", f"{least} <= {most}", f"{low}, {high}"))


@frozen
class SSMSettings:
    """Settings of ``ssm``: what all kinds share."""

    input_size: int = setting(ge=1, help="inputs per step")
    hidden_size: int = setting(ge=1, help="states (lti), channels (s4d, mamba) or complex modes (s5, lru)")
    kind: str = setting("lru", choices=KINDS, help="which of the models, its own settings at their defaults")
    trainable_initial_state: bool = setting(False, help="h_0 is a parameter, zero at first")
    seed: int | None = setting(
        None, ge=0, lt=2**32, help="seed of the initial values; unset: torch's own generator"
    )


@frozen
class LTISettings:
    """Settings of ``lti``."""

    input_size: int = setting(ge=1, help="inputs per step")
    hidden_size: int = setting(ge=1, help="number of states")
    output_size: int | None = setting(None, ge=1, help="number of outputs; unset: input_size")
    spectral_radius: float = setting(0.95, ge=0, lt=1, help="largest |eigenvalue| of A at the start")
    trainable_initial_state: bool = setting(False, help="h_0 is a parameter, zero at first")
    seed: int | None = setting(
        None, ge=0, lt=2**32, help="seed of the initial values; unset: torch's own generator"
    )


@frozen
class S4DSettings:
    """Settings of ``s4d``."""

    input_size: int = setting(ge=1, help="inputs per step")
    hidden_size: int = setting(ge=1, help="number of channels, each with modes of its own")
    state_size: int = setting(16, ge=1, help="complex modes of a channel; the state has 2 per mode")
    discretisation: str = setting("zoh", choices=DISCRETISATIONS, help="zero-order hold or bilinear")
    init: str = setting("lin", choices=("lin", "inv", "legs"), help="spectrum of A at the start")
    dt_min: float = setting(0.001, gt=0, lt=math.inf, help="least time step at the start [1/A]")
    dt_max: float = setting(0.1, gt=0, lt=math.inf, help="largest time step at the start [1/A]")
    constrained: bool = setting(True, help="Re A = -exp(...), stable; off: Re A itself is the parameter")
    real: float = setting(-0.5, gt=-math.inf, lt=math.inf, help="Re A at the start; constrained: below 0")
    encoder: bool = setting(True, help="channels are E x; off: the inputs, as many as hidden_size")
    scan: str = setting("auto", choices=SCANS, help="form of the scan in P")
    trainable_initial_state: bool = setting(False, help="h_0 is a parameter, zero at first")
    seed: int | None = setting(
        None, ge=0, lt=2**32, help="seed of the initial values; unset: torch's own generator"
    )

    def __attrs_post_init__(self) -> None:
        _check_range(self, "dt_min", "dt_max")
        if not self.encoder and self.input_size != self.hidden_size:
            expected = f"hidden_size={self.hidden_size} without an encoder"
            raise ArgumentError(mismatch("input_size", expected, self.input_size))
        if self.constrained and self.real >= 0:
            raise ArgumentError(mismatch("real", "a number below 0, or constrained=False", self.real))


@frozen
class S5Settings:
    """Settings of ``s5``."""

    input_size: int = setting(ge=1, help="inputs per step")
    hidden_size: int = setting(ge=1, help="number of complex modes; the state has 2 per mode")
    output_size: int | None = setting(None, ge=1, help="number of outputs; unset: input_size")
    discretisation: str = setting("zoh", choices=DISCRETISATIONS, help="zero-order hold or bilinear")
    dt_min: float = setting(0.001, gt=0, lt=math.inf, help="least time step at the start [1/A]")
    dt_max: float = setting(0.1, gt=0, lt=math.inf, help="largest time step at the start [1/A]")
    scan: str = setting("auto", choices=SCANS, help="form of the scan in P")
    trainable_initial_state: bool = setting(False, help="h_0 is a parameter, zero at first")
    seed: int | None = setting(
        None, ge=0, lt=2**32, help="seed of the initial values; unset: torch's own generator"
    )

    def __attrs_post_init__(self) -> None:
        _check_range(self, "dt_min", "dt_max")


@frozen
class LRUSettings:
    """Settings of ``lru``."""

    input_size: int = setting(ge=1, help="inputs per step")
    hidden_size: int = setting(ge=1, help="number of complex modes; the state has 2 per mode")
    output_size: int | None = setting(None, ge=1, help="number of outputs; unset: input_size")
    r_min: float = setting(0.0, ge=0, le=1, help="least |lambda| at the start")
    r_max: float = setting(1.0, ge=0, le=1, help="largest |lambda| at the start")
    max_phase: float = setting(2 * math.pi, gt=0, le=2 * math.pi, help="largest phase at the start [rad]")
    trainable_gamma: bool = setting(False, help="gamma is a parameter; off: sqrt(1 - |lambda|^2) throughout")
    scan: str = setting("auto", choices=SCANS, help="form of the scan in P")
    trainable_initial_state: bool = setting(False, help="h_0 is a parameter, zero at first")
    seed: int | None = setting(
        None, ge=0, lt=2**32, help="seed of the initial values; unset: torch's own generator"
    )

    def __attrs_post_init__(self) -> None:
        _check_range(self, "r_min", "r_max")


@frozen
class MambaSettings:
    """Settings of ``mamba``."""

    input_size: int = setting(ge=1, help="inputs per step, and outputs (d_model)")
    hidden_size: int = setting(ge=1, help="number of inner channels (d_inner; the paper: 2 d_model)")
    state_size: int = setting(16, ge=1, help="modes of a channel (d_state)")
    conv_size: int = setting(4, ge=1, help="steps that the convolution sees (d_conv)")
    dt_rank: int | None = setting(None, ge=1, help="rank of the step's projection; unset: ceil(d_model / 16)")
    bias: bool = setting(False, help="biases of in_proj and out_proj")
    conv_bias: bool = setting(True, help="bias of conv1d")
    dt_min: float = setting(0.001, gt=0, lt=math.inf, help="least time step at the start")
    dt_max: float = setting(0.1, gt=0, lt=math.inf, help="largest time step at the start")
    scan: str = setting("auto", choices=SCANS[:3], help="form of the scan in P")
    trainable_initial_state: bool = setting(False, help="the initial state is a parameter, zero at first")
    seed: int | None = setting(
        None, ge=0, lt=2**32, help="seed of the initial values; unset: torch's own generator"
    )

    def __attrs_post_init__(self) -> None:
        _check_range(self, "dt_min", "dt_max")
