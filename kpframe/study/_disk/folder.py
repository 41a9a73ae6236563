"""The folder of a run: one run in it, held by one process, its id in every file.

``run.json`` says which run a folder holds; ``.lock`` is held while a process writes. A folder with files of
another run, of other settings or of a living process is refused before anything is computed. One with the
same run, unfinished, is kept where the run can go on from it: see ``cells``.
"""

from __future__ import annotations

import json
import math
import os
import platform
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path, PurePath
from secrets import token_hex
from types import TracebackType
from typing import Any, Self

import xarray as xr
from filelock import BaseFileLock, FileLock, Timeout

from kpframe.errors import OutputError, SettingsError, mismatch
from kpframe.study._disk.files import check_folder, leftovers, make_folder, refusal, write_text
from kpframe.study._disk.results import made_with, same_versions, versions, write_dataset
from kpframe.study._ranks.launcher import PROVENANCE, kpframe_command, provenance

RECORD, LOCK, STUDY = "run.json", ".lock", "study.toml"
#: What runs write, as patterns; nothing else in a folder is ever removed.
RUN_FILES = (
    *("results.nc", "training.nc", "comparison.nc"),
    *("report.html", "training.html", "comparison.html"),
    *("figures/*.pdf", "figures/*.svg"),
    *("steps/*.nc", "checkpoints/*.safetensors"),
    *("training/*.nc", "state/*.safetensors", STUDY),
)
#: Folders in a folder that a run makes.
FOLDERS = ("steps", "checkpoints", "training", "state", "figures")
#: Version of ``run.json``: 2 has ``cells`` where a run can be gone on with.
FORMAT = 2
#: Commands whose runs are studies: ``kpframe resume`` goes on with them.
STUDIES = ("run", "demo")
#: Commands whose runs ``kpframe resume`` goes on with.
RESUMED = (*STUDIES, "train", "compare", "analyze")
#: States of a run that has not come to its end.
_UNFINISHED = ("beginning", "running", "failed", "interrupted")


class RunWriter:
    """What writes the files of a run; a process that does not hold its folder can be given one.

    Attributes:
        path: the folder.
        id: of the run; in ``run.json``, as ``run_id`` in datasets, as ``extra["run"]`` in checkpoints.
        attributes: what every dataset of the run says of where it comes from.
        spent: processor time of other processes that have worked on it [s].
    """

    def __init__(self, path: Path, id: str, attributes: Mapping[str, str]) -> None:
        self.path, self.id, self.attributes = path, id, dict(attributes)
        self.spent = 0.0

    def write_dataset(self, name: str | PurePath, data: xr.Dataset, **attributes: Any) -> Path:
        """Write a dataset with the run's attributes, and some of its own; return its path."""
        own = {name: value for name, value in data.attrs.items() if name not in self.attributes}
        data = data.assign_attrs()
        data.attrs = self.attributes | own | attributes
        return write_dataset(data, self.path / name)

    def write_results(self, data: xr.Dataset) -> Path:
        """Write what the files of the run say together, which says itself how each of them was made."""
        data = data.assign_attrs()
        data.attrs = self.attributes_of(data)
        return write_dataset(data, self.path / "results.nc")

    def attributes_of(self, data: xr.Dataset) -> dict[str, Any]:
        """Return the attributes of the run's results, of which ``data`` has those of the files."""
        return {name: value for name, value in self.attributes.items() if name not in PROVENANCE} | data.attrs


class RunFolder(RunWriter):
    """The folder of one run, to be entered with ``with``; files are written while it is held.

    Args:
        path: the folder; made when it does not exist.
        command: what runs, ``"train"``.
        settings: all that the run's numbers follow from, as JSON can hold it.
        title: of the run.
        seed: of the run.
        overwrite: replace the run that the folder holds.
        needed: bytes that its files take at least.
        cells: the trainings of a run that can be gone on with, each an object with ``name``,
            ``coordinates``, ``steps``, ``initial_of`` and ``same_as``; None for a run that is made anew
            instead.
        mend: keep this run though it is finished, to make files anew that are missing or damaged.

    Attributes:
        resumed: whether the folder held this run, unfinished, which goes on; known once it is entered.

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
        cells: Sequence[Mapping[str, Any]] | None = None,
        mend: bool = False,
    ) -> None:
        self.command = command
        try:
            text = json.dumps(settings, sort_keys=True)
        except (TypeError, ValueError) as error:
            raise SettingsError(mismatch("settings", "values that JSON can hold", str(error))) from error
        self.settings = json.loads(text)  # as it will be read: tuples are lists
        self.cells = None if cells is None else json.loads(json.dumps([dict(cell) for cell in cells]))
        own = {"run_id": token_hex(8), "command": command, "seed": str(seed), "settings": text}
        super().__init__(path, own["run_id"], {"title": title, **versions(), **provenance(), **own})
        self.resumed = False
        self._made_with = made_with()
        self._began, self._seconds = datetime.now(UTC), 0.0
        self._clock, self._processor = time.process_time(), 0.0
        self._given: list[RunWriter] = []
        self._overwrite, self._needed, self._mend = overwrite, needed, mend
        self._lock: BaseFileLock | None = None
        self._made: list[Path] = []

    def __enter__(self) -> Self:
        check_folder(self.path)
        held = sum(os.path.getsize(path) for path in run_files(self.path) if os.path.exists(path))
        check_folder(self.path, max(0, self._needed - held))
        self._refuse()  # before anything is made
        self._made = [part for part in (self.path, *self.path.parents) if not os.path.lexists(part)]
        make_folder(self.path)
        self._lock, self._began, self._clock = self._locked(), datetime.now(UTC), time.process_time()
        try:
            self._go_on(self._refuse())  # what a process that ended just now may have left
            old = () if self.resumed else run_files(self.path)
            if old:  # a kill before they are gone must leave no mixture that looks like one run
                self._record("beginning")
            for path in (*self._temporary(), *old):
                path.unlink(missing_ok=True)
            self._record("running")
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
                with suppress(OSError):  # nothing is under way any more
                    (self.path / "state").rmdir()
                self._record("finished")
            elif not self.resumed and not self._has_results():  # nothing came of it
                for name in (RECORD, STUDY):
                    (self.path / name).unlink(missing_ok=True)
            else:
                with suppress(OutputError):  # the error that ends the run is the one to tell
                    self._record("failed" if issubclass(kind, Exception) else "interrupted")
        finally:
            self._let_go()
        if error is not None and isinstance(error, KeyboardInterrupt) and self._kept_for_later():
            raise KeyboardInterrupt(f"interrupted; go on with: {again(self.command, self.path)}") from error

    def _kept_for_later(self) -> bool:
        return self.cells is not None and (self.path / RECORD).exists()

    def note_cells(self, cells: Sequence[Mapping[str, Any]]) -> None:
        """Note which trainings and steps there are, of a run that knows its steps only as they come."""
        self.cells = json.loads(json.dumps([dict(cell) for cell in cells]))
        self._record("running")

    def writer(self) -> RunWriter:
        """Return what another process can write files of this run with while this one holds the folder."""
        given = RunWriter(self.path, self.id, self.attributes)
        self._given.append(given)
        return given

    def _cpu_seconds(self) -> float:
        """Return the processor time of all processes that have worked on the run [s]; NaN if not known."""
        own = time.process_time() - self._clock
        return self._processor + own + sum(writer.spent for writer in self._given)

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

    def _refuse(self) -> dict[str, Any] | None:
        """Return the record of this same run where it goes on; None where the folder may be written anew.

        Raises:
            OutputError: where the folder holds what this run must not be mixed with.
        """
        if not self.path.is_dir():
            return None
        if (self.path / RECORD).exists():
            record = read_record(self.path)
            if self._overwrite:
                return None
            if record is not None and self._same(record) and record["state"] in (*_UNFINISHED, *self._kept()):
                return record if self.cells is not None else None
            if not self._has_results():
                return None
            raise OutputError(
                f"folder {str(self.path)!r} holds {self._held(record)}; --overwrite replaces it, or give "
                "another --output"
            )
        if others := sorted(path.name for path in self.path.iterdir() if not path.name.startswith(".")):
            shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
            raise OutputError(
                f"folder {str(self.path)!r} holds files of no run ({shown}); give another --output, new or "
                "empty"
            )
        return None

    def _same(self, record: Mapping[str, Any]) -> bool:
        """Return whether a folder's run is this one, so that what it has can be gone on with."""
        same = record["command"] == self.command and record["settings"] == self.settings
        return same and (self.cells is None or record.get("cells") == self.cells)

    def _kept(self) -> tuple[str, ...]:
        return ("finished",) if self._mend else ()

    def _held(self, record: Mapping[str, Any] | None) -> str:
        """Return what to say of a run that is in the way."""
        if record is None:
            newer = format_of(self.path)
            if newer is None or newer <= FORMAT:
                return f"a run whose {RECORD} is damaged"
            return f"a run written by a newer kpframe (its format is {newer}, and this one knows {FORMAT})"
        held = f"run {record['id']} (kpframe {record['command']}, {record['created']})"
        changed = ", ".join(_differences(record["settings"], self.settings))
        if record["command"] == self.command:
            if changed:
                held += f" with another {changed}"
            elif record["state"] == "finished":
                held = f"this run, finished: {held}"
            else:
                held = f"this run, begun by a kpframe that divides it otherwise: {held}"
        if record["state"] in _UNFINISHED and record.get("cells") is not None:
            held += f", unfinished ({again(record['command'], self.path)} goes on with it)"
        return held

    def _go_on(self, record: Mapping[str, Any] | None) -> None:
        """Be the run that is there, where there is one to go on with."""
        self.resumed = record is not None and record["state"] != "beginning"
        if record is not None and self.resumed:
            self.id, self._seconds = record["id"], worked_seconds(self.path, record)
            spent = record.get("cpu_seconds")
            if record["state"] == "running" or spent is None:  # nobody knows what a killed process has spent
                spent = math.nan
            self._processor = float(spent)
            self.attributes |= {"run_id": record["id"], "created": record["created"]}
            if (first := record.get("made_with")) is not None:  # an older kpframe does not say it
                self._made_with = same_versions(first, self._made_with, self.path)

    def _has_results(self) -> bool:
        return any(path.name != STUDY for path in run_files(self.path))

    def _record(self, state: str) -> None:
        record = {
            "format": FORMAT,
            "id": self.id,
            "command": self.command,
            "state": state,
            "process": os.getpid(),
            "host": platform.node(),
            "created": self.attributes["created"],
            "began": self._began.isoformat(timespec="seconds"),
            "changed": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": self._seconds,
            "cpu_seconds": None if math.isnan(spent := self._cpu_seconds()) else round(spent, 3),
            "settings": self.settings,
            "made_with": self._made_with,
        }
        if self.cells is not None:
            record["cells"] = self.cells
        write_text(self.path / RECORD, json.dumps(record, indent=2) + "\n")

    def _temporary(self) -> Iterator[Path]:
        """Yield what killed processes left; this one holds the folder, so none of them is alive."""
        for folder in (self.path, *(self.path / name for name in FOLDERS)):
            yield from leftovers(folder)

    def _let_go(self) -> None:
        """Let go of the folder, and remove it where this run made it and left nothing."""
        if self._lock is not None:
            with suppress(OSError):  # while it is held: filelock sees to those who have it open already
                (self.path / LOCK).unlink()
            self._lock.release()
        if self.path in self._made and not os.path.lexists(self.path / RECORD):
            for part in (*(self.path / name for name in FOLDERS), *self._made):
                with suppress(OSError):
                    part.rmdir()


def is_held(path: Path) -> bool:
    """Return whether a living process holds the folder of a run."""
    record = read_record(path)
    if not (path / LOCK).exists():
        return False
    process = None if record is None else record.get("process")
    if record is not None and record.get("host") == platform.node() and isinstance(process, int):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
        except OSError:
            pass  # it lives, and is another user's
    lock = FileLock(path / LOCK)
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):
        return True
    lock.release()
    return False


def worked_seconds(path: Path, record: Mapping[str, Any]) -> float:
    """Return how long processes have worked on a run that none holds now, pauses left out.

    A process that was killed is taken to have lived until the last file that it wrote.
    """
    latest = record.get("changed")
    if record["state"] in ("running", "beginning"):
        times = [file.stat().st_mtime for file in run_files(path) if file.exists()]
        latest = datetime.fromtimestamp(max(times), UTC).isoformat() if times else latest
    return float(record.get("seconds", 0.0)) + seconds_between(record.get("began"), latest)


def seconds_between(one: object, other: object) -> float:
    """Return the seconds between two times as they stand in ``run.json``; 0 where one is not known."""
    try:
        passed = datetime.fromisoformat(str(other)) - datetime.fromisoformat(str(one))
    except (ValueError, TypeError):
        return 0.0
    return max(0.0, passed.total_seconds())


def read_record(path: Path) -> dict[str, Any] | None:
    """Return what ``run.json`` says of a folder's run; None where there is none that can be read."""
    try:
        record = json.loads((path / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    kinds = {"format": int, "id": str, "command": str, "state": str, "created": str, "settings": dict}
    if not isinstance(record, dict) or not all(isinstance(record.get(n), k) for n, k in kinds.items()):
        return None
    cells = record.get("cells", [])
    if not isinstance(cells, list) or not all(map(_is_cell, cells)):
        return None
    return record if record["format"] <= FORMAT else None


def _is_cell(value: object) -> bool:
    kinds = {"name": str, "coordinates": dict, "steps": list}
    if not isinstance(value, dict):
        return False
    if not all(isinstance(value.get(name), str | None) for name in ("initial_of", "same_as")):
        return False
    return all(isinstance(value.get(name), kind) for name, kind in kinds.items())


def format_of(path: Path) -> int | None:
    """Return the format of a folder's ``run.json``, however new; None where it cannot be read."""
    try:
        found = json.loads((path / RECORD).read_text(encoding="utf-8"))["format"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return found if isinstance(found, int) else None


def again(command: str, path: Path) -> str:
    """Return what goes on with the run of a command, as a shell takes it, or a loop of one's own."""
    if command in RESUMED:
        return resume_command(path)
    if command == "track":  # a loop of somebody's own
        return f"Tracker(..., output={str(path)!r}, resume=True)"
    return f"the same {kpframe_command()} {command} ... --output {shlex.quote(str(path))}"


def resume_command(path: Path) -> str:
    """Return the command that goes on with a run, as a shell takes it."""
    return f"{kpframe_command()} resume {shlex.quote(str(path))}"


def run_files(path: Path) -> list[Path]:
    """Return the files in a folder that a run may have written, and another may remove."""
    return [found for pattern in RUN_FILES for found in path.glob(pattern)]


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the names of the settings that differ."""
    return [name for name in sorted({*one, *other}) if one.get(name, ()) != other.get(name, ())]
