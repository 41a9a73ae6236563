"""How much memory there is, and refusals before it runs out."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch

from kpframe.errors import MemoryBudgetError
from kpframe.operators._spaces import TIME, Space

#: Part of the free memory that a request may take without being asked to.
SHARE = 0.9

#: Bytes that are taken without asking the system what is free.
SMALL = 2**24


def available(device: torch.device) -> int | None:
    """Return the free bytes of a device, None where the system does not say.

    On a CPU what a control group still allows counts, where there is one.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = _kibibytes(Path("/proc/meminfo"), "MemAvailable:")
    limit, used = (_number(Path("/sys/fs/cgroup") / name) for name in ("memory.max", "memory.current"))
    if limit is None or used is None:
        return free
    # what the group's file cache holds is given back on demand
    reclaimable = _number(Path("/sys/fs/cgroup/memory.stat"), "inactive_file") or 0
    return limit - used + reclaimable if free is None else min(free, limit - used + reclaimable)


def check_memory(what: str, needed: int, device: torch.device, remedy: str, max_bytes: int | None) -> None:
    """Raise unless ``needed`` bytes are within ``max_bytes``, by default most of what is free.

    Args:
        what: what needs them, for the message.
        needed: how many.
        device: where.
        remedy: what to do about it, for the message: "take fewer steps".
        max_bytes: the most that may be taken; None for most of what is free on the device.

    Raises:
        MemoryBudgetError: saying how much is needed, how much there is, and the ``remedy``.
    """
    if max_bytes is None:
        if needed <= SMALL:
            return
        free = available(device)
        if free is None or needed <= SHARE * free:
            return
        budget, whose = int(SHARE * free), f"{SHARE:.0%} of the {_gib(free)} free on {device}"
    elif needed <= max_bytes:
        return
    else:
        budget, whose = max_bytes, "max_bytes"
    raise MemoryBudgetError(
        f"{what}: expected a need within {_gib(budget)} ({whose}), got about {_gib(needed)}; {remedy}"
    )


def _gib(size: float) -> str:
    return f"{size / 2**30:.3g} GiB"


def _kibibytes(path: Path, key: str) -> int | None:
    number = _number(path, key)
    return None if number is None else 1024 * number


def _number(path: Path, key: str | None = None) -> int | None:
    """Return the number in a file, or the one after a key; None where there is none."""
    try:
        words = path.read_text(encoding="ascii").split()
    except OSError:
        return None
    if key is not None:
        words = words[words.index(key) + 1 :] if key in words else []
    return int(words[0]) if words and words[0].isdigit() else None


#: Bytes of probes and products in one call of a loop over many: what a cache holds; more is slower.
CHUNK_BYTES = 4 * 2**20

#: Bytes of states and preactivations in one stretch of steps of K; larger ones need fewer, wider products.
STRETCH_BYTES = 16 * 2**20

#: Bytes on the way of one product, beyond which every vector costs fresh pages of memory; vectors a probe.
CHUNK_LIMIT, WORKING_VECTORS = 192 * 2**20, 3

#: Bytes of one step of all probes, below which a scan takes as long for fewer: each step's dispatch.
STEP_BYTES = 16 * 2**10

#: Bytes on the way of one product that filling the steps may take.
CEILING = 2**30


class Map(Protocol):
    """What the size of an operator's vectors follows from."""

    domain: Space
    codomain: Space
    dtype: torch.dtype


def chunk_size(operator: Map, limit: int, held: int = 1) -> int:
    """Return how many vectors to send through an operator in one product, of many that it is applied to.

    As many as the caches hold, which is fastest, and enough to fill each step of a scan.

    Args:
        operator: what is applied to them.
        limit: how many there are.
        held: how many vectors of the operator's spaces are held for each of them meanwhile.
    """
    each = held * _bytes(operator)
    return max(1, min(limit, max(CHUNK_BYTES // max(each, 1), _filling(operator, each))))


def working_bytes(operator: Map) -> int:
    """Return about how many bytes each probe needs on the way of a product."""
    return WORKING_VECTORS * _bytes(operator)


def together(operator: Map, count: int) -> int:
    """Return how many of ``count`` probes to send at once, in even shares."""
    each = working_bytes(operator)
    most = max(1, CHUNK_LIMIT // each, _filling(operator, each))
    shares = -(-count // most)
    return -(-count // shares)


def _filling(operator: Map, each: int) -> int:
    """Return how many probes fill a step, within the ceiling for ``each``."""
    space: Space = operator.domain
    steps = space[TIME].size if TIME in space else 0
    row = space.size * operator.dtype.itemsize // steps if steps else STEP_BYTES
    return min(STEP_BYTES // max(row, 1), CEILING // max(each, 1))


def _bytes(operator: Map) -> int:
    return (operator.domain.size + operator.codomain.size) * operator.dtype.itemsize
