"""What a training under way goes on from, as one safetensors file with a checksum of all that is in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kpframe.errors import CheckpointError, mismatch
from kpframe.study._disk.files import make_folder, write_bytes
from kpframe.study._networks.checkpoint import checksum, verify
from kpframe.study._networks.weight_files import read_safetensors, safetensors_module
from kpframe.study._running.training import TrainerState

#: Version of the layout.
FORMAT = 1
_LOSSES = "losses"


def write_state(path: Path, state: TrainerState, losses: np.ndarray, *, run: str, cell: str) -> Path:
    """Write the state of a training and its losses so far, whole or not at all.

    Raises:
        OutputError: for a file that cannot be written; an older one is left as it was.
    """
    tensors = {**state.tensors, _LOSSES: torch.from_numpy(losses.copy())}
    header: dict[str, Any] = {
        "format": FORMAT,
        "run": run,
        "cell": cell,
        "made": state.made,
        "plain": dict(state.plain),
    }
    header["checksum"] = checksum(header, tensors)
    make_folder(path.parent)
    save = safetensors_module("torch").save
    return write_bytes(path, save(tensors, metadata={"kpframe_state": json.dumps(header)}))


def read_state(path: Path, *, run: str, cell: str) -> tuple[TrainerState, np.ndarray]:
    """Return the state of a training and its losses so far.

    Raises:
        CheckpointError: for a file that is missing or damaged, or of another run or cell.
    """
    tensors, metadata = read_safetensors(path)
    try:
        header = json.loads(metadata["kpframe_state"])
        found = {name: header[name] for name in ("format", "run", "cell", "made", "plain", "checksum")}
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"state: expected kpframe's header in {str(path)!r}, got none") from error
    verify(path, header, tensors)
    expected, got = (FORMAT, run, cell), (found["format"], found["run"], found["cell"])
    if got != expected:
        raise CheckpointError(mismatch(f"state {str(path)!r}: format, run and cell", expected, got))
    losses = tensors.pop(_LOSSES).numpy().copy()
    return TrainerState(found["made"], tensors, found["plain"]), losses
