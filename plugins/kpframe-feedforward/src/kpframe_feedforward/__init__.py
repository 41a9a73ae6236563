"""Feedforward networks for kpframe, depth as time, and the task that feeds them. No torch here."""

import math
from collections.abc import Iterator

from attrs import frozen

from kpframe.errors import ArgumentError, mismatch
from kpframe.plugin import ModelSpec, TaskSpec, hookimpl, setting

ACTIVATIONS = ("tanh", "relu", "gelu", "silu", "erf", "sigmoid", "identity")
FORMS = ("plain", "residual")
PARAMETRISATIONS = ("standard", "ntk")


@frozen
class MLPSettings:
    """Settings of the model ``mlp``."""

    input_size: int = setting(ge=1, help="entries of a sample, given at the first step")
    hidden_size: int = setting(ge=1, help="units of each layer")
    depth: int = setting(2, ge=1, help="hidden layers, one a step; the first reads the sample")
    activation: str = setting("tanh", choices=ACTIVATIONS, help="pointwise function phi")
    form: str = setting(
        "plain",
        choices=FORMS,
        help="plain: h' = phi(W h + b); residual: h' = h + scale phi(W h + b) after a linear first layer",
    )
    scale: float = setting(1.0, gt=0, lt=math.inf, help="factor of the residual form's branches")
    parametrisation: str = setting(
        "standard",
        choices=PARAMETRISATIONS,
        help="where sigma_w/sqrt(fan_in) and sigma_b stand: in the initial values, or (ntk) in the step",
    )
    sigma_w: float | None = setting(
        None,
        gt=0,
        lt=math.inf,
        help="standard deviation of initial weights times sqrt(fan_in); unset: sqrt(2) for relu, gelu "
        "and silu, 1 for the others",
    )
    sigma_b: float = setting(0.1, ge=0, lt=math.inf, help="standard deviation of initial biases")
    bias: bool = setting(True, help="biases at every layer")
    seed: int | None = setting(
        None, ge=0, lt=2**32, help="seed of the initial weights; unset: torch's own generator"
    )

    def __attrs_post_init__(self) -> None:
        if self.form == "plain" and self.scale != 1:
            got = f"{self.scale}; 'residual' has a scale"
            raise ArgumentError(mismatch("scale", "1 with form='plain'", got))
        if self.sigma_b == 0 and self.bias and self.parametrisation == "ntk":
            expected = "a factor other than 0 with parametrisation='ntk'"
            raise ArgumentError(mismatch("sigma_b", expected, "0, with which biases do nothing: bias=False"))


@frozen
class AttentionSettings:
    """Settings of the model ``attention``."""

    input_size: int = setting(ge=1, help="entries of a sample: tokens times features of a token")
    hidden_size: int = setting(
        ge=2, help="width of the residual stream, for each token (the LayerNorm of one is a constant)"
    )
    tokens: int = setting(ge=1, help="context length; a sample is cut into so many tokens")
    blocks: int = setting(1, ge=1, help="blocks of two steps: an attention and an MLP sub-layer")
    heads: int = setting(1, ge=1, help="attention heads; hidden_size is a multiple of it")
    mlp_size: int | None = setting(None, ge=1, help="units inside an MLP sub-layer; unset: 4 hidden_size")
    activation: str = setting("gelu", choices=ACTIVATIONS, help="pointwise function of the MLP sub-layers")
    causal: bool = setting(True, help="a token attends to itself and to earlier ones only")
    seed: int | None = setting(
        None, ge=0, lt=2**32, help="seed of the initial weights; unset: torch's own generator"
    )

    def __attrs_post_init__(self) -> None:
        for name, divisor in (("input_size", "tokens"), ("hidden_size", "heads")):
            value, parts = getattr(self, name), getattr(self, divisor)
            if value % parts:
                raise ArgumentError(mismatch(name, f"a multiple of {divisor} = {parts}", value))


@frozen
class AtOnceSettings:
    """Settings of the task ``at_once``."""

    steps: int = setting(ge=1, help="steps of the network: depth of mlp, 1 + 2 blocks of attention")
    task: str = setting("digits", help="name of the task whose trials are given whole")
    seed: int = setting(0, ge=0, help="seed of that task and of unseeded draws")


@hookimpl
def kpframe_models() -> Iterator[ModelSpec]:
    """Offer the models ``mlp`` and ``attention``."""
    yield ModelSpec(
        name="mlp",
        factory="kpframe_feedforward.mlp:MLP",
        settings=MLPSettings,
        api=1,
        summary="multilayer perceptron, plain or residual, a layer a step",
    )
    yield ModelSpec(
        name="attention",
        factory="kpframe_feedforward.attention:Attention",
        settings=AttentionSettings,
        api=1,
        summary="causal pre-LayerNorm attention blocks (torch.nn.TransformerEncoder), a sub-layer a step",
    )


@hookimpl
def kpframe_tasks() -> Iterator[TaskSpec]:
    """Offer the task ``at_once``."""
    yield TaskSpec(
        name="at_once",
        factory="kpframe_feedforward.at_once:AtOnce",
        settings=AtOnceSettings,
        api=1,
        summary="trials of another task, each given whole at the first step",
    )
