"""The derivatives of a stage's pointwise function along a trajectory, from autograd.

A pass over a whole trajectory would keep every intermediate value of all steps, in memory that is fresh each
time; so it is made a few steps at a time. What the function reads need not be computed again: within
``linearize`` a roll-out leaves the preactivations of its steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from attrs import define, frozen

from kpframe.models._autograd.graph import leaves
from kpframe.models._sites.declaration import INPUT, Stage
from kpframe.models._sites.gains import Gain

#: Entries of an array that are worked on at once on a CPU: with fewer, the dispatch of the operations takes
#: the time; with more, fresh memory for their results does.
ENTRIES = 2**17

Values = Mapping[str, torch.Tensor]
#: ``combine`` of a stage: new values from preactivations, values and the steps that these are of.
Combine = Callable[[Values, Values, slice], Values]


@frozen(eq=False)
class PointwiseDerivatives:
    """What a stage's function gives along a trajectory, and its derivatives.

    Attributes:
        outputs: name -> ``[T, B, n]``; nothing where they are not asked for.
        gains: output -> its derivatives ``[T, B, n]`` by each target, and by each value that it reads.
        others: the ids of the leaves of autograd that it reads beside its arguments.
    """

    outputs: Values
    gains: Mapping[str, tuple[Gain, Gain]]
    others: set[int]


def pointwise_derivatives(
    stage: Stage, combine: Combine, preactivations: Values, known: Values, *, outputs: bool = True
) -> PointwiseDerivatives:
    """Return the derivatives of a stage's function by all that it reads.

    Args:
        stage: the stage.
        combine: its function.
        preactivations: its targets ``[T, B, n]``.
        known: the values there are ``[T, B, w]``, of which those of the stage's width can be read.
        outputs: whether the function's values are asked for, too.
    """
    time, batch, _ = next(iter(known.values())).shape
    h = {name: v for name, v in known.items() if name != INPUT and v.shape[-1] == stage.units}
    shape = (time, batch, stage.units)
    made = {name: _Steps(shape) for name in stage.outputs}
    by_target: dict[str, dict[str, _Steps]] = {name: {} for name in stage.outputs}
    by_source: dict[str, dict[str, _Steps]] = {name: {} for name in stage.outputs}
    others: set[int] = set()
    for part in _parts(shape, next(iter(known.values())).device):
        u, read = (
            {name: v[part].flatten(0, 1).detach().requires_grad_() for name, v in values.items()}
            for values in (preactivations, h)
        )
        with torch.enable_grad():
            new = combine(u, read, part)
        arguments = [*u.values(), *read.values()]
        ends = {id(leaf) for leaf in leaves(*(new[name] for name in stage.outputs))}
        others |= ends.difference(map(id, arguments))
        for name in stage.outputs:
            if outputs:
                made[name].put(part, new[name])
            found = _gradients(new[name], arguments)
            for gains, sources, own in (
                (by_target[name], u, found[: len(u)]),
                (by_source[name], read, found[len(u) :]),
            ):
                for source, gradient in zip(sources, own, strict=True):
                    gains.setdefault(source, _Steps(shape)).put(part, gradient)
    return PointwiseDerivatives(
        _present(made),
        {name: (_present(by_target[name]), _present(by_source[name])) for name in stage.outputs},
        others,
    )


def _parts(shape: tuple[int, int, int], device: torch.device) -> Iterator[slice]:
    """Yield the steps that are worked on at once."""
    time, batch, units = shape
    length = max(1, ENTRIES // max(1, batch * units)) if device.type == "cpu" else time
    for start in range(0, time, length):
        yield slice(start, min(start + length, time))


def _gradients(new: torch.Tensor, sources: Sequence[torch.Tensor]) -> Sequence[torch.Tensor | None]:
    """Return the derivatives of one output by each source, None by what it does not depend on."""
    if not new.requires_grad:
        return [None] * len(sources)
    with torch.enable_grad():
        total = new.sum()  # of the sum: for cotangents torch imports sympy
    return torch.autograd.grad(total, sources, retain_graph=True, allow_unused=True)


@define(eq=False)
class _Steps:
    """An array ``[T, B, n]`` that is written some steps at a time; what is absent there is zero."""

    shape: tuple[int, int, int]
    values: torch.Tensor | None = None

    def put(self, part: slice, rows: torch.Tensor | None) -> None:  # [n * B, units]
        if rows is not None and (part.start, part.stop) == (0, self.shape[0]):
            self.values = rows.detach().reshape(self.shape)  # all at once
            return
        if self.values is None and rows is not None:
            later = part.start > 0  # where steps before had none
            self.values = (rows.new_zeros if later else rows.new_empty)(self.shape)
        if self.values is None:
            return
        if rows is None:
            self.values[part] = 0
        else:
            self.values[part].flatten(0, 1).copy_(rows.detach())


def _present(steps: Mapping[str, _Steps]) -> dict[str, torch.Tensor]:
    return {name: each.values for name, each in steps.items() if each.values is not None}


# -- what a roll-out leaves ----------------------------------------------------------------------------------


class StepRecord:
    """The preactivations along a roll-out, written down step by step.

    Args:
        time: the number of steps.
        stages: the model's stages.
        drive: what the input adds at all steps, targets -> ``[T, B, G n]``. What the roll-out adds to a
            target there is added in place, so that no other memory is needed.

    Attributes:
        driven: the names of these targets.
    """

    def __init__(
        self, time: int, stages: Sequence[Stage], drive: Mapping[tuple[str, ...], torch.Tensor]
    ) -> None:
        self._time = time
        blocks: dict[str, torch.Tensor] = {}
        for targets, y in drive.items():
            for target, block in zip(targets, y.chunk(len(targets), dim=-1), strict=True):
                blocks.setdefault(target, block)  # the first one is added to
        for targets, y in drive.items():
            if y._base is not None:  # a view of inputs or of a bias, which are not to be written to
                blocks = {target: block for target, block in blocks.items() if target not in targets}
        self.driven = frozenset(blocks)
        self._u = [{name: blocks[name] for name in stage.targets if name in blocks} for stage in stages]
        self._states: torch.Tensor | None = None
        self._version = 0

    def put(self, place: int, t: int, u: Values) -> None:
        """Take the preactivations ``[B, n]`` of a stage at step ``t``."""
        own = self._u[place]
        for target, value in u.items():
            if target not in self.driven:
                if target not in own:
                    own[target] = value.new_empty(self._time, *value.shape)
                own[target][t] = value

    def finish(self, states: torch.Tensor) -> None:
        """Say which states they led to, once all steps are taken."""
        self._states, self._version = states, states._version

    def led_to(self, states: torch.Tensor) -> bool:
        """Return whether it is of the roll-out to these states, not written to since."""
        return states is self._states and states._version == self._version

    def preactivations(self, place: int) -> Values:
        """Return those of a stage, ``[T, B, n]`` each."""
        return self._u[place]


@define(eq=False)
class _Desk:
    """Where roll-outs leave their records: the last one, if ``fits`` so many bytes a step of a trial."""

    fits: Callable[[int], bool]
    record: StepRecord | None = None


_DESK: ContextVar[_Desk | None] = ContextVar("desk", default=None)


@contextmanager
def recording_steps(fits: Callable[[int], bool]) -> Iterator[None]:
    """Let roll-outs without a graph leave what they add to preactivations, for ``recorded``.

    Args:
        fits: whether so many bytes for a step of a trial may be taken.
    """
    token = _DESK.set(_Desk(fits))
    try:
        yield
    finally:
        _DESK.reset(token)


def step_record(
    x: torch.Tensor, stages: Sequence[Stage], drive: Mapping[tuple[str, ...], torch.Tensor]
) -> StepRecord | None:
    """Return where a roll-out over ``x`` ``[B, T, I]`` is to write its steps down; None where no one asks."""
    desk = _DESK.get()
    if desk is None or torch.is_grad_enabled():
        return None
    if not desk.fits(x.itemsize * sum(stage.units * len(stage.targets) for stage in stages)):
        return None
    desk.record = StepRecord(x.shape[1], stages, drive)
    return desk.record


def recorded(states: torch.Tensor) -> StepRecord | None:
    """Return what the roll-out to these states has written down, if it has."""
    desk = _DESK.get()
    record = None if desk is None else desk.record
    return record if record is not None and record.led_to(states) else None
