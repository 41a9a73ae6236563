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
def ended_by_signals() -> Iterator[None]:
    """Raise ``KeyboardInterrupt`` inside for a request to end, too, as for Ctrl-C."""
    with _handled(_raise):
        yield


@contextmanager
def held_back() -> Iterator[None]:
    """Let what is done inside come to its end before an interrupt is raised; a second one is at once.

    Signals that end the process without more ado, and other threads than the main one, are left as they are.
    """
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)

    with _handled(note, only=True):
        yield
    if came:
        raise KeyboardInterrupt


def _raise(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def _handled(handler: Any, *, only: bool = False) -> Iterator[None]:
    """Handle signals inside; with ``only`` those that Python handles already."""
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            old = signal.getsignal(number)
            if callable(old) or (not only and old == signal.SIG_DFL):
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
