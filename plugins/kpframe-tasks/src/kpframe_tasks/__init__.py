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


@frozen
class FlipFlopSettings:
    """Settings of ``flip_flop``."""

    bits: int = setting(3, ge=1, help="channels, each an input and an output")
    steps: int = setting(50, ge=1, help="steps per trial")
    probability: float = setting(0.1, ge=0, le=1, help="chance of a pulse, per channel and step")
    transient: int = setting(0, ge=0, help="steps at the start that are not scored")
    seed: int = setting(0, ge=0, help="seed of unseeded draws")

    def __attrs_post_init__(self) -> None:
        if self.transient >= self.steps:
            expected = f"from 0 to {self.steps - 1}, below steps"
            raise ArgumentError(mismatch("transient", expected, self.transient))


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
