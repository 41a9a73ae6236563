"""Times of whole commands: ``python tests/benchmarks/test_commands.py [NAME ...]``, or ``pytest --slow``.

Each command is a process of its own, as on a terminal. Prints seconds of the clock and of the processors of
all its processes together, and for the demo when it came to what: importing, training and recording, the
page. The names are ``help``, ``quick``, ``demo``, ``train`` and ``compare``; all but ``demo`` by default.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

TRAIN = (
    *("train", "--model", "gru", "--set", "hidden_size=32", "--task", "digits", "--steps", "100"),
    *(part for rule in ("bptt", "truncated_bptt(window=2)") for part in ("--rule", rule)),
)
COMMANDS = {
    "help": ("--help",),
    "quick": ("demo", "--quick"),
    "train": TRAIN,
    "compare": (
        "compare",
        "trained",
        "--last",
        "--rules",
        "truncated_bptt(window=2);truncated_bptt(window=4)",
    ),
    "demo": ("demo",),
}
#: Files that show how far a demo is, and what has ended once the first or all of them are there.
MARKS = {
    "run.json": "importing and checking",
    "training/RNN.nc": "the RNN",
    "training/GRU.nc": "the GRU",
    "results.nc": "merging and writing",
    "report.html": "the page",
}


def timed(name: str, folder: Path) -> dict[str, float]:
    """Return seconds: of the clock, of the processors, and of the clock until each mark of a demo."""
    output = folder / ("trained" if name == "train" else name)
    arguments = [str(folder / part) if part == "trained" else part for part in COMMANDS[name]]
    if name != "help":
        arguments += ["--output", str(output)]
    code = "from kpframe.cli import main; main()"
    before, began = os.times(), time.perf_counter()
    found: dict[str, float] = {}
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments], stdout=subprocess.DEVNULL, stderr=said
        )
        while process.poll() is None:
            for file, ended in MARKS.items() if "demo" in arguments else ():
                if ended not in found and (output / file).exists():
                    found[ended] = time.perf_counter() - began
            time.sleep(0.01)
        said.seek(0)
        assert process.returncode == 0, said.read().decode()
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return {"clock": time.perf_counter() - began, "processors": spent} | found


@pytest.mark.parametrize("names", [("help",), ("quick",), ("demo",), ("train", "compare")], ids="-".join)
def test_commands(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        show(name, timed(name, tmp_path))


def show(name: str, found: dict[str, float]) -> None:
    first, *rest = (f"{what} {seconds:.2f} s" for what, seconds in found.items())
    print(f"{name}: {first}, {', '.join(rest)}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        for chosen in sys.argv[1:] or [name for name in COMMANDS if name != "demo"]:
            show(chosen, timed(chosen, Path(place)))
