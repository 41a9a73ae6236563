"""The table of networks trained by several rules in docs/rules.md: a script makes it, and it comes again."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import scipy.stats
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = ROOT / "docs" / "tables" / "training_by_rules.py"
    spec = importlib.util.spec_from_file_location("training_by_rules", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_page_shows_the_command_and_its_figures(script: ModuleType) -> None:
    text = (ROOT / "docs" / "rules.md").read_text(encoding="utf-8")
    assert " ".join(text.replace("\\\n", " ").split()).count(script.COMMAND) == 1
    assert text.count(script.table(script.read())) == 1
    assert script.table(script.read()).count("\n") == 4  # three rules below the head


def test_cells_are_means_and_student_intervals(script: ModuleType) -> None:
    rows = script.read()
    for rule in ("bptt", "truncated_bptt(window=5)", "rflo"):
        own = [row for row in rows if row["rule"] == rule]
        assert [int(row["seed"]) for row in own] == list(range(10))
        line = next(line for line in script.table(rows).splitlines() if line.startswith(f"| `{rule}` |"))
        for name, cell in zip(script.COLUMNS, re.findall(r"(\S+) ± (\S+)", line), strict=True):
            values = np.array([float(row[name]) for row in own])
            _, high = scipy.stats.t.interval(0.95, 9, loc=values.mean(), scale=scipy.stats.sem(values))
            unit = 10.0 ** -len(cell[1].partition(".")[2])
            assert float(cell[0]) == pytest.approx(values.mean(), abs=0.5001 * unit)
            assert float(cell[1]) == pytest.approx(high - values.mean(), abs=0.51 * unit)


@pytest.mark.slow
def test_a_quick_run_makes_a_table_of_the_same_form(script: ModuleType) -> None:
    """Two updates, two seeds: other figures in the same places."""
    rows, kept = script.train(steps=2, seeds=2, trials=2, budget=16), script.read()
    assert {(row["rule"], row["seed"]) for row in rows} == {
        (r["rule"], r["seed"]) for r in kept if int(r["seed"]) < 2
    }
    quick, full = script.table(rows).splitlines(), script.table(kept).splitlines()
    assert quick[0] == full[0].replace("seeds 0 to 9", "seeds 0 to 1")
    assert [line.split("|")[1] for line in quick[2:]] == [line.split("|")[1] for line in full[2:]]
    assert quick[2:] != full[2:]
    assert float(rows[0]["test_loss"]) > 2 * float(kept[0]["test_loss"])  # two updates are not three hundred


@pytest.mark.slow
def test_one_seed_comes_again(script: ModuleType) -> None:
    kept = {row["rule"]: row for row in script.read() if row["seed"] == "3"}
    for row in script.train(seed=3, seeds=1):
        for name in script.COLUMNS:
            assert float(row[name]) == pytest.approx(float(kept[row["rule"]][name]), rel=1e-2), (
                row["rule"],
                name,
            )
