"""Long short-term memory for kpframe."""

import math
from collections.abc import Iterator

from attrs import frozen

from kpframe.errors import ArgumentError, mismatch
from kpframe.plugin import ModelSpec, hookimpl, setting


@frozen
class LSTMSettings:
    """Settings of the model ``lstm``."""

    input_size: int = setting(ge=1, help="inputs per step")
    hidden_size: int = setting(ge=1, help="number of units (memory cells) of each layer")
    num_layers: int = setting(1, ge=1, help="number of layers, each reading the state h of the one below")
    bias: bool = setting(True, help="two bias vectors a layer, as in torch.nn.LSTM")
    proj_size: int = setting(
        0, ge=0, help="width of the projected h, less than hidden_size; 0: no projection"
    )
    forget_bias: float | None = setting(
        None,
        gt=-math.inf,
        lt=math.inf,
        help="initial bias of the forget gates, both vectors together; unset: torch's uniform values",
    )
    trainable_initial_state: bool = setting(False, help="h_0 and c_0 are a parameter, zero at first")
    seed: int | None = setting(
        None, ge=0, lt=2**32, help="seed of the initial weights; unset: torch's own generator"
    )

    def __attrs_post_init__(self) -> None:
        if self.proj_size >= self.hidden_size:
            raise ArgumentError(
                mismatch("proj_size", f"less than hidden_size={self.hidden_size}", self.proj_size)
            )
        if self.forget_bias is not None and not self.bias:
            raise ArgumentError(mismatch("forget_bias", "None with bias=False", self.forget_bias))


@hookimpl
def kpframe_models() -> Iterator[ModelSpec]:
    """Offer the model ``lstm``."""
    yield ModelSpec(
        name="lstm",
        factory="kpframe_lstm.model:LSTM",
        settings=LSTMSettings,
        api=1,
        summary="long short-term memory, exactly torch.nn.LSTM, with layers and projections",
        wraps={"torch.nn.modules.rnn.LSTM": ("input_size", "hidden_size", "num_layers", "bias", "proj_size")},
    )
