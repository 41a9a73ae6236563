"""Trials sharded over the ranks of a ``torch.distributed`` group: who holds which, and what is added up.

A batch axis with ``Shards`` holds this rank's own trials; all ranks' together, in the order of the ranks, are
the axis as it would be on one machine. Vectors on it are sums over ranks only where something says so: an
inner product, a reduction over the axis, the adjoint of J. Everything else is local.

Each rank must ask for the same products in the same order. What decides about them (a residual, a size of a
chunk) hence comes from numbers that are the same on all ranks: all-reduced ones, or ``counts``.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn, Self, TypeVar

import torch
from attrs import field, frozen

from kpframe import errors
from kpframe.errors import KpframeError, RankError, UnsupportedError, say

T = TypeVar("T")

#: Most characters of a rank's own value in a message.
SHOWN = 300


@frozen
class Shards:
    """Which trials each rank of a group holds: ``counts[r]`` of them on rank r, in order.

    Attributes:
        group: the ``torch.distributed`` process group.
        rank: this process's rank within the group.
        counts: number of trials by rank; a selection may leave some ranks with none.
    """

    group: Any = field(eq=id)
    rank: int
    counts: tuple[int, ...]

    @property
    def ranks(self) -> int:
        """Number of ranks."""
        return len(self.counts)

    @property
    def total(self) -> int:
        """Number of trials on all ranks."""
        return sum(self.counts)

    @property
    def start(self) -> int:
        """The global index of this rank's first trial."""
        return sum(self.counts[: self.rank])

    @property
    def own(self) -> range:
        """The global indices of this rank's trials."""
        return range(self.start, self.start + self.counts[self.rank])

    def with_counts(self, counts: tuple[int, ...]) -> Shards:
        """Return other shares of the same group."""
        return Shards(self.group, self.rank, counts)

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the sum of the ranks' tensors, on every rank; raises ``RankError`` when a rank is gone."""
        return self._reduced(tensor, "SUM")

    def start_sum(self, tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
        """Start to add up the ranks' tensors, and return what waits for the sum.

        Meanwhile a rank may compute, and start more; all ranks start, and wait, in the same order.
        """
        return self._started(tensor, "SUM")

    def max(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the entrywise maximum of the ranks' tensors, on every rank."""
        return self._reduced(tensor, "MAX")

    def any(self, value: bool, device: torch.device | None = None) -> bool:
        """Whether it is true on any rank."""
        return bool(self.max(torch.tensor([float(value)], dtype=torch.float32, device=device or self.device)))

    @property
    def device(self) -> torch.device:
        """Where tensors lie that the group's ranks can exchange, whatever the operators' device."""
        if "gloo" in self.backend or not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", torch.cuda.current_device())

    @property
    def backend(self) -> str:
        """What ranks exchange tensors by; raises ``RankError`` for a group that was destroyed."""
        from torch import distributed  # not every torch is built with it

        with self._reaching_ranks():
            return str(distributed.get_backend(self.group))

    def together(self, work: Callable[[], T]) -> T:
        """Return what work returns on this rank, unless it raises on any: then an error on every rank.

        It is the error of the first rank that has one, of the same class where it is one of ours, and says
        which rank that is. The work itself asks for no product that ranks make together.
        """
        caught: Exception | None = None
        try:
            value = work()
        except Exception as error:
            caught = error
        if not self.any(caught is not None):
            return value
        found = "" if caught is None else f"{type(caught).__name__}\n{say(caught)}"
        rank, text = next((rank, text) for rank, text in enumerate(self.texts(found)) if text)
        if rank == self.rank and caught is not None and not isinstance(caught, KpframeError):
            raise caught
        name, _, message = text.partition("\n")
        kind = getattr(errors, name, None)
        if not (isinstance(kind, type) and issubclass(kind, KpframeError)):
            kind, message = RankError, f"{name}: {message}"
        raise kind(f"rank {rank}: {message}") from caught

    def agree(self, what: str, value: object) -> None:
        """Raise ``RankError`` on every rank unless a value is the same on all: a text, numbers, a tensor.

        One small all-reduce. The message says what each rank has.
        """
        digest = digest_of(value)
        number = int(digest[:15], 16)
        high, low = self.max(torch.tensor([number, -number], dtype=torch.int64, device=self.device)).tolist()
        if high == -low:
            return
        own = f"one with the digest {digest[:8]}" if isinstance(value, torch.Tensor) else repr(value)
        texts = self.texts(own if len(own) <= SHOWN else f"{own[:SHOWN]}... (digest {digest[:8]})")
        got = "; ".join(f"{text} on rank {rank}" for rank, text in enumerate(texts))
        raise RankError(f"{what}: expected the same on all ranks, got {got}")

    def agree_on(self, values: Mapping[str, object]) -> None:
        """Raise ``RankError`` on every rank unless each value is the same on all; says which first is not.

        One small all-reduce where they are. See ``agree``.
        """
        number = int(digest_of([digest_of(value) for value in values.values()])[:15], 16)
        high, low = self.max(torch.tensor([number, -number], dtype=torch.int64, device=self.device)).tolist()
        if high != -low:
            for what, value in values.items():
                self.agree(what, value)

    def texts(self, text: str) -> list[str]:
        """Return every rank's text, on every rank."""
        own = text.encode("utf-8", "replace")
        length = int(self.max(torch.tensor([len(own)], dtype=torch.int64, device=self.device)))
        rows = torch.zeros(self.ranks, length, dtype=torch.int32, device=self.device)
        rows[self.rank, : len(own)] = torch.tensor(list(own), dtype=torch.int32, device=self.device)
        return [bytes(row).rstrip(b"\0").decode() for row in self.sum(rows).tolist()]

    def __deepcopy__(self, memo: object) -> Self:
        return self  # a group is a thing of its process, and the same for a copy

    def __reduce__(self) -> NoReturn:
        raise UnsupportedError(
            f"an operator on {self} cannot be pickled: it holds a process group, which is this process's "
            "own; call linearize with group= where it is needed, or reduce over batch and keep the matrix"
        )

    def _reduced(self, tensor: torch.Tensor, how: str) -> torch.Tensor:
        return self._started(tensor, how)()

    def _started(self, tensor: torch.Tensor, how: str) -> Callable[[], torch.Tensor]:
        from torch import distributed

        _ = self.backend  # a group that was destroyed still adds up while its ranks happen to hold it
        out = tensor.detach().clone(memory_format=torch.contiguous_format)
        add_traffic(out)
        with self._reaching_ranks():
            operation = getattr(distributed.ReduceOp, how)
            work = distributed.all_reduce(out, op=operation, group=self.group, async_op=True)

        def finish() -> torch.Tensor:
            with self._reaching_ranks():
                work.wait()
            return out

        return finish

    @contextmanager
    def _reaching_ranks(self) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, ValueError) as error:
            raise RankError(
                f"all-reduce over {self}: a rank is gone or the group was destroyed ({say(error)})"
            ) from error

    def __str__(self) -> str:
        return f"{self.total} trials on {self.ranks} rank{'s' if self.ranks > 1 else ''}"


def digest_of(value: object) -> str:
    """Return a digest of a value, of a tensor's bits."""
    if isinstance(value, torch.Tensor):
        flat = torch.empty(value.numel(), dtype=value.dtype)  # of stride 1, as a view of one need not be
        flat.copy_(value.detach().reshape(-1))
        content = bytes(flat.view(torch.uint8).numpy()) if flat.numel() else b""
        head = f"{value.dtype} {list(value.shape)}".encode()
    else:
        content, head = repr(value).encode("utf-8", "replace"), b""
    return hashlib.blake2b(content, digest_size=16, person=b"kpframe", key=head[:64]).hexdigest()


class Traffic:
    """What this rank has sent into collectives: how many there were, and their tensors' bytes."""

    def __init__(self) -> None:
        self.collectives = 0
        self.bytes = 0


_under_way: list[Traffic] = []
_lock = threading.Lock()


@contextmanager
def counted_traffic() -> Iterator[Traffic]:
    """Yield a count of the collectives of this process meanwhile."""
    traffic = Traffic()
    _under_way.append(traffic)
    try:
        yield traffic
    finally:
        _under_way.remove(traffic)


def add_traffic(tensor: torch.Tensor) -> None:
    """Add one collective of a tensor to all counts under way."""
    if _under_way:
        with _lock:
            for traffic in _under_way:
                traffic.collectives += 1
                traffic.bytes += tensor.numel() * tensor.element_size()
