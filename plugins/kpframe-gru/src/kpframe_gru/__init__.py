"""Gated recurrent units for kpframe."""

from collections.abc import Iterator

from attrs import frozen

from kpframe.plugin import ModelSpec, hookimpl, setting


@frozen
class GRUSettings:
    """Settings of the model ``gru``."""

    input_size: int = setting(ge=1, help="inputs per step")
    hidden_size: int = setting(ge=1, help="number of units of each layer")
    num_layers: int = setting(1, ge=1, help="number of layers, each reading the state of the one below")
    bias: bool = setting(True, help="two bias vectors a layer, as in torch.nn.GRU")
    reset: str = setting(
        "after",
        choices=("after", "before"),
        help="the reset gate acts after the recurrent product (torch.nn.GRU) or before it (Cho et al. 2014)",
    )
    trainable_initial_state: bool = setting(False, help="h_0 is a parameter, zero at first")
    seed: int | None = setting(
        None, ge=0, lt=2**32, help="seed of the initial weights; unset: torch's own generator"
    )


@hookimpl
def kpframe_models() -> Iterator[ModelSpec]:
    """Offer the model ``gru``."""
    yield ModelSpec(
        name="gru",
        factory="kpframe_gru.model:GRU",
        settings=GRUSettings,
        api=1,
        summary="gated recurrent unit: exactly torch.nn.GRU, and the form that resets before the product",
        wraps={"torch.nn.modules.rnn.GRU": ("input_size", "hidden_size", "num_layers", "bias")},
    )
