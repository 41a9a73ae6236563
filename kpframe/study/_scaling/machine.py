"""What a machine does in a second, which times on several ranks follow from, and where that is kept."""

from __future__ import annotations

import json
import math
import os
import platform
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from attrs import asdict, fields, frozen

from kpframe.errors import ArgumentError, mismatch, say
from kpframe.study._disk.files import make_folder, write_text


@frozen
class Machine:
    """Figures of a machine and of what its ranks are connected by.

    An all-reduce goes round a ring, as gloo and NCCL do it with tensors that are not small: of n ranks each
    sends and receives 2 (n - 1) pieces of an n-th of the tensor (Patarasuk & Yuan 2009, "Bandwidth optimal
    all-reduce algorithms for clusters of workstations").

    Attributes:
        latency: of a piece between two ranks [s].
        bandwidth: between two ranks, each way [bytes/s].
        product_rate: of a large matrix product in float32 on one thread [flop/s].
        memory_rate: of copies on one thread [bytes/s].
        processor, processors: model and number of the processors of the host.
        ranks: how many were connected when it was measured; 0 for figures that were not.
        torch: version that was measured.
    """

    latency: float
    bandwidth: float
    product_rate: float
    memory_rate: float
    processor: str = ""
    processors: int = 0
    ranks: int = 0
    torch: str = ""

    def all_reduce_seconds(self, collectives: float, sent_bytes: float, ranks: int) -> float:
        """Return how long so many all-reduces take with so many bytes of tensors in all [s].

        Each copies its tensor first, on one rank, too.
        """
        pieces = 2 * (ranks - 1)
        return (
            sent_bytes / self.memory_rate
            + pieces * self.latency * collectives
            + pieces / ranks * sent_bytes / self.bandwidth
        )

    def broadcast_seconds(self, sent_bytes: float, ranks: int) -> float:
        """Return how long one rank takes to send so much to all others, through a tree [s]."""
        rounds = math.ceil(math.log2(ranks)) if sent_bytes else 0
        return rounds * (self.latency + sent_bytes / self.bandwidth)

    @property
    def measured(self) -> bool:
        """Whether the figures were measured."""
        return self.ranks > 0

    @property
    def of_this_host(self) -> bool:
        """Whether they were measured on a host with the processors of this one."""
        return self.measured and (self.processor, self.processors) == this_host()

    @property
    def host(self) -> str:
        """The host's processors, in words."""
        return f"{self.processors} x {self.processor or 'unknown processor'}"

    def text(self) -> str:
        """Return the figures in words."""
        return (
            f"latency {1e6 * self.latency:.3g} us, bandwidth {self.bandwidth / 1e9:.3g} GB/s, "
            f"matrix products {self.product_rate / 1e9:.3g} Gflop/s, copies {self.memory_rate / 1e9:.3g} GB/s"
        )


#: Figures where nothing was measured: a processor of a server, and 10 Gbit/s Ethernet.
DEFAULT = Machine(latency=50e-6, bandwidth=1.25e9, product_rate=60e9, memory_rate=8e9)
#: Figures that must be above zero.
_FIGURES = ("latency", "bandwidth", "product_rate", "memory_rate")


def this_host() -> tuple[str, int]:
    """Return the model of this host's processors, and their number."""
    model = platform.processor() or platform.machine()
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return model, os.cpu_count() or 1


def calibration_file() -> Path:
    """Return the file of this machine's figures, in the user's folder for caches."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = str(Path.home() / "Library" / "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "kpframe" / "machine.json"


def save_machine(machine: Machine, path: Path) -> None:
    """Write the figures of a machine; raises ``OutputError``."""
    make_folder(path.parent)
    write_text(path, json.dumps(asdict(machine), indent=2) + "\n")


def load_machine(path: Path) -> Machine:
    """Return the figures that ``save_machine`` has written.

    Raises:
        ArgumentError: for a file that is missing or holds something else; says what, and how to write it.
    """
    remedy = f"; kpframe plan --calibrate --calibration {path} measures it"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArgumentError(f"calibration {path}: {error.strerror or say(error)}{remedy}") from error
    except ValueError as error:
        raise ArgumentError(f"calibration {path}: expected JSON, got {say(error)}{remedy}") from error
    if problem := _problem(data):
        raise ArgumentError(f"calibration {path}: {problem}{remedy}")
    return Machine(**data)


def _problem(data: Any) -> str:
    """Return what is wrong with the figures of a file; empty for nothing."""
    names = {one.name: one for one in fields(Machine)}
    if not isinstance(data, dict) or set(data) != set(names):
        got = sorted(data) if isinstance(data, dict) else type(data).__name__
        return mismatch("keys", f"exactly {', '.join(names)}", got)
    for name in _FIGURES:
        value = data[name]
        if isinstance(value, bool) or not isinstance(value, int | float):
            return mismatch(name, "a number above 0", repr(value))
        if not (math.isfinite(value) and value > 0):
            return mismatch(name, "a finite number above 0", value)
    for name in ("processors", "ranks"):
        if type(data[name]) is not int or data[name] < 0:
            return mismatch(name, "a whole number >= 0", repr(data[name]))
    for name in ("processor", "torch"):
        if not isinstance(data[name], str):
            return mismatch(name, "a text", repr(data[name]))
    return ""
