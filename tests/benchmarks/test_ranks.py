"""What ranks cost: ``python tests/benchmarks/test_ranks.py [FILE.json]``, or ``pytest --slow``.

1. ``Phi q`` at 200 x 100 x 256 on two ranks of one thread each, beside one process of two threads, in pairs.
2. A record of a small and of a large study on 1, 2 and 4 ranks of this machine, beside what ``kpframe plan``
   says of it: products, bytes, memory and time. Four ranks share the processors of a machine with fewer.

Ranks are of CPUs and speak gloo. A file that is named is written; docs/tables/scale.py reads it.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

from kpframe.study._bench.products import Size
from kpframe.study._bench.ranks import rank_row
from kpframe.study._cells import expand
from kpframe.study._running.build import task_of
from kpframe.study._scaling.calibrate import calibrate
from kpframe.study._scaling.local_ranks import on_local_ranks, one_rank
from kpframe.study._scaling.machine import Machine
from kpframe.study._scaling.sharded import sharded, trials_of
from kpframe.study._study_file.measured import Share, recorded
from kpframe.study._study_file.reading import parse_study

pytestmark = pytest.mark.slow
RANKS = (1, 2, 4)


def study(hidden: int, steps: int, trials: int, budget: int) -> dict[str, Any]:
    """Return a study of an RNN that remembers an angle."""
    return {
        "task": {"name": "memory_pro", "stimulus": steps // 4, "memory": steps // 2, "response": steps // 4},
        "network": [{"name": "rnn", "hidden_size": hidden}],
        "training": {"steps": 1},
        "measure": {"steps": [0, 1], "trials": trials, "budget": budget},
        "quantity": [{"name": "effective_rank"}, {"name": "trace"}],
    }


STUDIES = {"small": study(16, 12, 8, 8), "large": study(128, 80, 48, 8)}


def measured(group: Any, table: dict[str, Any], runs: int) -> dict[str, float]:
    """Return what a record takes on one rank, of which the time is that until all ranks have ended."""
    (cell, *_) = expand(parse_study(table, "here"))
    task = task_of(cell)
    share = Share(group, trials_of(cell, task))
    times = []
    for _ in range(runs + 1):
        distributed.barrier(group)
        found = recorded(cell, task, {}, share)
        started = time.perf_counter()
        distributed.barrier(group)
        times.append(found.spent.seconds + time.perf_counter() - started)
    return {
        "seconds": statistics.median(times[1:]),
        "products": found.spent.products,
        "bytes": found.spent.sent_bytes,
        "memory": found.peak_bytes or 0,
    }


def beside(name: str, machine: Machine, runs: int) -> list[dict[str, Any]]:
    """Return what was planned for a record of a study, and what it took, by number of ranks."""
    (cell, *_) = expand(parse_study(STUDIES[name], "here"))
    torch.set_num_threads(1)
    with one_rank() as group:
        sharded(cell, task_of(cell), {}, group)  # warm-up
        planned = sharded(cell, task_of(cell), {}, group)
    rows = []
    for ranks in RANKS:
        found = on_local_ranks(ranks, measured, STUDIES[name], runs)
        on = planned.work.on(ranks, machine)
        crowded = max(1.0, ranks / (os.cpu_count() or 1))
        rows.append(
            {
                "study": name,
                "parameters": planned.parameters,
                "trials": planned.work.trials,
                "ranks": ranks,
                "products": [planned.spent.products, max(one["products"] for one in found)],
                "bytes": [planned.spent.sent_bytes, max(one["bytes"] for one in found)],
                "memory": [on.memory_bytes, max(one["memory"] for one in found)],
                "seconds": [crowded * on.computing + on.communicating, max(one["seconds"] for one in found)],
            }
        )
    return rows


def main(path: Path | None = None, runs: int = 3) -> dict[str, Any]:
    """Measure all of it; print it, and write it where a path is given."""
    machine = calibrate(2)
    found: dict[str, Any] = {"machine": machine.host, "figures": machine.text(), "torch": torch.__version__}
    row = rank_row("rnn", Size(200, 100, 256), 2, runs=5 * runs, dtype=torch.float32)
    found["pairs"] = row.to_dict()
    found["records"] = [row for name in STUDIES for row in beside(name, machine, runs)]
    text = json.dumps(found, indent=2) + "\n"
    print(text)
    if path is not None:
        path.write_text(text, encoding="utf-8")
    return found


def test_counts_are_those_that_were_planned() -> None:
    for row in main(runs=1)["records"]:
        for name in ("products", "bytes"):
            planned, took = row[name]
            assert took == pytest.approx(planned, rel=0.05)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
