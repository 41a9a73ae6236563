"""What the ranks of a job must have in common before they begin: arguments, files, versions, settings."""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import kpframe
from kpframe.plugin import get_manager
from kpframe.study._disk.results import made_with

#: Variables that change what a run does.
_PREFIX = "KPFRAME_"
#: Bytes of an argument's file that are compared at most.
_LARGEST = 64 * 2**20


def facts(arguments: Sequence[str]) -> dict[str, str]:
    """Return what this rank knows of the job; files that it does not see are rank 0's alone."""
    found = {"arguments": shlex.join(arguments), "python": platform.python_version(), **made_with()}
    found["code of kpframe"] = _code()
    for info in get_manager().plugins:
        found[f"plugin {info.distribution}"] = f"{info.version}, {info.status}"
    found |= {name: value for name, value in os.environ.items() if name.startswith(_PREFIX)}
    for argument in arguments:
        path = Path(argument.partition("=")[2] if argument.startswith("--") else argument)
        with suppress(OSError):
            if path.is_file() and path.stat().st_size <= _LARGEST:
                found[f"file {argument}"] = f"one with SHA-256 {sha256(path.read_bytes()).hexdigest()[:12]}"
    return found


def disagreements(every: Sequence[Mapping[str, str]]) -> list[str]:
    """Return where ranks differ from rank 0, a sentence each: which rank, in what."""
    found, first = [], every[0]
    for rank, own in enumerate(every):
        for name in sorted({*first, *own}):
            if name.startswith("file ") and (name not in own or name not in first):
                continue  # rank 0 reads it for all
            if own.get(name) != first.get(name):
                expected, got = first.get(name, "none"), own.get(name, "none")
                found.append(f"rank {rank} has another {name}: expected {expected}, as rank 0, got {got}")
    return found


def _code() -> str:
    """Return a mark of the source of kpframe: two checkouts of one version need not be the same."""
    root = Path(kpframe.__file__).parent
    whole = sha256()
    for path in sorted(root.rglob("*.py")):
        whole.update(path.relative_to(root).as_posix().encode())
        whole.update(path.read_bytes())
    return whole.hexdigest()[:12]
