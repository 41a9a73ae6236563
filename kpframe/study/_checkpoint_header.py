"""The header of a checkpoint: what it must hold, and a checksum of it and of the tensors."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from kpframe.errors import CheckpointError, shown

#: Version of the layout.
FORMAT = 1


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_renaming(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(name, str) for name in value.values())


#: Fields: what each is, in words and as a test, and whether every file has it.
_KINDS: dict[str, tuple[str, Callable[[Any], bool], bool]] = {
    "model": ("a name or null", lambda value: value is None or isinstance(value, str), True),
    "settings": ("an object", lambda value: isinstance(value, dict), True),
    "step": ("a whole number >= 0", _is_count, True),
    "extra": ("an object", lambda value: isinstance(value, dict), True),
    "shared": ("an object of names", _is_renaming, False),
    "fixed": ("a list of names", _is_names, False),
}
FIELDS = tuple(_KINDS)


def read_header(path: str | Path, metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """Return kpframe's header among the metadata of a file, None where there is none.

    Raises:
        CheckpointError: for a header of a newer format, or with a field of another type.
    """
    try:
        header = json.loads(metadata["kpframe"])
    except (KeyError, ValueError):
        return None
    if not isinstance(header, dict) or not _is_count(header.get("format")):
        return None
    if header["format"] > FORMAT:
        raise CheckpointError(
            f"checkpoint: expected format {FORMAT} or older in {str(path)!r}, got {header['format']}; "
            "upgrade kpframe"
        )
    if any(required and name not in header for name, (_, _, required) in _KINDS.items()):
        return None
    for name, (expected, fits, _) in _KINDS.items():
        if name in header and not fits(header[name]):
            raise CheckpointError(
                f"checkpoint: expected {expected} as {name!r} in the header of {str(path)!r}, "
                f"got {shown(header[name])}"
            )
    return header


def verify(path: str | Path, header: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise ``CheckpointError`` where a file is not what was written; older files have no checksum."""
    expected = header.get("checksum")
    if expected is not None and expected != checksum(header, tensors):
        raise CheckpointError(
            f"checkpoint: expected the contents that were written to {str(path)!r}, got others, by the "
            "file's checksum: it is damaged; copy it again"
        )


def checksum(header: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 of a header, without its checksum, and of tensors with names, types and shapes."""
    rest = {name: value for name, value in header.items() if name != "checksum"}
    digest = sha256(json.dumps(rest, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
