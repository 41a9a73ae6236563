"""The folder of a run: one run in it, held by one process, its id in every file.

``run.json`` says which run a folder holds; ``.lock`` is held while a process writes. A folder with files of
another run, of other settings or of a living process is refused before anything is computed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from types import TracebackType
from typing import Any, Self

import xarray as xr
from filelock import BaseFileLock, FileLock, Timeout

from kpframe.errors import OutputError, SettingsError, mismatch
from kpframe.study._files import check_folder, leftovers, make_folder, refusal, write_text
from kpframe.study._results import versions, write_dataset

RECORD, LOCK = "run.json", ".lock"
#: What runs write, as patterns; nothing else in a folder is ever removed.
RUN_FILES = (
    *("results.nc", "training.nc", "comparison.nc"),
    *("report.html", "training.html", "comparison.html"),
    *("steps/*.nc", "checkpoints/*.safetensors"),
)
_FORMAT = 1


class RunFolder:
    """The folder of one run, to be entered with ``with``; files are written while it is held.

    Args:
        path: the folder; made when it does not exist.
        command: what runs, ``"train"``.
        settings: all that the run's numbers follow from, as JSON can hold it.
        title: of the run.
        seed: of the run.
        overwrite: replace the run that the folder holds.
        needed: bytes that its files take at least.

    Attributes:
        id: of this run; in ``run.json``, as ``run_id`` in datasets, as ``extra["run"]`` in checkpoints.
        attributes: what every dataset of the run says of where it comes from.

    Raises (on entering):
        OutputError: for a folder that cannot be written, that another process writes, that holds a finished
            run, a run of another command or settings, or files of no run.
        SettingsError: for settings that JSON cannot hold, on construction.
    """

    def __init__(
        self,
        path: Path,
        command: str,
        settings: Mapping[str, Any],
        *,
        title: str,
        seed: int,
        overwrite: bool = False,
        needed: int = 0,
    ) -> None:
        self.path, self.command, self.id = path, command, token_hex(8)
        try:
            text = json.dumps(settings, sort_keys=True)
        except (TypeError, ValueError) as error:
            raise SettingsError(mismatch("settings", "values that JSON can hold", str(error))) from error
        self.settings = json.loads(text)  # as it will be read: tuples are lists
        self.attributes = {
            "title": title,
            **versions(),
            "run_id": self.id,
            "command": command,
            "seed": str(seed),
            "settings": text,
        }
        self._overwrite, self._needed = overwrite, needed
        self._lock: BaseFileLock | None = None
        self._made: list[Path] = []

    def __enter__(self) -> Self:
        check_folder(self.path)
        held = sum(os.path.getsize(path) for path in run_files(self.path) if os.path.exists(path))
        check_folder(self.path, max(0, self._needed - held))
        self._refuse()  # before anything is made
        self._made = [part for part in (self.path, *self.path.parents) if not os.path.lexists(part)]
        make_folder(self.path)
        self._lock = self._locked()
        try:
            self._refuse()  # what a process that ended just now may have left
            self._record("running")
            for path in (*self._temporary(), *run_files(self.path)):
                path.unlink(missing_ok=True)
        except BaseException as error:
            self._let_go()
            if isinstance(error, OSError) and not isinstance(error, OutputError):
                raise refusal(self.path, error) from error
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._record("finished")
            elif not run_files(self.path):  # nothing came of it
                (self.path / RECORD).unlink(missing_ok=True)
            else:
                with suppress(OutputError):  # the error that ends the run is the one to tell
                    self._record("failed" if issubclass(kind, Exception) else "interrupted")
        finally:
            self._let_go()

    def write_dataset(self, name: str, data: xr.Dataset, **attributes: Any) -> Path:
        """Write a dataset with the run's attributes, and some of its own; return its path."""
        own = {name: value for name, value in data.attrs.items() if name not in self.attributes}
        data = data.assign_attrs()
        data.attrs = self.attributes | own | attributes
        return write_dataset(data, self.path / name)

    def _locked(self) -> BaseFileLock:
        lock = FileLock(self.path / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            writer, who = read_record(self.path), "another process"
            if writer is not None:  # else it has written nothing yet, or what cannot be read
                who = f"kpframe {writer['command']}, process {writer.get('process')}"
            raise OutputError(
                f"folder {str(self.path)!r} is in use by {who}; wait for it to end, or give another --output"
            ) from error
        except OSError as error:
            self._let_go()
            raise refusal(self.path / LOCK, error) from error
        return lock

    def _refuse(self) -> None:
        """Raise ``OutputError`` where the folder holds what this run must not be mixed with."""
        written = run_files(self.path)
        if not self.path.is_dir():
            return
        if (self.path / RECORD).exists():
            record = read_record(self.path)
            if not written or self._overwrite:
                return
            held = "a run of a kpframe that this one does not know"
            if record is not None:
                same = record["command"] == self.command and record["settings"] == self.settings
                if same and record["state"] != "finished":
                    return  # it was killed: what it had is made anew
                changed = ", ".join(_differences(record["settings"], self.settings))
                run = f"run {record['id']} (kpframe {record['command']}, {record['created']})"
                if record["command"] != self.command:
                    held = run
                else:
                    held = f"{run} with another {changed}" if changed else f"this run, finished: {run}"
            raise OutputError(
                f"folder {str(self.path)!r} holds {held}; --overwrite replaces it, or give another --output"
            )
        if others := sorted(path.name for path in self.path.iterdir() if not path.name.startswith(".")):
            shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
            raise OutputError(
                f"folder {str(self.path)!r} holds files of no run ({shown}); give another --output, new or "
                "empty"
            )

    def _record(self, state: str) -> None:
        record = {
            "format": _FORMAT,
            "id": self.id,
            "command": self.command,
            "state": state,
            "process": os.getpid(),
            "created": self.attributes["created"],
            "changed": datetime.now(UTC).isoformat(timespec="seconds"),
            "settings": self.settings,
        }
        write_text(self.path / RECORD, json.dumps(record, indent=2) + "\n")

    def _temporary(self) -> Iterator[Path]:
        """Yield what killed processes left; this one holds the folder, so none of them is alive."""
        for folder in (self.path, self.path / "steps", self.path / "checkpoints"):
            yield from leftovers(folder)

    def _let_go(self) -> None:
        """Let go of the folder, and remove it where this run made it and left nothing."""
        if self._lock is not None:
            with suppress(OSError):  # while it is held: filelock sees to those who have it open already
                (self.path / LOCK).unlink()
            self._lock.release()
        if self.path in self._made and not os.path.lexists(self.path / RECORD):
            for part in (self.path / "steps", self.path / "checkpoints", *self._made):
                with suppress(OSError):
                    part.rmdir()


def read_record(path: Path) -> dict[str, Any] | None:
    """Return what ``run.json`` says of a folder's run; None where there is none that can be read."""
    try:
        record = json.loads((path / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    kinds = {"format": int, "id": str, "command": str, "state": str, "created": str, "settings": dict}
    if not isinstance(record, dict) or not all(isinstance(record.get(n), k) for n, k in kinds.items()):
        return None
    return record if record["format"] <= _FORMAT else None


def run_files(path: Path) -> list[Path]:
    """Return the files in a folder that a run may have written, and another may remove."""
    return [found for pattern in RUN_FILES for found in path.glob(pattern)]


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the names of the settings that differ."""
    return [name for name in sorted({*one, *other}) if one.get(name, ()) != other.get(name, ())]
