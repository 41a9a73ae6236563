"""Vanilla and leaky recurrent networks for kpframe."""

import math
from collections.abc import Iterator

from attrs import frozen

from kpframe.errors import ArgumentError, mismatch
from kpframe.plugin import ModelSpec, hookimpl, setting


@frozen
class RNNSettings:
    """Settings of the model ``rnn``."""

    input_size: int = setting(ge=1, help="inputs per step; of noisy_rnn without the columns of noise")
    hidden_size: int = setting(ge=1, help="number of units of a layer")
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
    input_gain: float | None = setting(
        None,
        gt=0,
        lt=math.inf,
        help="W_ih ~ N(0, input_gain^2/input_size); unset: torch.nn.RNN's uniform values",
    )
    num_layers: int = setting(1, ge=1, help="stacked layers, as in torch.nn.RNN")
    density: float | None = setting(
        None, gt=0, le=1, help="share of recurrent connections that exist (mask_hh_l0); unset: no mask"
    )
    self_connections: bool = setting(True, help="whether units reach themselves")
    excitatory_fraction: float | None = setting(
        None, ge=0, le=1, help="Dale's law: share of excitatory units, the others inhibit; unset: none"
    )
    rectifier: str = setting(
        "abs",
        choices=("abs", "relu", "softplus"),
        help="Dale's law: what keeps weights from changing sign; with relu, silent ones stay silent",
    )
    rank: int | None = setting(
        None, ge=1, help="W_hh = m n^T / hidden_size of this rank, plus a random bulk if gain is set"
    )
    initial_rank: int | None = setting(
        None, ge=1, help="rank that W_hh starts with, at the norm that it has without; all its entries learn"
    )
    train_bulk: bool = setting(False, help="whether the bulk beside a low-rank matrix learns")
    trainable_initial_state: bool = setting(False, help="h_0 is a parameter, zero at first")
    seed: int | None = setting(
        None, ge=0, lt=2**32, help="seed of the initial weights and masks; unset: torch's own generator"
    )

    def __attrs_post_init__(self) -> None:
        if self.form == "vanilla" and self.alpha != 1:
            raise ArgumentError(
                mismatch("alpha", "1 with form='vanilla'", f"{self.alpha}; leaky: 'rate', 'current'")
            )
        dale = self.excitatory_fraction is not None
        if self.initial_rank is not None:
            self._check_initial_rank(dale=dale)
        if self.rectifier != "abs" and not dale:
            expected = "none without an excitatory_fraction (Dale's law)"
            raise ArgumentError(mismatch("rectifier", expected, repr(self.rectifier)))
        if self.rank is None:
            if self.train_bulk:
                raise ArgumentError(mismatch("train_bulk", "False without a rank", True))
            return
        if self.rank > self.hidden_size:
            expected = f"a whole number from 1 to hidden_size = {self.hidden_size}"
            raise ArgumentError(mismatch("rank", expected, self.rank))
        if dale:
            expected = "none beside excitatory_fraction: products m n^T do not keep to Dale's law"
            raise ArgumentError(mismatch("rank", expected, self.rank))
        if self.train_bulk and self.gain is None:
            raise ArgumentError(mismatch("train_bulk", "False without a gain, which makes the bulk", True))

    def _check_initial_rank(self, *, dale: bool) -> None:
        if self.initial_rank is not None and self.initial_rank > self.hidden_size:
            expected = f"a whole number from 1 to hidden_size = {self.hidden_size}"
            raise ArgumentError(mismatch("initial_rank", expected, self.initial_rank))
        made = {
            "rank": self.rank is not None,
            "density": self.density is not None,
            "self_connections": not self.self_connections,
            "excitatory_fraction": dale,
        }
        if others := [name for name, there in made.items() if there]:
            expected = f"none beside {', '.join(others)}, which would change the rank of what acts"
            raise ArgumentError(mismatch("initial_rank", expected, self.initial_rank))


@frozen
class NoisyRNNSettings(RNNSettings):
    """Settings of the model ``noisy_rnn``."""

    input_noise: float = setting(
        0.0, ge=0, lt=math.inf, help="sigma of the noise on each signal; 0: none, and no columns for it"
    )
    state_noise: float = setting(
        0.05, ge=0, lt=math.inf, help="sigma of the noise on each unit; 0: none, and no columns for it"
    )


@hookimpl
def kpframe_models() -> Iterator[ModelSpec]:
    """Offer the models ``rnn`` and ``noisy_rnn``."""
    yield ModelSpec(
        name="rnn",
        factory="kpframe_rnn.model:RNN",
        settings=RNNSettings,
        api=1,
        summary="vanilla RNN (exactly torch.nn.RNN) and leaky forms; layers, masks, Dale's law, low rank",
        wraps={
            "torch.nn.modules.rnn.RNN": ("input_size", "hidden_size", "nonlinearity", "num_layers", "bias")
        },
    )
    yield ModelSpec(
        name="noisy_rnn",
        factory="kpframe_rnn.model:NoisyRNN",
        settings=NoisyRNNSettings,
        api=1,
        summary="rnn whose input carries noise beside its signals: model.with_noise(x, generator)",
    )
