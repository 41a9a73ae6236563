"""The probe sampler: random test vectors, the same for the same seed however they are batched."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from attrs import frozen

from kpframe.errors import ArgumentError, as_whole, closest, mismatch, whole
from kpframe.operators import Operator
from kpframe.operators._base import shards_within
from kpframe.operators._draws import TrialSeeds
from kpframe.operators._spaces import BATCH, Space, check_space

#: The kinds of probes; each has independent entries or directions with E[z z*] = I.
KINDS = ("gaussian", "rademacher", "sphere")


def new_generator(generator: object) -> torch.Generator:
    """Return ``generator``, or a fresh CPU generator with seed 0 for None.

    So a call without a generator always gives the same numbers, on every device; the global random state
    of torch is neither read nor changed.
    """
    if generator is None:
        return torch.Generator().manual_seed(0)
    if not isinstance(generator, torch.Generator):
        got = f"{generator!r} ({type(generator).__name__})"
        seed = as_whole(generator)
        remedy = "" if seed is None else f"; a seed goes in as torch.Generator().manual_seed({seed})"
        raise ArgumentError(mismatch("generator", "a torch.Generator or None", got) + remedy)
    return generator


def agreed(generator: torch.Generator, *operators: Operator, **settings: object) -> torch.Generator:
    """Return a generator after ranks of a sharded space have compared theirs, one small all-reduce.

    Args:
        generator: of what is drawn.
        operators: whose products ranks may make together; see ``shards_within``.
        settings: what else must be the same on all ranks, as it says how many products they ask for.

    Raises:
        RankError: on every rank, where the generators are in different states, or settings differ.
    """
    shards = next(filter(None, map(shards_within, operators)), None)
    if shards is not None:
        shards.agree_on({"generator": generator.get_state(), **settings})
    return generator


def probes(
    space: Space,
    num: int,
    *,
    generator: torch.Generator | None = None,
    kind: str = "gaussian",
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> torch.Tensor:  # [num, *space]
    """Return ``num`` independent random vectors of a space, ``[num, *space]``, with E[z z*] = I.

    They are drawn one after the other on the generator's device, so drawing 5 and
    then 3 gives the same vectors as drawing 8; a CPU generator gives the same vectors on every device, a
    generator of the operator's own device saves the transfer. On a space with trials each trial has a stream
    of its own, by its global index: so the vectors do not depend on how trials are sharded over ranks.

    Args:
        space: where they lie.
        num: how many.
        generator: the source of the draws; None: a new one with seed 0.
        kind: ``gaussian``: standard normal entries; ``rademacher``: entries ±1; ``sphere``: uniform
            directions of length sqrt(dimension).
        dtype: of the vectors.
        device: where they live.

    Raises:
        ArgumentError: for an unknown kind, a number below 0, or something that is no space or no generator.
    """
    if kind not in KINDS:
        raise ArgumentError(
            mismatch("kind", f"one of {', '.join(KINDS)}", repr(kind)) + closest(str(kind), KINDS)
        )
    check_space(space, "space")
    num = whole(num, "num", 0)
    source = new_generator(generator)
    known = _KNOWN.get()
    if known is None or space.shards is not None:
        return _drawn(space, num, source, kind, dtype).to(device)
    return known.get(space, num, source, kind, dtype).to(device)


def _drawn(
    space: Space, num: int, source: torch.Generator, kind: str, dtype: torch.dtype
) -> torch.Tensor:  # [num, *space]
    out = torch.empty(num, *space.shape, dtype=dtype, device=source.device)
    for row in out:
        draw(row, space, source, kind)
    if kind == "sphere":
        lengths = space.norms(out.flatten(1))
        out *= (space.dimension**0.5 / lengths).reshape(-1, *(1 for _ in space.axes))
    return out


@frozen(eq=False)
class _Draw:
    vectors: torch.Tensor
    after: torch.Tensor  # the generator's state


class _KnownDraws:
    """The latest draws, by the state of the generator and by what was asked for."""

    def __init__(self) -> None:
        self._draws: dict[Hashable, _Draw] = {}
        self._lock = threading.Lock()

    def get(
        self, space: Space, num: int, source: torch.Generator, kind: str, dtype: torch.dtype
    ) -> torch.Tensor:  # [num, *space]
        """Return the vectors, a tensor of the caller's own, and advance the generator."""
        state = source.get_state().cpu().numpy().tobytes()
        key = (state, str(source.device), space, num, kind, dtype)
        with self._lock:
            found = self._draws.pop(key, None)
            if found is None:
                vectors = _drawn(space, num, source, kind, dtype)
                found = _Draw(vectors, source.get_state())
            else:
                source.set_state(found.after)
            self._draws[key] = found  # the latest one last
            while len(self._draws) > 1 and sum(one.vectors.nbytes for one in self._draws.values()) > KNOWN:
                self._draws.pop(next(iter(self._draws)))
            return found.vectors.clone()


#: Most bytes of vectors that are kept in ``drawn_once``, but for the latest.
KNOWN = 2**27

_KNOWN: ContextVar[_KnownDraws | None] = ContextVar("known", default=None)


@contextmanager
def drawn_once() -> Iterator[None]:
    """Within it, vectors that are asked for again, in any thread that inherits it, are copied, not drawn."""
    token = _KNOWN.set(_KnownDraws())
    try:
        yield
    finally:
        _KNOWN.reset(token)


def draw(out: torch.Tensor, space: Space, source: torch.Generator, kind: str) -> None:  # [*space]
    """Fill a vector of a space with independent entries: normal ones, or ±1 for ``rademacher``."""
    if BATCH not in space:
        _fill(out, source, kind)
        return
    seeds = TrialSeeds.of(source)
    trials = out.movedim(space.position(BATCH), 0)
    axis = space[BATCH]
    own = torch.Generator(source.device)
    for index, trial in zip(
        range(axis.size) if axis.shards is None else axis.shards.own, trials, strict=True
    ):
        _fill(trial, own.manual_seed(seeds[index]), kind)


def _fill(out: torch.Tensor, source: torch.Generator, kind: str) -> None:
    if kind == "rademacher":
        words = torch.empty(-(-out.numel() // 32), 1, dtype=torch.int64, device=source.device)
        bits = words.random_(0, 2**32, generator=source) >> torch.arange(32, device=source.device) & 1
        out.copy_((2 * bits - 1).flatten()[: out.numel()].reshape(out.shape))
    else:
        out.normal_(generator=source)


def random_rows(
    op: Operator, num: int, generator: torch.Generator, kind: str = "gaussian"
) -> torch.Tensor:  # [num, domain.size]
    """Return ``num`` probes of an operator's domain as rows, of its dtype and on its device."""
    return probes(op.domain, num, generator=generator, kind=kind, dtype=op.dtype, device=op.device).flatten(1)
