"""Standard output: text that it can show, and nothing but JSON where that is asked for."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress


def fitting(text: str) -> str:
    """Return text with what standard output's encoding lacks written out, as ``\\u2192``."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


@contextmanager
def lenient_output() -> Iterator[None]:
    """Write out what the encoding of standard output lacks, instead of an error when all is computed."""
    stream = sys.stdout
    strict = isinstance(stream, io.TextIOWrapper) and stream.errors == "strict"
    if isinstance(stream, io.TextIOWrapper) and strict:
        stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        if isinstance(stream, io.TextIOWrapper) and strict and not stream.closed:
            stream.reconfigure(errors="strict")


@contextmanager
def kept_for_json() -> Iterator[None]:
    """Send to standard error what plugins print inside, also from processes and libraries of theirs."""
    with redirect_stdout(sys.stderr):
        try:
            saved = os.dup(1)
        except OSError:  # closed
            yield
            return
        try:
            with suppress(OSError):
                os.dup2(2, 1)
            yield
        finally:
            os.dup2(saved, 1)
            os.close(saved)
