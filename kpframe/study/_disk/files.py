"""Files that appear whole or not at all, and what to say when one cannot be written.

Everything that kpframe writes goes through ``write_bytes`` or ``write_text``: into a temporary file beside
the target, onto the disk, then renamed into place. A full disk, a kill or Ctrl-C leaves the older file, or
none, and never half of one. A temporary file that a kill leaves is found by ``leftovers``.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

from kpframe.errors import OutputError

#: Temporary files: ``.kpframe-<16 digits>.part``, a name of one process and one write.
_PREFIX, _SUFFIX = ".kpframe-", ".part"


def write_text(path: str | Path, text: str) -> Path:
    """Write a text file in UTF-8, as ``write_bytes`` does; return its path."""
    return write_bytes(path, text.encode("utf-8", errors="replace"))  # a lone surrogate has no UTF-8


def write_bytes(path: str | Path, content: bytes | memoryview) -> Path:
    """Write a file that is whole or not there, replacing an older one; return its path.

    Raises:
        OutputError: for a disk that is full, a folder that is missing or read-only, a name that is too long;
            an older file is left as it was.
    """
    path = Path(path)
    try:
        _write(path, (content,))
    except OSError as error:
        raise refusal(path, error, len(content)) from error
    return path


def write_parts(path: str | Path, parts: Iterable[bytes]) -> Path:
    """Write a file part by part as they are made, as ``write_bytes`` does; return its path.

    Raises:
        OutputError: as ``write_bytes``.
    """
    path = Path(path)
    try:
        _write(path, parts)
    except OSError as error:
        raise refusal(path, error) from error
    return path


def _write(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    partial = path.with_name(f"{_PREFIX}{token_hex(8)}{_SUFFIX}")
    try:
        with partial.open("xb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink()
    _sync(path.parent)


def _sync(folder: Path) -> None:
    """Bring a renaming onto the disk, where a folder can be opened for that."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def make_folder(path: Path) -> Path:
    """Make a folder and those above it, all or none; raises ``OutputError``."""
    check_folder(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refusal(path, error) from error
    return path


def check_folder(path: Path, needed: int = 0) -> None:
    """Raise ``OutputError`` where files could not be written below a folder; make nothing.

    Args:
        path: the folder, which need not exist.
        needed: bytes that are known to be needed.
    """
    above = path
    try:
        while not os.path.lexists(above) and above != above.parent:
            above = above.parent
        if not above.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        longest = os.pathconf(above, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
        if any(len(os.fsencode(part)) > longest for part in path.relative_to(above).parts):
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        if not os.access(above, os.W_OK | os.X_OK):
            read_only = hasattr(os, "statvfs") and os.statvfs(above).f_flag & os.ST_RDONLY
            code = errno.EROFS if read_only else errno.EACCES
            raise OSError(code, os.strerror(code))
        if needed > shutil.disk_usage(above).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise refusal(path, error, needed) from error


def check_file(path: Path) -> None:
    """Raise ``OutputError`` where a file could not be written; write nothing."""
    if os.path.isdir(path):  # Path.is_dir raises for names that are too long
        raise refusal(path, OSError(errno.EISDIR, os.strerror(errno.EISDIR)))
    if not os.path.lexists(path.parent):
        raise refusal(path, OSError(errno.ENOENT, os.strerror(errno.ENOENT)))
    check_folder(path.parent if os.path.lexists(path) else path)


def leftovers(folder: Path) -> Iterator[Path]:
    """Yield the temporary files in a folder, those of living processes among them."""
    for path in folder.glob(f"{_PREFIX}*{_SUFFIX}"):
        if len(path.name) == len(_PREFIX) + 16 + len(_SUFFIX):
            yield path


def refusal(path: Path, error: OSError, needed: int = 0) -> OutputError:
    """Return what to say when ``error`` came of writing a file of ``needed`` bytes, or making a folder."""
    return OutputError(f"cannot write {str(path)!r}: {_reason(path, error, needed)}")


def _reason(path: Path, error: OSError, needed: int) -> str:
    code, remedy = error.errno, "give another place to write to"
    if code in (errno.ENOSPC, getattr(errno, "EDQUOT", None)):
        free = _free(path)
        wanted = f"it needs {size_text(needed)}" if needed else "it needs more"
        if code != errno.ENOSPC or free is None or free >= max(needed, 1):  # quotas, and tables of files
            return f"the disk takes no more ({_text(error)}), and {wanted}; free some space, or {remedy}"
        return f"{wanted}, and {size_text(free)} are free on the disk; free some space, or {remedy}"
    if code in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"its folder is read-only ({_text(error)}); {remedy}"
    if code in (errno.ENOTDIR, errno.EEXIST):
        return f"{str(_in_the_way(path))!r} is a file, where a folder is needed; {remedy}"
    if code == errno.ENAMETOOLONG:
        return f"its name is too long for the file system; {remedy}"
    if code == errno.EISDIR:
        return f"there is a folder of this name; {remedy}"
    if code == errno.ENOENT:
        return f"its folder does not exist; make it, or {remedy}"
    return f"{_text(error)}; {remedy}"


def _text(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


def _in_the_way(path: Path) -> Path:
    """Return the lowest part of a path that exists and is no folder."""
    for part in (path, *path.parents):
        if os.path.lexists(part) and not os.path.isdir(part):
            return part
    return path


def _free(path: Path) -> int | None:
    for part in (path, *path.parents):
        with suppress(OSError):
            return shutil.disk_usage(part).free
    return None


def size_text(count: int) -> str:
    """Return a number of bytes as text: 812 bytes, 12.3 kB, 4.0 MB."""
    if count < 1000:
        return f"{count} bytes"
    value, units = count / 1000, iter(("kB", "MB", "GB", "TB"))
    unit = next(units)
    while value >= 1000 and (larger := next(units, None)):
        value, unit = value / 1000, larger
    return f"{value:.1f} {unit}"
