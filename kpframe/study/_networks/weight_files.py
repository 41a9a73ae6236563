"""Files of weights: what a file is, and its tensors by name. Nothing else in a file is unpickled."""

from __future__ import annotations

import os
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from kpframe.errors import CheckpointError, MissingDependencyError, mismatch
from kpframe.models._spread import GATHERED, spread_class

SAFETENSORS, TORCH = "safetensors", "torch"
#: Usual suffixes, by which a name on a command line is told to be a file.
SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt")
#: Where dicts of other programs keep a ``state_dict``.
KEYS = ("state_dict", "model_state_dict", "model")

_ZIP, _PICKLE = b"PK\x03\x04", re.compile(rb"\x80[\x02-\x05]")
_CLASS = re.compile(r"GLOBAL:? ([\w.]+)")


def kind_of(path: str | Path) -> str:
    """Return what wrote a file, ``"safetensors"`` or ``"torch"``, as its first bytes say.

    Raises:
        CheckpointError: for a file that is missing, a folder, cannot be read, or is neither.
    """
    path = Path(path)
    if os.path.isdir(path):  # Path.is_dir raises for names that are too long
        raise CheckpointError(f"checkpoint: expected a file, got {str(path)!r}, which is a folder")
    if not os.path.exists(path):
        raise CheckpointError(f"checkpoint: expected a file, got {str(path)!r}, which does not exist")
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise CheckpointError(
            f"checkpoint: expected a file, got {str(path)!r}, which cannot be read ({error})"
        ) from error
    length = int.from_bytes(head[:8], "little")  # of the header of a safetensors file
    if head[8:] == b"{" and length <= path.stat().st_size:
        return SAFETENSORS
    if head.startswith(_ZIP) or _PICKLE.match(head):
        return TORCH
    if path.suffix == ".safetensors":  # one that is damaged
        return SAFETENSORS
    raise CheckpointError(
        f"checkpoint: expected a safetensors file or one of torch.save, got {str(path)!r}, which is neither"
    )


def read_safetensors(
    path: str | Path, *, tensors: bool = True
) -> tuple[dict[str, torch.Tensor], Mapping[str, str]]:
    """Return the tensors of a safetensors file, or none of them, and its metadata.

    Raises:
        CheckpointError: for a file that is corrupt, or cannot be read.
    """
    module = safetensors_module()
    try:
        with module.safe_open(path, framework="pt") as file:
            names = file.keys() if tensors else ()  # no mapping, though it looks like one
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except (module.SafetensorError, OSError) as error:
        raise CheckpointError(
            f"checkpoint: expected a safetensors file, got {str(path)!r}, which is corrupt ({error})"
        ) from error


def read_torch(path: str | Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a file of ``torch.save``, by ``weights_only``; raises ``CheckpointError``."""
    try:
        with warnings.catch_warnings(), open(path, "rb") as file:  # by its name torch would guess
            warnings.simplefilter("ignore")  # of archives and protocols, which the errors below speak of
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # of a damaged file, any
        raise CheckpointError(_refusal(str(path), error)) from error
    found = _tensors(content)
    if not found and isinstance(content, Mapping):
        found = next((inner for key in KEYS if (inner := _tensors(content.get(key)))), {})
    if spread := spread_class(found.values()):
        expected = f"whole tensors in {str(path)!r}"
        raise CheckpointError(f"{mismatch('checkpoint', expected, f'parts of some, {spread}')}; {GATHERED}")
    if not found:
        kind = type(content).__name__
        got = f"a dict with {', '.join(map(str, content))}" if isinstance(content, Mapping) else f"a {kind}"
        raise CheckpointError(
            f"checkpoint: expected tensors by name in {str(path)!r}, or under one of {', '.join(KEYS)}, "
            f"got {got}"
        )
    return found


def _tensors(content: object) -> dict[str, torch.Tensor]:
    """Return the tensors of a mapping by name."""
    if not isinstance(content, Mapping):
        return {}
    return {
        name: value.detach()
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, torch.Tensor)
    }


def _refusal(path: str, error: Exception) -> str:
    """Return what is wrong with a file that ``torch.load`` refused."""
    text = str(error)
    remedy = "where it was written, save the weights alone: torch.save(model.state_dict(), path)"
    if "DTensor" in text:  # which torch does not load before it has loaded their class
        return f"checkpoint: expected whole tensors in {path!r}, got parts of some, DTensor; {GATHERED}"
    if found := _CLASS.search(text):
        return (
            f"checkpoint: expected tensors and plain values in {path!r}, got {found.group(1).rstrip('.')} "
            f"as well, which is not unpickled, as that may run any code; {remedy}"
        )
    others = {"TorchScript": "a TorchScript program", "Weights only load failed": "another kind of pickle"}
    what = next((what for word, what in others.items() if word in text), None)
    if what is None and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if not any(name.endswith("data.pkl") for name in archive.namelist()):
                what = "another kind of archive"
    if what is not None:
        return f"checkpoint: expected the tensors of torch.save in {path!r}, got {what}; {remedy}"
    return (
        f"checkpoint: expected a file of torch.save, got {path!r}, which is corrupt ({type(error).__name__})"
    )


def safetensors_module(module: str | None = None) -> Any:
    """Return ``safetensors``, or its part for torch; raises ``MissingDependencyError``."""
    try:
        import safetensors
        import safetensors.torch
    except ImportError as error:
        raise MissingDependencyError("checkpoints need safetensors: pip install 'kpframe[study]'") from error
    return safetensors if module is None else safetensors.torch
