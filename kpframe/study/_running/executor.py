"""What makes jobs of trainings, and what each job is given: partition, time, memory and the like."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from attrs import frozen

from kpframe.errors import SettingsError, say
from kpframe.plugin import setting
from kpframe.plugin._settings import build_settings

#: Kinds of executors that make jobs.
LOCAL, SLURM = "local", "slurm"


@frozen
class ClusterSettings:
    """What each job is given; what is left out is the cluster's own default."""

    partition: str | None = setting(None, help="partition that jobs are sent to")
    account: str | None = setting(None, help="account that is charged")
    qos: str | None = setting(None, help="quality of service")
    constraint: str | None = setting(None, help="features that a node must have")
    minutes: int = setting(60, ge=1, help="time that a training may take [min]")
    memory_gb: float | None = setting(None, gt=0, help="memory of a job [GB]")
    cpus: int = setting(1, ge=1, help="processor cores of a job")
    gpus: int = setting(0, ge=0, help="graphics processors of a job")
    setup: tuple[str, ...] = setting((), help="shell commands that run before each job")

    def slurm(self, at_once: int | None) -> dict[str, Any]:
        """Return the settings as submitit's executor for Slurm takes them.

        Args:
            at_once: jobs of an array that run at the same time; None for all.
        """
        found: dict[str, Any] = {"time": self.minutes, "cpus_per_task": self.cpus, "setup": [*self.setup]}
        own = ("partition", "account", "qos", "constraint")
        found |= {name: value for name in own if (value := getattr(self, name)) is not None}
        if self.memory_gb is not None:
            found["mem"] = f"{round(1000 * self.memory_gb)}MB"
        if self.gpus:
            found["gpus_per_node"] = self.gpus
        if at_once is not None:
            found["array_parallelism"] = at_once
        return found


@frozen
class Executor:
    """What makes a job of each training.

    Attributes:
        kind: ``"slurm"`` or ``"local"``, processes of this machine.
        settings: of each job.
        jobs: how many run at the same time; None for as many as the cluster runs, and one of local ones.
    """

    kind: str
    settings: ClusterSettings = ClusterSettings()
    jobs: int | None = None


def read_cluster(path: Path) -> ClusterSettings:
    """Return the settings of a TOML file.

    Raises:
        SettingsError: for a file that cannot be read, and for settings that are wrong: all at once.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"--cluster: expected a TOML file, got {str(path)!r} ({say(error)})") from error
    return build_settings(ClusterSettings, table, owner=str(path))
