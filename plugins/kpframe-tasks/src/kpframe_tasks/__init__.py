"""Tasks for kpframe: their settings and names. The tasks themselves load on first use, torch with them."""

from __future__ import annotations

import math
from collections.abc import Iterator

from attrs import frozen

from kpframe.errors import ArgumentError, mismatch
from kpframe.plugin import TaskSpec, hookimpl, setting

VARIANTS = ("pro", "anti", "delay_pro", "delay_anti")


@frozen
class DigitsSettings:
    """Settings of ``digits``."""

    test_fraction: float = setting(0.25, gt=0, lt=1, help="share of each class in the test split")
    seed: int = setting(0, ge=0, help="seed of the split and of unseeded draws")


@frozen
class MemoryProSettings:
    """Settings of ``memory_pro``; lengths are in steps."""

    variant: str | tuple[str, ...] = setting(
        "pro",
        choices=VARIANTS,
        help="respond to (pro) or away from (anti) the stimulus; several are mixed in each batch",
    )
    fixation: int = setting(5, ge=0, help="steps before the stimulus")
    stimulus: int = setting(5, ge=1, help="steps from the stimulus' onset to the memory epoch")
    memory: int = setting(10, ge=1, help="steps between the stimulus epoch and the go cue")
    response: int = setting(5, ge=1, help="steps from the go cue to the trial's end")
    jitter: int = setting(0, ge=0, help="each epoch lasts up to this many steps longer, at random")
    grace: int = setting(1, ge=0, help="steps after the go cue that are not scored")
    noise: float = setting(
        0.0, ge=0, lt=math.inf, help="standard deviation of the input noise, per channel and step"
    )
    rule: bool = setting(True, help="add four input channels that name the variant")
    seed: int = setting(0, ge=0, help="seed of unseeded draws")
    cue: int = setting(
        0, ge=0, help="steps of a first epoch, which alone shows the rule; 0: the whole trial shows it"
    )
    distractor: int = setting(0, ge=0, help="steps of a second angle in the memory epoch, to be ignored")
    directions: int = setting(0, ge=0, help="equally spaced angles to draw from; 0: the whole circle")
    encoding: str = setting(
        "circle", choices=("circle", "one_hot"), help="angles as cosine and sine, or a channel per direction"
    )
    amplitude: float = setting(1.0, gt=0, lt=math.inf, help="size of stimulus and response")

    def __attrs_post_init__(self) -> None:
        if self.grace >= self.response:
            expected = f"from 0 to {self.response - 1}, below response"
            raise ArgumentError(mismatch("grace", expected, self.grace))
        if not self.variants or len(set(self.variants)) < len(self.variants):
            raise ArgumentError(mismatch("variant", "different names, at least one", list(self.variants)))
        sides = {name.endswith("anti") for name in self.variants}
        if len(sides) > 1 and not self.rule:
            raise ArgumentError(mismatch("rule", "True where pro and anti are mixed", self.rule))
        if self.cue and not self.rule:
            raise ArgumentError(mismatch("cue", "0 without rule channels (rule=False)", self.cue))
        if self.distractor > self.memory:
            raise ArgumentError(mismatch("distractor", f"at most memory, {self.memory}", self.distractor))
        if self.encoding == "one_hot":
            if self.directions < 2:
                expected = "at least 2, one channel for each, with encoding 'one_hot'"
                raise ArgumentError(mismatch("directions", expected, self.directions))
            if self.directions % 2 and True in sides:
                expected = "an even number, so that each direction has an opposite"
                raise ArgumentError(mismatch("directions", expected, self.directions))

    @property
    def variants(self) -> tuple[str, ...]:
        """The variants that are mixed; a single one stands alone."""
        return (self.variant,) if isinstance(self.variant, str) else self.variant


def _check_transient(transient: int, steps: int) -> None:
    if transient >= steps:
        raise ArgumentError(mismatch("transient", f"from 0 to {steps - 1}, below steps", transient))


@frozen
class FlipFlopSettings:
    """Settings of ``flip_flop``."""

    bits: int = setting(3, ge=1, help="channels, each an input and an output")
    steps: int = setting(50, ge=1, help="steps per trial")
    probability: float = setting(0.1, ge=0, le=1, help="chance of a pulse, per channel and step")
    transient: int = setting(0, ge=0, help="steps at the start that are not scored")
    seed: int = setting(0, ge=0, help="seed of unseeded draws")

    def __attrs_post_init__(self) -> None:
        _check_transient(self.transient, self.steps)


@frozen
class AddingSettings:
    """Settings of ``adding``."""

    steps: int = setting(20, ge=2, help="steps that show values, two of them marked")
    delay: int = setting(0, ge=0, help="empty steps between the last value and the response")
    response: int = setting(1, ge=1, help="steps that ask for the sum and are scored")
    jitter: int = setting(0, ge=0, help="the delay lasts up to this many steps longer, at random")
    low: float = setting(-1.0, gt=-math.inf, lt=math.inf, help="least value")
    high: float = setting(1.0, gt=-math.inf, lt=math.inf, help="greatest value")
    seed: int = setting(0, ge=0, help="seed of unseeded draws")

    def __attrs_post_init__(self) -> None:
        if self.low >= self.high:
            raise ArgumentError(mismatch("low", f"below high, {self.high}", self.low))


@frozen
class DelayedAdditionSettings:
    """Settings of ``delayed_addition``; lags are in steps."""

    lags: tuple[int, ...] = setting((3, 8), ge=0, help="how far back the added inputs are")
    weights: tuple[float, ...] = setting(
        (0.5, -0.25), gt=-math.inf, lt=math.inf, help="what each of them is multiplied by"
    )
    offset: float = setting(0.5, gt=-math.inf, lt=math.inf, help="what is added to their sum")
    probability: float = setting(0.5, ge=0, le=1, help="chance of an input of 1, per step")
    steps: int = setting(50, ge=1, help="steps per trial")
    seed: int = setting(0, ge=0, help="seed of unseeded draws")

    def __attrs_post_init__(self) -> None:
        if not self.lags or len(set(self.lags)) < len(self.lags):
            raise ArgumentError(mismatch("lags", "different lags, at least one", list(self.lags)))
        if len(self.weights) != len(self.lags):
            expected = f"one for each of the {len(self.lags)} lags"
            raise ArgumentError(mismatch("weights", expected, list(self.weights)))
        if max(self.lags) >= self.steps:
            raise ArgumentError(mismatch("lags", f"below steps, {self.steps}", list(self.lags)))


@frozen
class ContextualIntegrationSettings:
    """Settings of ``contextual_integration``; lengths are in steps."""

    fixation: int = setting(3, ge=0, help="steps before the streams, the context shown")
    stimulus: int = setting(20, ge=1, help="steps of the two streams")
    delay: int = setting(0, ge=0, help="steps between the streams and the response, the context shown")
    response: int = setting(2, ge=1, help="steps from the end of the context to the trial's end")
    jitter: int = setting(0, ge=0, help="each epoch lasts up to this many steps longer, at random")
    strength: float = setting(
        0.25, gt=0, lt=math.inf, help="largest mean of a stream; drawn from -strength to strength"
    )
    levels: tuple[float, ...] = setting(
        (), gt=0, lt=math.inf, help="sizes of the means, all equally likely; none: the whole range"
    )
    noise: float = setting(0.5, ge=0, lt=math.inf, help="standard deviation of each stream, per step")
    seed: int = setting(0, ge=0, help="seed of unseeded draws")


@frozen
class LowRankForecastSettings:
    """Settings of ``low_rank_forecast``."""

    rank: int = setting(3, ge=1, help="latent variables")
    input_size: int = setting(20, ge=1, help="channels that are observed")
    output_size: int = setting(20, ge=1, help="channels that are forecast")
    horizon: int = setting(1, ge=0, help="steps from an observation to its forecast")
    steps: int = setting(30, ge=1, help="steps per trial")
    dynamics: str = setting("linear", choices=("linear", "tanh"), help="how the latent state moves")
    observation: str = setting("linear", choices=("linear", "sine"), help="how it is observed and forecast")
    mixing: float = setting(0.2, gt=0, lt=0.5, help="share of the latent state that is renewed in a step")
    gain: float = setting(2.0, gt=0, lt=math.inf, help="what tanh dynamics multiply the latent state by")
    noise: float = setting(
        0.0, ge=0, lt=math.inf, help="standard deviation of the observations, per channel and step"
    )
    transient: int = setting(0, ge=0, help="steps at the start that are not scored")
    seed: int = setting(0, ge=0, help="seed of the system and of unseeded draws")

    def __attrs_post_init__(self) -> None:
        _check_transient(self.transient, self.steps)


@frozen
class PolynomialMapSettings:
    """Settings of ``polynomial_map``; lengths are in steps."""

    input_dimension: int = setting(4, ge=1, help="latent variables, dimensions that the inputs fill")
    target_dimension: int = setting(2, ge=1, help="polynomials of them, dimensions that the targets fill")
    input_size: int = setting(16, ge=1, help="channels that are observed, at least input_dimension")
    output_size: int = setting(16, ge=1, help="channels that are asked for, at least target_dimension")
    stimulus: int = setting(5, ge=1, help="steps that show the inputs")
    delay: int = setting(0, ge=0, help="empty steps between the inputs and the response")
    response: int = setting(3, ge=1, help="steps that ask for the targets and are scored")
    noise: float = setting(
        0.0, ge=0, lt=math.inf, help="standard deviation of the input noise, per channel and step"
    )
    seed: int = setting(0, ge=0, help="seed of the channels and of unseeded draws")

    def __attrs_post_init__(self) -> None:
        for size, dimension in (("input_size", "input_dimension"), ("output_size", "target_dimension")):
            least = getattr(self, dimension)
            if getattr(self, size) < least:
                raise ArgumentError(mismatch(size, f"at least {dimension}, {least}", getattr(self, size)))


@frozen
class NeurogymSettings:
    """Settings of ``neurogym``."""

    environment: str = setting("PerceptualDecisionMaking-v0", help="name among neurogym's environments")
    dt: int | None = setting(None, ge=1, help="length of a step [ms]; None: the environment's own")
    steps: int = setting(0, ge=0, help="steps that trials are padded to; 0: those of the batch's longest")
    seed: int = setting(0, ge=0, help="seed of unseeded draws")


@frozen
class TimeSeriesSettings:
    """Settings of ``time_series``."""

    dataset: str = setting(
        "japanese_vowels", choices=("japanese_vowels", "basic_motions"), help="which recordings"
    )
    standardize: bool = setting(True, help="give each channel of the training series mean 0, deviation 1")
    seed: int = setting(0, ge=0, help="seed of unseeded draws")


@hookimpl
def kpframe_tasks() -> Iterator[TaskSpec]:
    """Offer the tasks of this distribution."""
    yield TaskSpec(
        name="digits",
        factory="kpframe_tasks.digits:Digits",
        settings=DigitsSettings,
        api=1,
        summary="1,797 handwritten 8x8 digits, read row by row",
    )
    yield TaskSpec(
        name="memory_pro",
        factory="kpframe_tasks.memory_pro:MemoryPro",
        settings=MemoryProSettings,
        api=1,
        summary="remember an angle and respond to it or away from it after a delay",
    )
    yield TaskSpec(
        name="flip_flop",
        factory="kpframe_tasks.flip_flop:FlipFlop",
        settings=FlipFlopSettings,
        api=1,
        summary="k bits, each set by the last pulse on its own channel",
    )
    yield TaskSpec(
        name="adding",
        factory="kpframe_tasks.adding:Adding",
        settings=AddingSettings,
        api=1,
        summary="the sum of two marked values of a long sequence, after a delay",
    )
    yield TaskSpec(
        name="delayed_addition",
        factory="kpframe_tasks.delayed_addition:DelayedAddition",
        settings=DelayedAdditionSettings,
        api=1,
        summary="a weighted sum of inputs some steps back, at every step",
    )
    yield TaskSpec(
        name="contextual_integration",
        factory="kpframe_tasks.contextual_integration:ContextualIntegration",
        settings=ContextualIntegrationSettings,
        api=1,
        summary="integrate the one of two noisy streams that the context names",
    )
    yield TaskSpec(
        name="low_rank_forecast",
        factory="kpframe_tasks.low_rank_forecast:LowRankForecast",
        settings=LowRankForecastSettings,
        api=1,
        summary="forecast many channels that few latent variables drive",
    )
    yield TaskSpec(
        name="polynomial_map",
        factory="kpframe_tasks.polynomial_map:PolynomialMap",
        settings=PolynomialMapSettings,
        api=1,
        summary="some polynomials of latent variables: inputs and targets of set dimensions",
    )
    yield TaskSpec(
        name="neurogym",
        factory="kpframe_tasks.neurogym:Neurogym",
        settings=NeurogymSettings,
        api=1,
        summary="whole trials of the environments of neurogym, which is installed apart",
    )
    yield TaskSpec(
        name="time_series",
        factory="kpframe_tasks.time_series:TimeSeries",
        settings=TimeSeriesSettings,
        api=1,
        summary="recorded series of several lengths to be named, from sktime, which is installed apart",
    )
