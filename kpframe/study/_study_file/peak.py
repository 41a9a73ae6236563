"""The peak memory of this process, measured over a part of its life where the system allows it."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def forget_peak() -> None:
    """Let the peak be counted from now on; where the system does not, it is that since the process began."""
    with suppress(OSError):
        _RESET.write_text("5")


def peak_bytes() -> int | None:
    """Return the largest resident memory since ``forget_peak``; None where the system does not say."""
    with suppress(OSError, ValueError, IndexError):
        words = _STATUS.read_text(encoding="ascii").split()
        return 1024 * int(words[words.index("VmHWM:") + 1])
    if sys.platform == "win32":
        return None
    import resource  # POSIX alone

    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else 1024 * size
