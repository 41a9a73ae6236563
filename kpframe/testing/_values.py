"""Values from a seed and a kind: Hypothesis draws the structure, these numbers follow from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

#: What numbers a tensor is filled with; the first is what a failing case shrinks to.
KINDS = ("normal", "ones", "one-hot", "zeros", "tiny", "huge")
TINY, HUGE = 1e-6, 1e3
#: Type of the device that they are on.
DEVICE = "cpu"


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generator inside the block, and put back what it was after it."""
    generator = torch.default_generator  # torch.manual_seed looks at every device, which takes a millisecond
    state = generator.get_state()
    try:
        generator.manual_seed(seed)
        yield
    finally:
        generator.set_state(state)


def values(
    shape: Sequence[int], seed: int, kind: str = "normal", dtype: torch.dtype = torch.float64
) -> torch.Tensor:
    """Return the tensor of a seed and a kind; float32 values are the float64 ones, rounded.

    ``tiny`` and ``huge`` are normal values times 1e-6 and 1e3.
    """
    generator = torch.Generator().manual_seed(seed)
    if kind in ("zeros", "ones"):
        return torch.full(tuple(shape), float(kind == "ones"), dtype=dtype)
    if kind == "one-hot":
        out = torch.zeros(tuple(shape), dtype=dtype)
        if out.numel():
            out.view(-1)[int(torch.randint(out.numel(), (), generator=generator))] = 1
        return out
    normal = torch.randn(tuple(shape), generator=generator, dtype=torch.float64)
    return (normal * {"normal": 1.0, "tiny": TINY, "huge": HUGE}[kind]).to(dtype)
