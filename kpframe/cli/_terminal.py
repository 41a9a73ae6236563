"""Standard output: text that it can show, and nothing but JSON where that is asked for."""

from __future__ import annotations

import atexit
import gc
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import TextIO


def fitting(text: str, stream: TextIO | None = None) -> str:
    """Return text with what the encoding of ``stream`` lacks (standard output's) written out by number."""
    encoding = getattr(stream or sys.stdout, "encoding", None) or "utf-8"
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
    streams = {sys.stdout, sys.__stdout__}
    with redirect_stdout(sys.stderr):
        _flush(*streams)
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
            _flush(*streams)  # what was written to the stream itself
            os.dup2(saved, 1)
            os.close(saved)


@contextmanager
def loading() -> Iterator[None]:
    """Import libraries inside: what they make stays, and is not looked through for garbage again and again.

    That is a quarter of the time that importing torch and xarray takes.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():  # once: what is garbage by then is never freed
            gc.freeze()
        gc.enable()


def open_output() -> None:
    """Give the process the standard output and error that it was started without."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
            atexit.register(stream.close)
            setattr(sys, name, stream)


def end_output() -> None:
    """Write all there is, and send to standard error what plugins print while the process ends.

    What is left is not looked through for garbage: with torch that takes most of a second.
    """
    gc.freeze()
    try:
        sys.stdout.flush()
    except (OSError, ValueError):  # nobody reads, or it is closed: nothing more to say there
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return
    sys.stdout = sys.stderr
    with suppress(OSError):
        os.dup2(2, 1)


def _flush(*streams: TextIO | None) -> None:
    for stream in streams:
        if stream is not None:
            with suppress(OSError, ValueError):
                stream.flush()
