"""Run a plugin's code: whatever it raises stays with it, and Ctrl-C says whose code it stopped."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """Ctrl-C while the code of a plugin ran, which the message names."""


@contextmanager
def interruptible(doing: str) -> Iterator[None]:
    """Tell Ctrl-C, which goes on as ``Interrupted``, from a KeyboardInterrupt that the block raises itself.

    It goes on also where the block makes another exception of it, or none.

    Args:
        doing: what is going on, and what to do so that it does not, for the message.
    """
    pressed = False
    before = signal.getsignal(signal.SIGINT)
    in_main = threading.current_thread() is threading.main_thread()

    def press(signum: int, frame: FrameType | None) -> object:
        nonlocal pressed
        pressed = True
        return before(signum, frame) if callable(before) else None

    watched = in_main and callable(before)
    if watched:
        signal.signal(signal.SIGINT, press)
    try:
        yield
    except Interrupted:  # of a block inside this one
        raise
    except BaseException as error:
        # a handler that is not Python's cannot be watched: a KeyboardInterrupt is taken for Ctrl-C
        if pressed or (in_main and before is None and isinstance(error, KeyboardInterrupt)):
            raise Interrupted(doing) from error
        raise
    else:
        if pressed:
            raise Interrupted(doing)
    finally:
        if watched and signal.getsignal(signal.SIGINT) is press:
            signal.signal(signal.SIGINT, before)
