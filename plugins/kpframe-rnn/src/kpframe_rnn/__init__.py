"""Vanilla and leaky recurrent networks for kpframe."""

import math
from collections.abc import Iterator

from attrs import frozen

from kpframe.plugin import ModelSpec, hookimpl, setting


@frozen
class RNNSettings:
    """Settings of the model ``rnn``."""

    input_size: int = setting(ge=1, help="inputs per step")
    hidden_size: int = setting(ge=1, help="number of units")
    nonlinearity: str = setting("tanh", choices=("tanh", "relu"), help="pointwise function phi")
    bias: bool = setting(True, help="two bias vectors, as in torch.nn.RNN")
    form: str = setting(
        "vanilla",
        choices=("vanilla", "rate", "current"),
        help="vanilla: phi(u); rate: (1-a) h + a phi(u); current: (1-a) h + a u with phi(h) recurrent",
    )
    alpha: float = setting(1.0, gt=0, le=1, help="a = dt/tau of the leaky forms")
    gain: float | None = setting(
        None, gt=0, lt=math.inf, help="W_hh ~ N(0, gain^2/hidden_size); unset: torch.nn.RNN's uniform values"
    )
    trainable_initial_state: bool = setting(False, help="h_0 is a parameter, zero at first")
    seed: int | None = setting(
        None, ge=0, lt=2**32, help="seed of the initial weights; unset: torch's own generator"
    )


@hookimpl
def kpframe_models() -> Iterator[ModelSpec]:
    """Offer the model ``rnn``."""
    yield ModelSpec(
        name="rnn",
        factory="kpframe_rnn.model:RNN",
        settings=RNNSettings,
        capabilities=frozenset({"sites"}),
        api=1,
        summary="vanilla RNN (exactly torch.nn.RNN) and its leaky rate and current forms",
    )
