"""Tensors and arrays of one's own, read as the fields of trials; every error names the caller's argument."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from attrs import frozen

from kpframe.errors import ArgumentError, DeviceError, DtypeError, NonFiniteError, ShapeError, mismatch

#: What classes and lengths may be held in; each of their values is one of int64, too.
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@frozen(eq=False)
class OwnData:
    """The fields of trials, and the classes ``[B]`` where there was one for each trial."""

    inputs: torch.Tensor
    targets: torch.Tensor
    mask: torch.Tensor
    scored: torch.Tensor
    epoch: np.ndarray[Any, Any]
    labels: np.ndarray[Any, Any] | None


def read_own_data(x: object, y: object, mask: object, scored: object) -> OwnData:
    """Return the fields that ``Trials.from_tensors`` makes of its arguments; see there."""
    inputs = _tensor("x", x)
    shape = list(inputs.shape)
    if len(shape) == 2:
        expected = "shape [B, T, I]"
        got = f"shape {shape}; x[:, None] is one step of a trial, x[..., None] one channel over the steps"
        raise ShapeError(mismatch("x", expected, got))
    if len(shape) != 3 or 0 in shape:
        raise ShapeError(mismatch("x", "shape [B, T, I], none of them 0", f"shape {shape}"))
    if not inputs.is_floating_point():
        expected = "a floating-point dtype (x.float() or x.double(); x.astype(float) of an array)"
        raise DtypeError(mismatch("x", expected, inputs.dtype))
    exists = _steps_that_exist(mask, inputs)
    inputs = inputs.masked_fill(~exists[..., None], 0)
    if not bool(inputs.isfinite().all()):
        raise NonFiniteError(mismatch("x", "finite values at steps that exist", where_non_finite(inputs)))
    targets, each_step = _targets(y, inputs)
    counts = exists if each_step else _last(exists)
    if scored is not None:
        counts = _beside("scored", scored, inputs)
        if counts.dtype != torch.bool:
            raise DtypeError(mismatch("scored", "a bool dtype", counts.dtype))
        if list(counts.shape) != shape[:2]:
            raise ShapeError(mismatch("scored", f"shape {shape[:2]}", f"shape {list(counts.shape)}"))
    _check_values(targets, counts & exists)
    labels = None
    if not each_step and not targets.is_floating_point():
        labels = targets[:, 0].cpu().numpy().copy()
    where, there = counts.cpu().numpy(), exists.cpu().numpy()
    epoch = np.where(there, np.where(where, "response", "trial"), "padding")
    return OwnData(inputs, targets, exists, counts, epoch, labels)


def _tensor(argument: str, value: object) -> torch.Tensor:
    """Return a dense tensor without a graph: the one that was given, or a copy of an array."""
    if isinstance(value, np.ma.MaskedArray):
        raise ArgumentError(mismatch(argument, "a plain array, its mask given as mask", "a masked array"))
    if isinstance(value, np.ndarray):
        native = np.array(value, dtype=value.dtype.newbyteorder("="), order="C")  # a read-only one, too
        try:
            return torch.from_numpy(native)
        except TypeError as error:
            raise DtypeError(mismatch(argument, "a dtype that torch has, too", value.dtype)) from error
    if not isinstance(value, torch.Tensor):
        expected, got = "a tensor or a NumPy array", type(value).__name__
        if isinstance(value, list | tuple):
            expected += " (torch.nn.utils.rnn.pad_sequence(..., batch_first=True) makes one of many)"
        elif hasattr(value, "to_numpy"):
            expected += f" ({argument}.to_numpy() is one)"
        raise ArgumentError(mismatch(argument, expected, got))
    if value.layout != torch.strided or value.is_nested:
        got = "a nested one" if value.is_nested else f"layout {value.layout}"
        raise ArgumentError(mismatch(argument, "a dense tensor", got))
    return value.detach()


def _beside(argument: str, value: object, inputs: torch.Tensor) -> torch.Tensor:
    """Return a copy on the device of the inputs, where arrays are put."""
    tensor = _tensor(argument, value)
    if isinstance(value, np.ndarray):
        return tensor.to(inputs.device)
    if tensor.device != inputs.device:
        raise DeviceError(mismatch(argument, f"the device {inputs.device} of x", tensor.device))
    return tensor.clone()


def _steps_that_exist(mask: object, inputs: torch.Tensor) -> torch.Tensor:  # [B, T]
    batch, time = inputs.shape[:2]
    if mask is None:
        return torch.ones(batch, time, dtype=torch.bool, device=inputs.device)
    given = _beside("mask", mask, inputs)
    expected = f"bool [{batch}, {time}], or lengths [{batch}] of an integer dtype"
    got = f"{given.dtype} {list(given.shape)}"
    if given.dtype == torch.bool:
        if list(given.shape) != [batch, time]:
            raise ShapeError(mismatch("mask", expected, got))
        return given
    if given.dtype not in _INTEGERS:
        raise DtypeError(mismatch("mask", expected, got))
    if list(given.shape) != [batch]:
        hint = "; mask.bool() if these are zeros and ones" if given.ndim == 2 else ""
        raise ShapeError(mismatch("mask", expected, got) + hint)
    lengths = given.long()
    wrong = (lengths < 1) | (lengths > time)
    if bool(wrong.any()):
        trial = int(wrong.nonzero()[0])
        raise ArgumentError(
            mismatch("mask", f"lengths from 1 to {time}", f"{int(lengths[trial])} in trial {trial}")
        )
    return torch.arange(time, device=inputs.device) < lengths[:, None]


def _targets(y: object, inputs: torch.Tensor) -> tuple[torch.Tensor, bool]:
    """Return targets for each step, and whether there was one for each step."""
    targets = _beside("y", y, inputs)
    batch, time = inputs.shape[:2]
    shape = list(targets.shape)
    if targets.is_floating_point():
        if targets.dtype != inputs.dtype:
            got = f"{targets.dtype}; y.to(x.dtype), or x.to(y.dtype), and y.long() if these are classes"
            raise DtypeError(mismatch("y", f"the dtype {inputs.dtype} of x", got))
        return _numbers(targets, batch, time)
    if targets.dtype not in _INTEGERS:
        expected = "a floating-point dtype, or an integer one of at most 63 bits for classes (y.long())"
        raise DtypeError(mismatch("y", expected, targets.dtype))
    if shape == [batch]:
        return targets.long()[:, None].repeat(1, time), False
    if shape != [batch, time]:
        hint = ""
        if targets.ndim == 3:
            hint = "; numbers to come near to are y.to(x.dtype), one-hot classes y.argmax(-1)"
        elif targets.ndim == 2 and shape[0] == batch:
            hint = "; one-hot classes are y.argmax(-1), numbers to come near to y.to(x.dtype)"
        expected = f"classes [{batch}, {time}] for each step, or [{batch}] for each trial"
        raise ShapeError(mismatch("y", expected, f"shape {shape}") + hint)
    return targets.long(), True


def _numbers(targets: torch.Tensor, batch: int, time: int) -> tuple[torch.Tensor, bool]:
    shape = list(targets.shape)
    if 0 not in shape and targets.ndim == 3 and shape[:2] == [batch, time]:
        return targets, True
    expected = f"shape [{batch}, {time}, O] for each step, or [{batch}, O] for each trial"
    got = f"shape {shape}"
    if shape == [batch, time] and time > 1:  # of one step it is the same in both readings
        got += (
            ", which could be either; y[..., None] is one output at each step, "
            f"y[:, None].expand(-1, {time}, -1) {time} outputs of a trial"
        )
    elif 0 not in shape and targets.ndim == 2 and shape[0] == batch:
        return targets[:, None].repeat(1, time, 1), False
    elif shape == [batch]:
        got += "; y[:, None] is one output of each trial, y.long() classes"
    raise ShapeError(mismatch("y", expected, got))


def _last(exists: torch.Tensor) -> torch.Tensor:
    """Return where each trial's last step is, bool ``[B, T]``."""
    after = torch.zeros_like(exists)
    after[:, :-1] = exists[:, 1:]
    return exists & ~after


def _check_values(targets: torch.Tensor, counted: torch.Tensor) -> None:
    if targets.is_floating_point():
        numbers = targets.masked_fill(~counted[..., None], 0)
        if not bool(numbers.isfinite().all()):
            got = f"{where_non_finite(numbers)}; scored=... leaves steps out"
            raise NonFiniteError(mismatch("y", "finite values at scored steps", got))
    elif bool((negative := counted & (targets < 0)).any()):
        trial, step = negative.nonzero()[0].tolist()
        got = (
            f"{int(targets[trial, step])} in trial {trial}, step {step}; scored=y >= 0 leaves such steps out"
        )
        raise ArgumentError(mismatch("y", "classes from 0 on at scored steps", got))


def where_non_finite(tensor: torch.Tensor) -> str:
    """Describe the first NaN or infinity of ``[B, T, ...]`` by trial and step, earliest step first."""
    steps = (~tensor.detach().isfinite()).flatten(start_dim=2).any(dim=2)
    step, trial = steps.T.nonzero()[0].tolist()
    return f"NaN or infinity from trial {trial}, step {step}"
