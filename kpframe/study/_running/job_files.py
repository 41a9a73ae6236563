"""What the jobs of a run say of themselves, in small files beside the folder of the run."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

#: Name of the file that lists the jobs: name of a training -> number of its job.
JOBS = "jobs"


@frozen
class JobStatus:
    """What a job said last.

    Attributes:
        number: what the cluster calls it; of one on this machine its process.
        running: whether it has begun; queued otherwise.
        updates: made; None where it has not said.
        doing: what it does, where it is not training.
        heard: seconds since it said so.
    """

    number: str
    running: bool
    updates: int | None
    doing: str
    heard: float


def jobs_folder(run: Path) -> Path:
    """Return where the jobs of a run have their logs, and what submitit pickles: beside the run's folder."""
    run = run.resolve()
    return run.with_name(f"{run.name}.jobs")


def job_statuses(run: Path) -> dict[str, JobStatus]:
    """Return the jobs of a run that are queued or run, by the names of their trainings."""
    place, found = jobs_folder(run), {}
    for name, number in read_said(place / JOBS).items():
        file = place / f"{name}.json"
        said = read_said(file)
        if said.get("state") not in ("queued", "running"):
            continue
        made, _, _, doing = said.get("progress") or (None, None, None, "")
        try:
            heard = max(0.0, time.time() - file.stat().st_mtime)
        except OSError:  # it has ended meanwhile
            continue
        found[name] = JobStatus(str(number), said["state"] == "running", made, doing, heard)
    return found


def read_said(path: Path) -> Mapping[str, Any]:
    """Return what a file says; nothing where that is not there (yet)."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
