"""A step of a few rows of a roll-out, recorded: what it keeps, reads and gives, before all are recorded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from attrs import frozen

from kpframe.errors import ArgumentError, KpframeError, mismatch, say
from kpframe.flow._trajectory import Trajectory
from kpframe.models._autograd.graph import leaves, saved_bytes
from kpframe.models._autograd.linearization import recording
from kpframe.models._autograd.recorded import Recorded
from kpframe.operators._spaces import BATCH

#: Rows recorded at once, where all are.
_CHUNK = 4096


@frozen(eq=False)
class FewRows:
    """One step of three rows of a roll-out, recorded, and of the outer ones by themselves.

    Attributes:
        trajectory: the roll-out.
        h: the states ``[3, H]`` that the step starts from, a leaf.
        expected: the states of the roll-out.
        out: what the step gives ``[3, H]``.
        alone: what it gives for the first row ``[1, H]``.
        last: for the last one, in models whose steps differ.
    """

    trajectory: Trajectory
    h: torch.Tensor
    expected: torch.Tensor
    out: torch.Tensor
    alone: torch.Tensor
    last: torch.Tensor | None


#: The rows that ``linearize`` has recorded, so that its estimate of memory need not do it again.
_ROWS: ContextVar[FewRows | None] = ContextVar("rows", default=None)


@contextmanager
def few_rows(model: Recorded, trajectory: Trajectory) -> Iterator[FewRows]:
    """Record a step of a few rows, for ``check_step`` and ``saved_by_a_row``.

    Raises:
        ArgumentError: for a step that cannot be recorded.
    """
    rows = _record(model, trajectory)
    token = _ROWS.set(rows)
    try:
        yield rows
    finally:
        _ROWS.reset(token)


def _record(model: Recorded, trajectory: Trajectory) -> FewRows:
    places = _places(trajectory)
    x, h = trajectory.inputs[places].detach(), _starts(trajectory, *places).requires_grad_()
    mask = None if trajectory.mask is None else trajectory.mask[places]
    t = trajectory.first + places[1] if model.time_varying else None
    try:
        with recording(h.device, "step"):
            out = model._rows(x, h, t, mask)

            def by_itself(row: slice) -> torch.Tensor:
                others = (None if value is None else value[row].clone() for value in (t, mask))
                return model._rows(x[row].clone(), h[row].clone(), *others)

            alone = by_itself(slice(0, 1))
            last = by_itself(slice(2, 3)) if model.time_varying else None
    except KpframeError:
        raise
    except Exception as error:
        expected = "a step that can be recorded for a few rows of the roll-out at once"
        raise ArgumentError(mismatch("model", expected, say(error))) from error
    return FewRows(trajectory, h, trajectory.states[places], out, alone, last)


def saved_by_a_row(model: Recorded, trajectory: Trajectory) -> int:
    """Return about how many bytes autograd keeps for each row of ``step``."""
    rows = _ROWS.get()
    if rows is None or rows.trajectory is not trajectory:
        rows = _record(model, trajectory)
    return max(0, saved_bytes(rows.out) - saved_bytes(rows.alone)) // (len(rows.out) - 1)


def unread_parameters(model: Recorded, trajectory: Trajectory) -> frozenset[str]:
    """Return the names of the parameters that nothing along a roll-out reads, so that it cannot teach them.

    Those of a readout inside the module, say, or a trainable h_0 where another was given. Most models read
    all of theirs at any step, so that a few rows show it; else all rows are recorded, some at a time.
    """
    left = {id(parameter): name for name, parameter in model.trainable().items()}

    def strike(*outputs: torch.Tensor) -> None:
        for leaf in leaves(*outputs):
            left.pop(id(leaf), None)

    if not trajectory.given:
        with recording(trajectory.inputs.device, "initial state"):
            strike(model.initial_state(trajectory.space[BATCH].size))
    for piece in trajectory.pieces():
        if left:
            strike(_record(model, piece).out)
        for start in range(0, piece.states[..., 0].numel(), _CHUNK):
            if not left:
                break
            with recording(piece.states.device, "step"):
                strike(_rows_of(model, piece, slice(start, start + _CHUNK)))
    return frozenset(left.values())


def _starts(trajectory: Trajectory, trials: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:  # [N, H]
    """Return the states that some steps of some trials start from, without those of all the others."""
    before = trajectory.states[trials, (steps - 1).clamp(min=0)]
    return torch.where((steps == 0).unsqueeze(-1), trajectory.initial_state[trials], before).detach()


def _rows_of(model: Recorded, trajectory: Trajectory, part: slice) -> torch.Tensor:  # [n, H]
    """Return the next states of some rows of a roll-out, trial by trial."""
    batch, time, _ = trajectory.space.shape
    rows = torch.arange(batch * time, device=trajectory.states.device)[part]
    x, h = trajectory.inputs.flatten(0, 1)[part], trajectory.previous.detach().flatten(0, 1)[part]
    t = trajectory.first + rows % time if model.time_varying else None
    return model._rows(x, h, t, None if trajectory.mask is None else trajectory.mask.flatten()[part])


def _places(trajectory: Trajectory) -> tuple[torch.Tensor, torch.Tensor]:
    """Return trials and steps of three rows: the last of all, one in the middle, and the first."""
    batch, time, _ = trajectory.space.shape
    device = trajectory.states.device
    valid = [] if trajectory.mask is None else trajectory.mask[0].nonzero().flatten().tolist()
    last = valid[-1] if valid else time - 1
    return (
        torch.tensor([0, batch // 2, batch - 1], device=device),
        torch.tensor([last, time // 2, 0], device=device),
    )
