"""Inputs of one's own, in a file: along which operators are built where no task is named."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kpframe.errors import (
    ArgumentError,
    DtypeError,
    KpframeError,
    NonFiniteError,
    ShapeError,
    closest,
    mismatch,
)
from kpframe.study._moment import Probe
from kpframe.study._networks.weight_files import read_safetensors
from kpframe.tasks._own_data import where_non_finite
from kpframe.tasks._task import Loss, Trials

#: What a file of several arrays may hold, the first name of each the one to write.
NAMES = {
    "inputs": ("inputs", "x"),
    "targets": ("targets", "y"),
    "mask": ("mask", "lengths"),
    "scored": ("scored",),
}
SUFFIXES = (".npz", ".npy", ".safetensors")


def read_inputs(path: Path, dtype: torch.dtype) -> tuple[Probe, Loss | None]:
    """Return what a file of inputs holds, floating-point numbers in ``dtype``, and the loss of its targets.

    Args:
        path: a ``.npy`` file with inputs ``[B, T, I]``; or a ``.npz`` or ``.safetensors`` file with
            ``inputs`` and, if any, ``mask`` (bool ``[B, T]``, or the number of steps of each trial, ``[B]``),
            ``targets`` and ``scored``, as ``Trials.from_tensors`` takes them. The loss is the mean squared
            error of numbers, the cross-entropy of classes.

    Raises:
        ArgumentError: (of which ShapeError) for a file that is missing, damaged or holds something else.
    """
    arrays = _named(path, _read(path))
    if "inputs" not in arrays:
        raise ArgumentError(mismatch("inputs", f"an array 'inputs' in {str(path)!r}", "none"))
    tensors = {name: _tensor(name, array, dtype) for name, array in arrays.items()}
    inputs, targets = tensors["inputs"], tensors.get("targets")
    if inputs.ndim != 3 or 0 in inputs.shape:
        got = f"shape {list(inputs.shape)} in {str(path)!r}"
        raise ShapeError(mismatch("inputs", "shape [B, T, I] (trials, steps, channels)", got))
    if not inputs.is_floating_point():
        raise DtypeError(mismatch("inputs", "a floating-point dtype", inputs.dtype))
    if targets is not None:
        try:
            trials = Trials.from_tensors(inputs, targets, tensors.get("mask"), tensors.get("scored"))
        except KpframeError as error:
            raise ArgumentError(f"inputs: {str(path)!r}: {error}") from error
        return Probe.of(trials), "mse" if targets.is_floating_point() else "cross_entropy"
    if "scored" in tensors:
        raise ArgumentError(mismatch("inputs", "'targets' beside 'scored'", f"none in {str(path)!r}"))
    mask = None if "mask" not in tensors else _mask(tensors["mask"], inputs)
    known = inputs if mask is None else inputs.masked_fill(~mask[..., None], 0)
    if not bool(known.isfinite().all()):
        raise NonFiniteError(mismatch("inputs", "finite values", where_non_finite(known)))
    return Probe(known, mask), None


def _read(path: Path) -> Mapping[str, Any]:
    if path.suffix not in SUFFIXES or not path.is_file():
        got = f"{str(path)!r}" + ("" if path.is_file() else ", which does not exist")
        raise ArgumentError(mismatch("inputs", f"a file {', '.join(SUFFIXES)}", got))
    if path.suffix == ".safetensors":
        return read_safetensors(path)[0]
    try:
        with path.open("rb") as file:
            found = np.load(file, allow_pickle=False)
            return {"inputs": found} if isinstance(found, np.ndarray) else dict(found)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise ArgumentError(
            mismatch("inputs", "a file of arrays of numbers", f"{str(path)!r}, which is none ({reason})")
        ) from error


def _named(path: Path, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arrays by the names that they have here; nothing that a file holds is passed over."""
    of = {name: own for own, names in NAMES.items() for name in names}
    found: dict[str, Any] = {}
    for name, array in arrays.items():
        if name not in of or of[name] in found:
            expected = f"one each of {', '.join(NAMES)} in {str(path)!r}"
            raise ArgumentError(mismatch("inputs", expected, repr(name)) + closest(name, of))
        found[of[name]] = array
    return found


def _tensor(name: str, array: Any, dtype: torch.dtype) -> torch.Tensor:
    if isinstance(array, np.ndarray):
        try:
            array = torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))
        except TypeError as error:
            raise DtypeError(mismatch(f"inputs: {name}", "numbers", f"dtype {array.dtype}")) from error
    tensor: torch.Tensor = array
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _mask(mask: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:  # [B, T]
    batch, time = inputs.shape[:2]
    if mask.dtype == torch.bool and list(mask.shape) == [batch, time]:
        ragged = ~mask[:, 0] | (mask[:, 1:] & ~mask[:, :-1]).any(dim=1)
        if bool(ragged.any()):
            got = f"another order in trial {int(ragged.nonzero()[0])}"
            raise ArgumentError(
                mismatch("inputs: mask", "True from step 0 to a trial's end, then False", got)
            )
        return mask
    counts = not mask.is_floating_point() and mask.dtype != torch.bool and list(mask.shape) == [batch]
    if not counts or bool(((mask < 1) | (mask > time)).any()):
        expected = f"bool [{batch}, {time}], or numbers of steps [{batch}] from 1 to {time}"
        raise ShapeError(mismatch("inputs: mask", expected, f"{mask.dtype} {list(mask.shape)}"))
    return torch.arange(time) < mask[:, None]
