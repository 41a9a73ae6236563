"""What the ranks of a group must agree on before their trials make one flow.

Products on ranks that disagree would be wrong without a word, or never end. So before anything else they
compare what they are about to do, by one number each; where numbers differ, they exchange what it stands for
and all raise the same ``RankError``. A rank that cannot even say what it is about to do has its own error
raised on all.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping
from functools import partial
from importlib import metadata
from typing import Any

import numpy as np
import torch

from kpframe.errors import ArgumentError, RankError, ShapeError, mismatch, say, shown
from kpframe.models._held import held_tensors
from kpframe.models._model import Model
from kpframe.operators._shards import Shards, digest_of

#: Most differences that a message lists.
LISTED = 3

_LAUNCH = (
    "start the program with torchrun --nproc-per-node N and call torch.distributed.init_process_group first"
)


def shards_of(group: Any, model: Model, x: torch.Tensor, settings: Mapping[str, Any]) -> Shards:
    """Return who holds which trials of a batch whose own part is ``x`` ``[B, T, I]`` on this rank.

    Args:
        group: a process group of ``torch.distributed``.
        model: the same on all ranks.
        x: this rank's own inputs.
        settings: what else must be the same on all ranks, by what it is called in messages.

    Raises:
        RankError: for ranks that disagree, without a launcher, for a group that was destroyed or that this
            rank is not in; says which rank and what.
        ArgumentError: for what is no group.
    """
    rank, ranks = _place(group)
    alone = Shards(group, rank, (0,) * ranks)
    found = alone.together(partial(_described, alone, model, x, settings))
    number = int(digest_of(json.dumps(found))[:15], 16)
    told = torch.zeros(ranks + 2, dtype=torch.int64, device=alone.device)
    told[rank], told[-2], told[-1] = len(x), number, -number
    *counts, high, low = alone.max(told).tolist()
    if high != -low:
        raise RankError(_difference([json.loads(text) for text in alone.texts(json.dumps(found))]))
    return alone.with_counts(tuple(counts))


def _place(group: Any) -> tuple[int, int]:
    """Return this process's rank in a group, and the number of ranks there."""
    from torch import distributed

    if not distributed.is_available() or not distributed.is_initialized():
        raise RankError(
            mismatch("group", "a group of torch.distributed under way", "none of any kind") + f"; {_LAUNCH}"
        )
    if group is distributed.GroupMember.NON_GROUP_MEMBER:
        own = f"one that rank {distributed.get_rank()} is not in"
        raise RankError(
            mismatch("group", "one of this rank", own) + "; call linearize on the ranks of the group only"
        )
    if not isinstance(group, distributed.ProcessGroup):
        remedy = "; mesh.get_group() is one" if hasattr(group, "get_group") else ""
        raise ArgumentError(mismatch("group", "a process group of torch.distributed", shown(group)) + remedy)
    try:
        return distributed.get_rank(group), distributed.get_world_size(group)
    except (RuntimeError, ValueError) as error:
        raise RankError(f"group: it was destroyed, or is of another process ({say(error)})") from error


def _described(shards: Shards, model: Model, x: torch.Tensor, settings: Mapping[str, Any]) -> dict[str, str]:
    """Return what must be the same on all ranks: what it is called in messages -> what it is here."""
    from torch import distributed

    if not isinstance(x, torch.Tensor) or x.ndim != 3:
        got = f"shape {list(x.shape)}" if isinstance(x, torch.Tensor) else type(x).__name__
        raise ShapeError(mismatch("x", "shape [batch, time, input]", got))
    if len(x) == 0:
        raise RankError(
            mismatch("x", "a trial at least on each rank", f"shape {list(x.shape)}") + "; take fewer ranks"
        )
    backend = distributed.get_backend(shards.group)
    expected = {"gloo": "cpu", "nccl": "cuda"}.get(backend, x.device.type)
    if x.device.type != expected:
        raise RankError(
            mismatch(
                "x", f"tensors on {expected}, as the group's backend is {backend}", f"some on {x.device}"
            )
        )
    return {
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "torch": torch.__version__,
        "numpy": np.__version__,
        "kpframe": _version("kpframe"),
        "the model's package": _version(type(model).__module__.partition(".")[0]),
        "the model's class": f"{type(model).__module__}.{type(model).__qualname__}",
        "device of x": x.device.type,
        "device of the model": ", ".join(sorted({p.device.type for p in model.parameters()})),
        **_tensors(model),
        **_plain_settings(model),
        "dtype of x": str(x.dtype),
        "steps of x": str(x.shape[1]),
        "inputs of x": str(x.shape[2]),
        **{name: _text(value) for name, value in settings.items()},
    }


def _tensors(model: Model) -> dict[str, str]:
    found: dict[str, str] = {}
    for kind, tensors in (("parameter", model.named_parameters()), ("tensor", held_tensors(model))):
        for name, tensor in tensors:
            kept = f"{tensor.dtype}{list(tensor.shape)} {tensor.requires_grad}"
            found[f"weights: {kind} {name}"] = f"{kept} {'-' if tensor.is_meta else digest_of(tensor)[:8]}"
    return found


def _plain_settings(model: Model) -> dict[str, str]:
    """Return numbers, texts and the like that a model and its modules hold."""
    return {
        f"settings: {name}.{key}".replace(": .", ": "): repr(value)
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, bool | int | float | str | tuple) and _is_plain(value)
    }


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _version(package: str) -> str:
    known = getattr(sys.modules.get(package), "__version__", None)
    if known is not None:
        return str(known)
    try:
        return metadata.version(package.replace("_", "-"))
    except metadata.PackageNotFoundError:
        return "(none)"


def _text(value: object) -> str:
    return getattr(value, "__qualname__", None) or repr(value)


def _difference(found: list[dict[str, str]]) -> str:
    """Return which rank differs from most of the others (the first, where they are as many), and in what."""
    names = list(dict.fromkeys(name for own in found for name in own))
    usual = {name: Counter(own.get(name) for own in found).most_common(1)[0][0] for name in names}
    for rank, own in enumerate(found):
        parts = [_one(name, own.get(name), usual[name]) for name in names if own.get(name) != usual[name]]
        if parts:
            more = f"; and {len(parts) - LISTED} more" if len(parts) > LISTED else ""
            return f"rank {rank} {'; '.join(parts[:LISTED])}{more}. All ranks must call linearize alike"
    raise AssertionError("no rank differs")


def _one(name: str, own: str | None, usual: str | None) -> str:
    kind, _, what = name.partition(": ")
    if not what:
        return f"has another value of {name}: {own}, not {usual}"
    if own is None or usual is None:
        return f"has {'no' if own is None else 'a'} {what}"
    if kind == "weights" and own.split()[:-1] == usual.split()[:-1]:
        return f"has other weights: {what}"
    return f"has other {kind}: {what} is {own}, not {usual}"
