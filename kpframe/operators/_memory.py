"""Memory: refusals before it runs out, and how many vectors go through an operator at once.

**Refusals.** A request that needs a lot of memory says beforehand how much, and is refused with
``MemoryBudgetError`` where that is over what the caller allows (``max_bytes``) or what is free on the device.

**Chunks.** An operator applied to many vectors takes them along a leading dimension, as *probes*. All at once
would need memory in proportion to their number; one at a time would be slow. So they go in *chunks*: products
with as many probes as one call takes. Two things are measured against each other (the figures are in
docs/performance.md): tensors that do not fit into a cache, or for which the allocator asks the system for
fresh memory at each call, make a product slower; and a scan over short steps spends its time on dispatching
each step, whether the step holds one probe or sixteen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Literal, Protocol

import torch

from kpframe.errors import ArgumentError, MemoryBudgetError, mismatch, shown, whole
from kpframe.operators._count import add_products
from kpframe.operators._spaces import TIME, Space

#: The part of the free memory that a request may take where the caller sets no limit; the rest is for others.
SHARE = 0.9

#: Requests up to so many bytes pass unasked: to look at the free memory takes longer than a small product.
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
        max_bytes: the most bytes that may be taken; None for most of what is free on the device.

    Raises:
        ArgumentError: for a ``max_bytes`` that is no number.
        MemoryBudgetError: saying how much is needed, how much there is, and the ``remedy``.
    """
    if max_bytes is None:
        if needed <= SMALL:
            return
        free = available(device)
        if free is None or needed <= SHARE * free:
            return
        budget, whose = int(SHARE * free), f"{SHARE:.0%} of the {_gib(free)} free on {device}"
    elif needed <= _limit(max_bytes):
        return
    else:
        budget, whose = max_bytes, "max_bytes"
    raise MemoryBudgetError(
        f"{what}: expected a need within {_gib(budget)} ({whose}), got about {_gib(needed)}; {remedy}"
    )


def check_dense_memory(what: str, rows: int, columns: int, dtype: torch.dtype, max_bytes: int) -> None:
    """Raise unless a dense matrix ``[rows, columns]`` is within ``max_bytes``.

    Raises:
        MemoryBudgetError: saying how much is needed, and the remedy.
        ArgumentError: for a ``max_bytes`` that is no number.
    """
    needed = rows * columns * dtype.itemsize
    if needed > _limit(max_bytes):
        raise MemoryBudgetError(
            f"{what}: expected a matrix within max_bytes={max_bytes}, got [{rows}, {columns}] "
            f"{dtype}, which needs {needed} bytes ({_gib(needed)}); "
            "reduce the operator first (mean, select, project) or raise max_bytes"
        )


def _limit(max_bytes: object) -> float:
    """Return a number of bytes, anything else refused."""
    if isinstance(max_bytes, int):
        return max_bytes
    if not isinstance(max_bytes, Real) or math.isnan(max_bytes):
        raise ArgumentError(mismatch("max_bytes", "a number of bytes", shown(max_bytes)))
    return float(max_bytes)


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


# -- chunks -----------------------------------------------------------------------------------------------

#: Most bytes of probes and their products in one call of a loop over many (dense forms, traces): about what
#: stays in a cache from one product to the next. With 64 MiB a partial trace took three times as long.
CHUNK_BYTES = 4 * 2**20

#: Most bytes of states and preactivations in one slice of J and K: of some steps of one probe, or of several
#: probes. Matrix products of about 1,000 rows, whose temporaries stay in a cache, ran at twice the rate of
#: those of 4,500.
SLICE_BYTES = 2 * 2**20

#: The same on an accelerator, where many small products wait for each other.
ACCELERATOR_SLICE_BYTES = 16 * 2**20

#: Most bytes at work in one product that a caller asks for, of all its probes together. Over it each vector
#: is fresh memory from the system at every call: sixteen probes of a GRU took half as long again at once.
CHUNK_LIMIT = 192 * 2**20

#: Probes that a product in a loop over many takes at least, where they are within ``CHUNK_LIMIT``: a probe of
#: 50 trials of a GRU took 22 ms in a scan by itself and 12 ms among eight or more.
LEAST_PROBES = 16

#: How many vectors of domain and codomain a probe needs at work: as it came, on the way, and its product.
WORKING_VECTORS = 3

#: Bytes that one time step of all probes should hold: below it a step is dispatch alone, and takes as long
#: for one probe as for sixteen. Chunks are as large as that asks, even over the limits above.
STEP_BYTES = 16 * 2**10

#: Most bytes at work in a product whose chunk is larger in order to fill the steps.
CEILING = 2**30


class Map(Protocol):
    """What decides how large an operator's vectors are."""

    domain: Space
    codomain: Space
    dtype: torch.dtype

    @property
    def _widest(self) -> int:
        """Numbers of one vector of domain and one of codomain, or of those inside where these are more."""


class Applied(Map, Protocol):
    """What is applied in chunks: every operator."""

    device: torch.device

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        """Return the product with ``q`` ``[..., *domain]``."""

    @property
    def _splits(self) -> bool:
        """Whether a product has a part before a sum over ranks."""

    def _begin(self, q: torch.Tensor) -> Callable[[], torch.Tensor]:
        """Make that part, start the sum, and return what makes the rest."""


def product_in_chunks(op: Applied, q: torch.Tensor, chunk: int | Literal["auto"]) -> torch.Tensor:
    """Return the product of an operator with ``q`` ``[..., *domain]``, its probes sent in chunks.

    Raises:
        ArgumentError: for a ``chunk`` below 1.
        MemoryBudgetError: before the product, when the result would not fit into the free memory.
    """
    probes = q.shape[: q.ndim - len(op.domain.axes)]
    shards = op.domain.shards or op.codomain.shards
    count = math.prod(probes)
    if count == 0 or (shards is None and q.numel() == 0):  # no dimension; of shards a rank may hold none
        return q.new_zeros((*probes, *op.codomain.shape))
    add_products(count)
    if isinstance(chunk, str) and chunk == "auto":
        size = even_share(op, count)
    else:
        size = min(count, whole(chunk, "chunk", expected="'auto' or a whole number >= 1"))
    needed = count * op.codomain.largest * op.dtype.itemsize + size * working_bytes(op)
    if needed > CHUNK_LIMIT:  # looking at the memory takes longer than a small product
        remedy = "send fewer probes at a time, or set chunk= to fewer that go together"
        check = partial(
            check_memory, f"product of {op!r} with {count} probes", needed, op.device, remedy, None
        )
        check() if shards is None else shards.together(check)
    if size >= count:
        return op._apply(q)
    rows = q.reshape(count, *op.domain.shape)
    out = q.new_empty(len(rows), *op.codomain.shape)
    starts = range(0, len(rows), size)
    if shards is None or not op._splits:
        for start in starts:
            out[start : start + size] = op._apply(rows[start : start + size])
    else:  # ranks add up what one chunk sends to the parameters while the next one goes there
        finish = op._begin(rows[:size])
        for start in starts:
            later = start + size
            following = op._begin(rows[later : later + size]) if later < len(rows) else None
            out[start:later] = finish()
            finish = following or finish
    return out.reshape((*probes, *op.codomain.shape))


def chunk_size(operator: Map, limit: int, held: int = 1) -> int:
    """Return how many vectors to send through an operator in one product, of many that it is applied to.

    As many as the caches hold, which is fastest, but a few at least, and enough to fill each step of a scan.

    Args:
        operator: what is applied to them.
        limit: how many there are.
        held: how many vectors of the operator's spaces are held for each of them meanwhile.
    """
    each = max(1, held * _bytes(operator))
    few = min(LEAST_PROBES, CHUNK_LIMIT // (WORKING_VECTORS * each))
    return max(1, min(limit, max(CHUNK_BYTES // each, few, _filling(operator, each))))


def even_share(operator: Map, count: int) -> int:
    """Return how many of the ``count`` probes of one call to send at once.

    All where they are within ``CHUNK_LIMIT``; else the fewest chunks that are, of equal size: a last chunk of
    a few probes would take nearly as long as a full one.
    """
    each = working_bytes(operator)
    most = max(1, CHUNK_LIMIT // each, _filling(operator, each))
    shares = -(-count // most)
    return -(-count // shares)


def working_bytes(operator: Map) -> int:
    """Return about how many bytes each probe takes while a product is at work."""
    return WORKING_VECTORS * _bytes(operator)


def _filling(operator: Map, each: int) -> int:
    """Return how many probes fill a time step, at most as many as ``CEILING`` holds at ``each`` bytes."""
    space = operator.domain
    steps = space[TIME].size if TIME in space else 0
    row = space.largest * operator.dtype.itemsize // steps if steps else STEP_BYTES
    return min(STEP_BYTES // max(row, 1), CEILING // max(each, 1))


def _bytes(operator: Map) -> int:
    """Return the bytes of one vector of the domain and one of the codomain, on the rank with most of it.

    Of an operator between maps, such as an average over trials, those of the one inside where they are more:
    with the small ones alone, each array of its products was fresh memory at every call.
    """
    return operator._widest * operator.dtype.itemsize
