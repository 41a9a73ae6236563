"""Counts of operator products, for whoever wants to know what something costs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Count:
    """How many vectors operators were applied to."""

    def __init__(self) -> None:
        self.products = 0


_under_way: list[Count] = []


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


def add_products(number: int) -> None:
    """Add to all counts under way."""
    for count in _under_way:
        count.products += number
