"""The losses, their derivative, and Err: the instantaneous error that drives learning.

For a loss L of the outputs ``y_t = W h_t + b``, with n scored steps and O outputs::

    e_t   = dL / dy_t                                       output_error        (1)
    Err_t = dL / dh_t = W^T e_t                             error               (2)

Err is the derivative *through the readout of the same step only*: what flows on through time is the
propagator's work, and the gradient is ``J* P* Err``. With one-hot targets c and ``p = softmax(y)``, as the
derivative of ``log Sum_k exp y_k`` is p::

    cross entropy    L = (1/n) Sum_t (log Sum_k exp y_tk - y_t . c_t)        e_t = (p_t - c_t) / n       (3)
    mse              L = 1/(n O) Sum_t |y_t - target_t|^2                    e_t = 2 (y_t - target_t) / (n O)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch

from kpframe.errors import ArgumentError, DeviceError, DtypeError, NonFiniteError, ShapeError, mismatch
from kpframe.operators._isolation import in_isolation
from kpframe.operators._scale import norm
from kpframe.operators._spaces import Space
from kpframe.tasks._own_data import where_non_finite
from kpframe.tasks._readout import Readout
from kpframe.tasks._task import LOSSES, Loss, Trials

T = TypeVar("T")


def task_loss(outputs: torch.Tensor, trials: Trials, kind: Loss, space: Space | None = None) -> torch.Tensor:
    """Return the loss of outputs ``[B, T, O]``, a scalar that autograd can follow.

    ``"cross_entropy"``: mean over the scored steps of the batch. ``"mse"``: mean of the squared
    difference over the scored steps and the outputs (no factor 1/2). Each scored step weighs the same,
    so a longer trial weighs more.

    Args:
        outputs: ``[B, T, O]``.
        trials: this rank's own, where trials are sharded.
        kind: of the loss.
        space: the state space of the flow, ``flow.P.domain``, where trials are sharded over ranks: the loss
            is then that of all trials, and its gradient this rank's part, to be added up over ranks.

    Raises:
        ShapeError, DtypeError, DeviceError, NonFiniteError, ArgumentError: naming the argument.
    """
    scored, targets = _scored(outputs, trials, kind, space)
    if space is not None and space.shards is not None:
        part = loss_part(outputs, trials, kind, _count(scored, space))
        total: torch.Tensor = _WithGradientOf.apply(space.sum(part), part)  # type: ignore[no-untyped-call]
        return total
    if kind == "cross_entropy":
        return torch.nn.functional.cross_entropy(scored, targets)
    return (scored - targets).square().mean()


def loss_part(outputs: torch.Tensor, trials: Trials, kind: Loss, count: int) -> torch.Tensor:
    """Return what trials add to the loss of more of them, with ``count`` scored steps in all; unchecked."""
    scored, targets = outputs[trials.scored], trials.targets[trials.scored]
    if kind == "cross_entropy":
        return torch.nn.functional.cross_entropy(scored, targets, reduction="sum") / count
    return (scored - targets).square().sum() / (count * outputs.shape[2])


@in_isolation
def output_error(
    outputs: torch.Tensor, trials: Trials, kind: Loss, space: Space | None = None
) -> torch.Tensor:
    """Return ``e``, d loss / d outputs ``[B, T, O]``, detached; exactly 0 at steps that are not scored.

    With n scored steps: ``(softmax(y) - onehot) / n``, or ``2 (y - target) / (n O)``.

    Args:
        outputs: ``[B, T, O]``.
        trials: with targets, and which steps are scored.
        kind: ``"mse"`` or ``"cross_entropy"``.
        space: that of a flow whose trials are sharded over ranks: n is that of all trials.

    Raises:
        ShapeError, DtypeError, DeviceError, NonFiniteError, ArgumentError: naming the argument.
    """
    scored, targets = _scored(outputs.detach(), trials, kind, space)
    n = _count(scored, space)
    if kind == "cross_entropy":
        onehot = torch.nn.functional.one_hot(targets, scored.shape[1])  # (3)
        slope = (scored.softmax(dim=1) - onehot) / n
    else:
        slope = 2 * (scored - targets) / (n * outputs.shape[2])
    result = torch.zeros_like(outputs, requires_grad=False)
    result[trials.scored] = slope
    return result


@in_isolation
def error(
    readout: Readout, states: torch.Tensor, trials: Trials, kind: Loss, space: Space | None = None
) -> torch.Tensor:
    """Return Err, the error of the paper, ``[B, T, H]``: d loss / d h through the readout only, detached.

    ``Err = W^T d loss / d y``: exactly 0 at padded and unscored steps and where the readout does not
    look; dtype and device are those of ``states``. A rule with random feedback (feedback alignment)
    puts its own matrix in the place of W: ``output_error(readout(states), trials, kind) @ B``.

    Args:
        readout: from states to outputs.
        states: ``[B, T, H]``.
        trials: with targets, and which steps are scored.
        kind: ``"mse"`` or ``"cross_entropy"``.
        space: that of a flow whose trials are sharded over ranks: the loss is that of all trials.

    Raises:
        ShapeError, DtypeError, DeviceError, NonFiniteError, ArgumentError: naming the argument.

    Examples:
        >>> import kpframe, torch
        >>> readout = kpframe.Readout(4, 2, generator=0)
        >>> trials = kpframe.Trials.from_tensors(torch.zeros(3, 5, 1), torch.ones(3, 5, 2))
        >>> err = kpframe.readout.error(readout, torch.zeros(3, 5, 4), trials, "mse")
        >>> err.shape
        torch.Size([3, 5, 4])
    """
    expected = [*trials.mask.shape, readout.hidden_size]
    if list(states.shape) != expected:
        raise ShapeError(mismatch("states", f"shape {expected}", f"shape {list(states.shape)}"))
    _together(space, partial(_check_states, states))
    with torch.no_grad():
        slope = output_error(readout(states), trials, kind, space)
        result = torch.zeros_like(states, requires_grad=False)
        result[..., readout.hidden] = slope @ readout.weight  # (2), each state a row
    return result


@in_isolation
def accuracy(outputs: torch.Tensor, trials: Trials, space: Space | None = None) -> float:
    """Return how good outputs are; the targets' dtype says which figure applies.

    Classes: the fraction of scored steps whose largest output is the target's (0 to 1). Regression:
    ``R^2 = 1 - sum (y - target)^2 / sum (target - mean)^2`` over scored steps and outputs, with the
    mean of each output over the scored steps; 1 is perfect, 0 is as good as that mean.

    Args:
        outputs: ``[B, T, O]``.
        trials: with targets, and which steps are scored.
        space: that of a flow whose trials are sharded over ranks: the figure is that of all trials.

    Raises:
        ShapeError, DtypeError, DeviceError, NonFiniteError, ArgumentError: naming the argument;
            ArgumentError also when regression targets do not vary, where R^2 has no meaning.
    """
    regression = trials.targets.is_floating_point()
    scored, targets = _scored(outputs.detach(), trials, "mse" if regression else "cross_entropy", space)
    shards = None if space is None else space.shards
    if shards is not None:
        n = _count(scored, space)
        if not regression:
            right = (scored.argmax(dim=1) == targets).double().sum()
            return float(shards.sum(right)) / n
        low, high = -shards.max(-_ends(targets, min)), shards.max(_ends(targets, max))
        if not bool((low < high).any()):
            raise ArgumentError(mismatch("targets", _VARYING, "constant ones"))
        mean = shards.sum(targets.sum(dim=0)) / n
        return 1 - (norm(scored - targets, shards) / norm(targets - mean, shards)) ** 2
    if not regression:
        return float((scored.argmax(dim=1) == targets).double().mean())
    if not bool((targets != targets[0]).any()):  # their mean may differ from them, by rounding
        raise ArgumentError(mismatch("targets", _VARYING, "constant ones"))
    spread = norm(targets - targets.mean(dim=0))  # a constant at each output explains none of it
    return 1 - (norm(scored - targets) / spread) ** 2


_VARYING = "values that vary over the scored steps"


class _WithGradientOf(torch.autograd.Function):
    """The value of one tensor, with the gradient of another."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[None, torch.Tensor]:
        return None, gradients[0]


def _together(space: Space | None, work: Callable[[], T]) -> T:
    """Do what may fail on one rank, so that it fails on all."""
    return work() if space is None else space.together(work)


def _count(scored: torch.Tensor, space: Space | None) -> int:
    """Return the number of scored steps, of all ranks; raises ``ArgumentError`` where there is none."""
    if space is None or space.shards is None:
        return len(scored)
    number = torch.tensor([float(len(scored))], dtype=torch.float64, device=space.shards.device)
    count = int(space.shards.sum(number))
    if not count:
        raise ArgumentError(mismatch("scored", "at least one scored step in the batch", "none"))
    return count


def _ends(targets: torch.Tensor, which: Callable[..., float]) -> torch.Tensor:  # [n, O] -> [O]
    """Return the least or largest target of each output; what loses to any other where there is none."""
    if len(targets):
        return targets.amin(dim=0) if which is min else targets.amax(dim=0)
    return targets.new_full(targets.shape[1:], math.inf if which is min else -math.inf)


def _check_states(states: torch.Tensor) -> None:
    if not bool(states.isfinite().all()):
        raise NonFiniteError(mismatch("states", "finite values", where_non_finite(states)))


def _scored(
    outputs: torch.Tensor, trials: Trials, kind: str, space: Space | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return outputs ``[n, O]`` and targets ``[n, O]`` or ``[n]`` at the n scored steps, checked.

    With a space that is sharded a rank may have none; ``_count`` looks whether any has.
    """
    sharded = space is not None and space.shards is not None
    return _together(space, lambda: _checked(outputs, trials, kind, may_be_none=sharded))


def _checked(
    outputs: torch.Tensor, trials: Trials, kind: str, *, may_be_none: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    if kind not in LOSSES:
        raise ArgumentError(mismatch("kind", f"one of {', '.join(LOSSES)}", repr(kind)))
    steps, targets = list(trials.scored.shape), trials.targets
    if outputs.ndim != 3 or list(outputs.shape[:2]) != steps:
        raise ShapeError(mismatch("outputs", f"shape {steps} + [O]", f"shape {list(outputs.shape)}"))
    if outputs.device != targets.device:
        raise DeviceError(mismatch("outputs", f"the trials' device {targets.device}", outputs.device))
    if kind == "mse":
        if targets.dtype != outputs.dtype:
            raise DtypeError(
                mismatch("targets", f"the outputs' dtype {outputs.dtype} for mse", targets.dtype)
            )
        if targets.shape != outputs.shape:
            raise ShapeError(
                mismatch("outputs", f"shape {list(targets.shape)}", f"shape {list(outputs.shape)}")
            )
    elif targets.dtype != torch.int64:
        raise DtypeError(mismatch("targets", "torch.int64 classes for cross_entropy", targets.dtype))
    if not may_be_none and not bool(trials.scored.any()):
        raise ArgumentError(mismatch("scored", "at least one scored step in the batch", "none"))
    found, wanted = outputs[trials.scored], targets[trials.scored]
    if not bool(found.isfinite().all()):
        counted = outputs.detach().masked_fill(~trials.scored[..., None], 0)
        raise NonFiniteError(mismatch("outputs", "finite values at scored steps", where_non_finite(counted)))
    if kind == "cross_entropy" and len(wanted):
        low, high = int(wanted.min()), int(wanted.max())
        if low < 0 or high >= outputs.shape[2]:
            classes = f"classes 0 to {outputs.shape[2] - 1} at scored steps"
            raise ArgumentError(mismatch("targets", classes, f"values {low} to {high}"))
    return found, wanted
