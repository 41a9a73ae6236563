"""Operator products as they are asked for: their number, for whoever wants to know, and their end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Count:
    """How many vectors operators were applied to."""

    def __init__(self) -> None:
        self.products = 0


_under_way: list[Count] = []
_lock = threading.Lock()
_of_thread = threading.local()


@contextmanager
def counted_products() -> Iterator[Count]:
    """Yield a count of the products that are asked for meanwhile, in any thread.

    A product of a composition counts once, one with n probes n times.
    """
    count = Count()
    _under_way.append(count)
    try:
        yield count
    finally:
        _under_way.remove(count)


@contextmanager
def broken_off(when: threading.Event) -> Iterator[None]:
    """Let this thread's next product raise ``KeyboardInterrupt`` once an event is set.

    Python tells the main thread alone of an interrupt.
    """
    _of_thread.when = when
    try:
        yield
    finally:
        del _of_thread.when


def add_products(number: int) -> None:
    """Add to all counts under way; raise ``KeyboardInterrupt`` where this thread's work is broken off."""
    when = getattr(_of_thread, "when", None)
    if when is not None and when.is_set():
        raise KeyboardInterrupt
    if _under_way:
        with _lock:
            for count in _under_way:
                count.products += number
