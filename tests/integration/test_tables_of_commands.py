"""Each command that prints a table: names and numbers are whole at any width, a row is a line in a pipe."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kpframe.cli import _app as app
from kpframe.cli import _tables
from kpframe.cli._tables import PlainTable

STUDY = """
title = "Tables"
task = { name = "memory_pro", fixation = 1, stimulus = 1, memory = 1, response = 2, grace = 0 }
network = [{ name = "rnn", label = "a network with a name of several words", hidden_size = 3 }]
training = { steps = 2, batch_size = 2 }
measure = { steps = [0, 2], trials = 2, budget = 16 }
quantity = [{ name = "scores" }, { name = "effective_rank" }]
"""
RULE = 'frozen(parameters=["weight_hh_l0"]) @ truncated_bptt(window=1)'


@pytest.mark.slow
def test_names_and_numbers_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All tables of a run of each command, laid out anew at each width."""
    seen: list[PlainTable] = []

    class Console(_tables.PlainConsole):
        def print(self, *objects: str | PlainTable) -> None:
            seen.extend(one for one in objects if isinstance(one, PlainTable))
            super().print(*objects)

    monkeypatch.setattr(_tables, "PlainConsole", Console)
    before, study, run = torch.get_num_threads(), tmp_path / "study.toml", tmp_path / "run"
    study.write_text(STUDY)
    train = ["train", "--rule", "bptt", "--rule", RULE, "--model", "rnn", "--set", "hidden_size=3"]
    train += ["--task", "memory_pro", "--steps", "2", "--trials", "2", "--budget", "16"]
    compare = ["compare", str(run), "--last", "--rules", f"bptt; {RULE}"]
    for command in (
        ["run", str(study), "--dry-run"],
        ["run", str(study), "--output", str(run)],
        ["status", str(run)],
        [*train, "--output", str(tmp_path / "train")],
        [*compare, "--trials", "2", "--budget", "16", "--output", str(tmp_path / "compare")],
        ["analyze", str(run), "--trials", "2", "--output", str(tmp_path / "analyze")],
        ["verify", "rule:bptt", "--examples", "1"],
        ["bench", "wrapped cell", "--size", "2x3x4", "--runs", "1", "--no-spectra"],
        ["plugins"],
        ["show", "task:memory_pro"],
    ):
        count = len(seen)
        assert app.run(command) == 0, command
        rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
        assert len(seen) > count or command[0] == "run", command
        for table in seen[count:]:
            assert table.columns in rows
            assert all(row in rows for row in table.rows)
    torch.set_num_threads(before)
    assert len(seen) >= 9
    for width in (40, 80, 200):
        for table in seen:
            lines = list(table.lines(width))
            for row in table.rows:
                for cell, prose in zip(row, table.prose, strict=True):
                    for part in cell.split() if prose else [cell]:
                        assert any(part in line for line in lines), (width, part)
