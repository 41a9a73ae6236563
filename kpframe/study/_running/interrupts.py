"""Ctrl-C and requests to end, at moments of our own choosing: what a training holds is whole or as it was."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

#: Ctrl-C, and what a batch system or ``kill`` sends.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM") if hasattr(signal, name))


@contextmanager
def ended_by_signals(*, alone: bool = True) -> Iterator[None]:
    """Raise ``KeyboardInterrupt`` inside for a request to end, once, as for Ctrl-C.

    Args:
        alone: whether Ctrl-C is this process's to see to; it is ignored where another one passes it on.
    """
    came: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and not alone:
            return
        if number == signal.SIGINT or not came:  # what is written meanwhile is not to be broken off
            came.append(number)
            raise KeyboardInterrupt

    with _handled(end):
        yield


@contextmanager
def held_back() -> Iterator[None]:
    """Let what is done inside come to its end before an interrupt is raised; a second Ctrl-C is at once.

    Signals that end the process without more ado, and other threads than the main one, are left as they are.
    """
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and number in came:
            raise KeyboardInterrupt
        came.append(number)

    with _handled(note, only=True) as before:
        yield
    for number in came:
        before[number](number, None)


@contextmanager
def _handled(handler: Any, *, only: bool = False) -> Iterator[dict[int, Any]]:
    """Handle signals inside, with ``only`` those that Python handles already; yield what did so before."""
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            old = signal.getsignal(number)
            if callable(old) or (not only and old == signal.SIG_DFL):
                before[number] = signal.signal(number, handler)
    try:
        yield before
    finally:
        for number, old in before.items():
            signal.signal(number, old)
