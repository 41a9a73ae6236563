"""How operators, flows, estimates and rules show themselves in a notebook: a small table of what they are.

Colours are those of the page, so that a card reads in the dark, too; every text is escaped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import singledispatch
from html import escape
from typing import Protocol

import torch

from kpframe.operators._spaces import Space

_CELL = "text-align:left;padding:0.1em 1em 0.1em 0;vertical-align:top"


class Shown(Protocol):
    """What a card tells of an operator."""

    domain: Space
    codomain: Space
    dtype: torch.dtype
    device: torch.device

    @property
    def tags(self) -> frozenset[str]:
        """What is provable of it."""


def card(title: str, rows: Iterable[tuple[str, str]]) -> str:
    """Return a table with a title as HTML; rows without a value are left out."""
    body = "".join(
        f'<tr><th scope="row" style="{_CELL};font-weight:normal;opacity:0.75">{escape(name)}</th>'
        f'<td style="{_CELL}">{escape(value)}</td></tr>'
        for name, value in rows
        if value
    )
    return _table(title, f"<tbody>{body}</tbody>")


def grid(title: str, head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table with a head as HTML; the first cell of each row names it."""
    top = "".join(f'<th scope="col" style="{_CELL}">{escape(name)}</th>' for name in head)
    body = ""
    for first, *others in rows:
        cells = "".join(f'<td style="{_CELL}">{escape(value)}</td>' for value in others)
        body += f'<tr><th scope="row" style="{_CELL};font-weight:normal">{escape(first)}</th>{cells}</tr>'
    return _table(title, f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody>")


def _table(title: str, inside: str) -> str:
    caption = f'<caption style="{_CELL};font-weight:bold;caption-side:top">{escape(title)}</caption>'
    return f'<table class="kpframe" style="border-collapse:collapse">{caption}{inside}</table>'


@singledispatch
def work(operator: Shown) -> Counter[str]:
    """Return how many products of which operators one product of this one takes; of itself where it is one.

    What an operator is made of says so itself: compositions, sums, reductions.
    """
    return Counter({repr(operator): 1})


def work_of_all(operators: Iterable[Shown]) -> Counter[str]:
    """Return the work of several operators together, in the order in which they first come."""
    total: Counter[str] = Counter()
    for operator in operators:
        total.update(work(operator))
    return total


def operator_card(operator: Shown) -> str:
    """Return the card of an operator: formula, spaces, tags, what a product costs, memory."""
    same = operator.domain == operator.codomain
    spaces = (
        [("on", _space(operator.domain))]
        if same
        else [("from", _space(operator.domain)), ("to", _space(operator.codomain))]
    )
    tags = sorted((tag.replace("_", "-") for tag in operator.tags), reverse=True)
    rows = [
        *spaces,
        ("known to be", ", ".join(tags)),
        ("a product", _cost(operator)),
        ("memory", _memory(operator)),
        ("form", _form(operator)),
        ("numbers", numbers_text(operator)),
    ]
    return card(repr(operator), rows)


def _space(space: Space) -> str:
    return f"{space} ({space.dimension:,} numbers)" if space.axes else "a number"


def _memory(operator: Shown) -> str:
    sides = [byte_text(side.size * operator.dtype.itemsize) for side in (operator.domain, operator.codomain)]
    if sides[0] == sides[1]:
        return f"{sides[0]} a vector"
    return f"{sides[0]} a vector it is given, {sides[1]} one that it returns"


def _cost(operator: Shown) -> str:
    counts = work(operator)
    parts = [name if count == 1 else f"{count:,} × {name}" for name, count in counts.items()]
    if parts == [repr(operator)]:
        return ""  # it is made of nothing else
    if not parts:
        return "nothing but scaling and adding"
    most = " at most" if any(count > 1 for count in counts.values()) else ""
    return f"takes{most} {', '.join(parts)}"


def _form(operator: Shown) -> str:
    method, why = getattr(operator, "method", None), getattr(operator, "why", None)
    return ": ".join(text for text in (method, why) if isinstance(text, str))


def numbers_text(operator: Shown) -> str:
    """Return what the numbers of an operator are and where: ``float32 on cpu``."""
    return f"{str(operator.dtype).removeprefix('torch.')} on {operator.device}"


def byte_text(count: float) -> str:
    """Return a number of bytes as text: ``1.5 MiB``."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.3g} {unit}" if count < 1000 else f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.3g} GiB"
