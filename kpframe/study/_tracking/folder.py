"""The folder of a tracker: that of a run with one training, whose steps are known as they come."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xarray as xr

from kpframe.errors import OutputError
from kpframe.models._model import Model
from kpframe.study._cells import checkpoint_file, record_file, training_file
from kpframe.study._disk.folder import RunFolder, read_record, run_files
from kpframe.study._disk.results import read_dataset
from kpframe.study._networks.checkpoint import load_checkpoint
from kpframe.study._quantity import Quantity
from kpframe.study._reading.merge import merged
from kpframe.tasks._readout import Readout

COMMAND = "track"


class TrackerFolder:
    """The folder of a tracker, which it holds from ``open`` to ``close``.

    Args:
        path: the folder.
        settings: all that the figures follow from.
        cell, coordinates: of the training.
        title: of the run.
        overwrite, resume: what may be done with a run that is there.
    """

    def __init__(
        self,
        path: Path,
        settings: Mapping[str, Any],
        cell: str,
        coordinates: Mapping[str, Any],
        *,
        title: str,
        overwrite: bool,
        resume: bool,
    ) -> None:
        self.path, self.steps = path, list[int]()
        self._settings, self._cell, self._coordinates = settings, cell, coordinates
        self._title, self._overwrite, self._resume = title, overwrite, resume
        self._run: RunFolder | None = None

    @property
    def run(self) -> RunFolder:
        """The folder, while it is held."""
        assert self._run is not None
        return self._run

    def open(self) -> None:
        """Hold the folder; raises ``OutputError``, before anything in it is changed."""
        record = read_record(self.path)
        self._refuse(record)
        goes_on = self._resume and record is not None
        cells = record.get("cells") if goes_on and record is not None else None
        run = RunFolder(
            self.path,
            COMMAND,
            self._settings,
            title=self._title,
            seed=int(self._settings["seed"]),
            overwrite=self._overwrite,
            cells=cells or [self._described([])],
            mend=goes_on,
        )
        run.__enter__()
        self._run = run
        self.steps = []
        if run.resumed and run.cells is not None:
            steps = sorted(run.cells[0]["steps"])
            self.steps = [step for step in steps if (self.path / record_file(self._cell, step)).exists()]

    def _refuse(self, record: Mapping[str, Any] | None) -> None:
        if record is None or self._overwrite or not run_files(self.path):
            return
        where = f"folder {str(self.path)!r}"
        if record["command"] != COMMAND:
            raise OutputError(
                f"{where} holds run {record['id']} (kpframe {record['command']}, {record['created']}); "
                "overwrite=True replaces it, or give another output"
            )
        if not self._resume:
            raise OutputError(
                f"{where} holds what a tracker recorded ({record['state']}, {record['created']}); "
                "resume=True goes on with it, overwrite=True replaces it, or give another output"
            )
        differ = sorted(
            name
            for name in {*record["settings"], *self._settings}
            if record["settings"].get(name) != self._settings.get(name)
        )
        if differ:
            raise OutputError(
                f"{where} holds what a tracker recorded with another {', '.join(differ)}; resume=True needs "
                "the same, overwrite=True replaces it, or give another output"
            )

    def keep_until(self, step: int) -> xr.Dataset | None:
        """Remove the steps after a step; return the losses that an earlier part of the training left."""
        for later in [one for one in self.steps if one > step]:
            for file in (record_file(self._cell, later), checkpoint_file(self._cell, later)):
                (self.path / file).unlink(missing_ok=True)
            self.steps.remove(later)
        if self.run.resumed:
            self._note()
            for name in ("results.nc", "report.html"):  # they are of a training that ended elsewhere
                (self.path / name).unlink(missing_ok=True)
            if (self.path / training_file(self._cell)).exists():
                return read_dataset(self.path / training_file(self._cell))
        return None

    def add(self, step: int) -> None:
        """Note that a step is recorded."""
        self.steps.append(step)
        self._note()

    def load(self, step: int, model: Model, readout: Readout | None) -> None:
        """Load the network of a recorded step into a model and a readout; raises ``CheckpointError``."""
        checkpoint = load_checkpoint(self.path / checkpoint_file(self._cell, step))
        checkpoint.load_into(model)
        if readout is not None:
            checkpoint.load_into(readout, "readout")

    def gather(self, quantities: Mapping[str, Quantity]) -> None:
        """Write all that is recorded into ``results.nc``."""
        self.run.write_results(merged(self.path, quantities))

    def close(self, *, finished: bool) -> None:
        """Let go of the folder; a training that did not come to its end is left as interrupted."""
        kind = None if finished else KeyboardInterrupt
        self.run.__exit__(kind, None, None)

    def _described(self, steps: list[int]) -> dict[str, Any]:
        coordinates = dict(self._coordinates)
        return {"name": self._cell, "coordinates": coordinates, "steps": steps, "initial_of": None}

    def _note(self) -> None:
        self.run.note_cells([self._described(self.steps)])
