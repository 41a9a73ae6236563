"""Checkpoints: parameters and the settings that rebuild the model, in one safetensors file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from attrs import field, frozen

from kpframe.errors import CheckpointError, MissingDependencyError, mismatch
from kpframe.model import Model
from kpframe.readout import Readout
from kpframe.registry import create_model

#: Version of the layout written below.
FORMAT = 1


@frozen(eq=False)
class Checkpoint:
    """What a checkpoint file holds.

    Attributes:
        tensors: ``model.<name>`` and ``readout.<name>`` -> tensor.
        model: registered name of the model, None for an unregistered one.
        settings: the settings the model was created with.
        step: number of updates made.
        extra: anything JSON the writer added.
    """

    tensors: Mapping[str, torch.Tensor]
    model: str | None
    settings: Mapping[str, Any]
    step: int
    extra: Mapping[str, Any] = field(factory=dict)

    def build_model(self) -> Model:
        """Create the registered model and load its parameters; raises ``CheckpointError``."""
        if self.model is None:
            raise CheckpointError("checkpoint: it holds no registered model's name; use load_into(model)")
        model = create_model(self.model, **self.settings)
        floats = (
            t.dtype for n, t in self.tensors.items() if n.startswith("model.") and t.is_floating_point()
        )
        dtype = next(floats, None)
        model = model if dtype is None else model.to(dtype)
        self.load_into(model)
        return model

    def load_into(self, module: torch.nn.Module, prefix: str = "model") -> None:
        """Load the tensors under ``prefix``; raises ``CheckpointError`` where they do not fit."""
        own = module.state_dict()
        found = {
            n.removeprefix(f"{prefix}."): t for n, t in self.tensors.items() if n.startswith(f"{prefix}.")
        }
        for name in [*own, *(name for name in found if name not in own)]:
            expected = f"{list(own[name].shape)} {own[name].dtype}" if name in own else "nothing"
            got = f"{list(found[name].shape)} {found[name].dtype}" if name in found else "nothing"
            if expected != got:
                raise CheckpointError(mismatch(f"checkpoint: {prefix}.{name}", expected, got))
        module.load_state_dict(found)


def save_checkpoint(
    path: str | Path,
    model: Model,
    readout: Readout | None = None,
    *,
    name: str | None = None,
    settings: Mapping[str, Any] | None = None,
    step: int = 0,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write a checkpoint, renamed into place when it is complete.

    Args:
        path: the file, usually ``*.safetensors``.
        model, readout: their parameters and buffers are written.
        name, settings: the registered model's name and settings, which rebuild it.
        step: number of updates made.
        extra: JSON to keep beside.
    """
    save = _safetensors("torch").save
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    if readout is not None:
        tensors |= {f"readout.{k}": v for k, v in readout.state_dict().items()}
    # safetensors takes no tensors that share memory, as tied weights do
    tensors = {k: v.detach().clone(memory_format=torch.contiguous_format) for k, v in tensors.items()}
    header = {
        "format": FORMAT,
        "model": name,
        "settings": dict(settings or {}),
        "step": step,
        "extra": dict(extra or {}),
    }
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        partial.write_bytes(save(tensors, metadata={"kpframe": json.dumps(header)}))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint onto the CPU.

    Raises:
        CheckpointError: for a file that is missing, corrupt, or was not written by kpframe.
    """
    safe_open, broken = _safetensors().safe_open, _safetensors().SafetensorError
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"checkpoint: expected a file, got {str(path)!r}, which does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (broken, OSError) as error:
        raise CheckpointError(
            f"checkpoint: expected a safetensors file, got {str(path)!r}, which is corrupt ({error})"
        ) from error
    try:
        header = json.loads(metadata["kpframe"])
        version, *fields = (header[key] for key in ("format", "model", "settings", "step", "extra"))
        newer = version > FORMAT
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint: expected kpframe's header in {str(path)!r}, got another safetensors file"
        ) from error
    if newer:
        raise CheckpointError(
            f"checkpoint: expected format {FORMAT} or older in {str(path)!r}, got {version}; upgrade kpframe"
        )
    return Checkpoint(tensors, *fields)


def _safetensors(module: str | None = None) -> Any:
    try:
        import safetensors
        import safetensors.torch
    except ImportError as error:
        raise MissingDependencyError("checkpoints need safetensors: pip install 'kpframe[study]'") from error
    return safetensors if module is None else safetensors.torch
