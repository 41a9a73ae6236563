"""What a caller may have around a call: contexts of torch that must not change a figure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from types import MappingProxyType

import torch
from torch.nn.utils import parametrize


@contextmanager
def _default_dtype() -> Iterator[None]:
    """Turn torch's default dtype to the other of float32 and float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32 if before == torch.float64 else torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _anomaly() -> Iterator[None]:
    with torch.autograd.set_detect_anomaly(True):  # detect_anomaly() would warn that it is slow
        yield


#: Name -> a context, as users have them around their own loops.
SURROUNDINGS: Mapping[str, Callable[[], AbstractContextManager[object]]] = MappingProxyType(
    {
        "torch.inference_mode": torch.inference_mode,
        "torch.no_grad": torch.no_grad,
        "torch.autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        "parametrize.cached": parametrize.cached,
        "torch.set_default_device": lambda: torch.device("meta"),
        "torch.set_default_dtype": _default_dtype,
        "torch.autograd.detect_anomaly": _anomaly,
    }
)
