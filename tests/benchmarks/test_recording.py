"""Times of recording: ``python tests/benchmarks/test_recording.py [steps [threads]]``, or ``pytest --slow``.

A GRU of 100 units on 50 trials of 90 steps, in float32: ranks, ten eigenfunctions averaged over trials, and
alignments with all other steps, of K, P P* and Phi, written as a run writes them: a checkpoint and a record
a step, and at the end what follows from all of them. Prints seconds per recorded step, by the clock and by
the processors, and the share of each part.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import xarray as xr

import kpframe
from kpframe.study import Moment, Probe, Quantity, Surroundings, _record, create_quantity
from kpframe.study._disk.folder import RunWriter
from kpframe.study._record import write_step

pytestmark = pytest.mark.slow

BUDGET, K = 12, 10
QUANTITIES = {
    "effective_rank": {},
    "views": {"k": K, "tolerance": 0.1, "budget": 4},
    "alignment": {},
}


def moments(steps: int, trials: int = 50, length: int = 90, hidden: int = 100):
    """Yield the network at steps of a training, of which a random walk of the weights takes the place."""
    torch.manual_seed(0)
    cell = kpframe.create_model("gru", input_size=3, hidden_size=hidden, seed=0)
    readout = kpframe.Readout(hidden, 3, generator=0)
    inputs = torch.randn(trials, length, 3)
    around = Surroundings({"test": Probe(inputs)}, budget=BUDGET, same_probes=True)
    for step in range(steps):
        with torch.no_grad():
            for parameter in cell.parameters():
                parameter.add_(0.02 * parameter.std() * torch.randn_like(parameter))
        yield Moment(cell, readout, around, step=step)


def recorded(folder: Path, steps: int, **sizes: int) -> tuple[xr.Dataset, dict[str, list[float]]]:
    """Return the records, and seconds of the clock and of the processors by part.

    Quantities are measured at once, in several threads: each has seconds of the processors alone, and the
    clock of all of them is one part.
    """
    quantities: dict[str, Quantity] = {
        name: create_quantity(name, **settings) for name, settings in QUANTITIES.items()
    }
    parts = ("linearize", "measuring", *quantities, "merging and writing", "across")
    spent = {name: [0.0, 0.0] for name in parts}

    def timed(name: str, work: Callable, within: str | None = None):
        """Do some work; ``within`` whose seconds it is done, for those to be taken off."""
        before = time.perf_counter(), time.process_time()
        found = work()
        for place, seconds in enumerate((time.perf_counter() - before[0], time.process_time() - before[1])):
            spent[name][place] += seconds
            if within is not None:
                spent[within][place] -= seconds
        return found

    def in_a_thread(name: str, work: Callable):
        before = time.thread_time()
        found = work()
        spent[name][1] += time.thread_time() - before
        return found

    for name, quantity in quantities.items():
        of = quantity.of
        quantity.of = lambda *args, name=name, of=of: in_a_thread(name, lambda: of(*args))
    all_at_once = _record.found_of
    _record.found_of = lambda wanted: timed(
        "measuring", lambda: all_at_once(wanted), within="merging and writing"
    )
    try:
        writer = RunWriter(folder, "benchmark", {"title": "recording"})
        rows: list[xr.Dataset] = []
        for moment in moments(steps, **sizes):
            timed("linearize", lambda moment=moment: moment.flow)
            write = lambda m=moment: write_step(writer, "cell", m, quantities, name="gru", settings={})  # noqa: E731
            rows.append(timed("merging and writing", write))
    finally:
        _record.found_of = all_at_once
    data = xr.concat(rows, dim=xr.Variable("step", range(steps)), join="outer", data_vars="all")
    after = timed("across", lambda: [quantity.across(data) for quantity in quantities.values()])
    found = [data, *(one for one in after if one is not None)]
    return xr.merge(found, compat="no_conflicts", join="outer"), spent


def report(steps: int, spent: dict[str, list[float]]) -> str:
    """Return the table."""
    clock, processors = (
        sum(column) for column in zip(*(s for n, s in spent.items() if n not in QUANTITIES), strict=True)
    )
    lines = [f"{steps} steps: {clock / steps:.2f} s a step by the clock, {processors / steps:.2f} s of CPU"]
    for name, (seconds, cpu) in spent.items():
        shown = f"{'':10}" if name in QUANTITIES else f"{seconds / steps:8.2f} s"
        name = f"  {name}" if name in QUANTITIES else name
        lines.append(f"  {name:<20}{shown} {cpu / steps:7.2f} s CPU {cpu / processors:6.1%}")
    return "\n".join(lines)


def test_a_recording_is_complete(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, spent = recorded(tmp_path, 2, trials=6, length=20, hidden=16)
    with capsys.disabled():
        print("\n" + report(2, spent))
    assert dict(data.view_function.sizes) == {
        "step": 2,
        "operator": 3,
        "view_mode": K,
        "time": 20,
        "hidden": 16,
    }
    assert bool((data.alignment_with_first.isel(step=1) > 0.5).all())
    assert bool(data.view_converged.all())
    assert sorted(path.suffix for path in tmp_path.rglob("*.*") if path.is_file()) == [
        *[".nc"] * 2,
        *[".safetensors"] * 2,
    ]


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[2]) if len(sys.argv) > 2 else 2)
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    with tempfile.TemporaryDirectory() as folder:
        data, spent = recorded(Path(folder), count)
    print(report(count, spent))
    print(data.view_converged.sum("view_mode").values.tolist(), "of", K, "eigenfunctions have converged")
    print(data.effective_rank.values, data.effective_rank_stderr.values)
    print(data.alignment_with_first.values, data.alignment_with_first_stderr.values)
    print(data.view_explained.isel(step=0).values.round(3))
    print(f"{data.nbytes / count / 2**20:.1f} MiB a step")
