"""The page on performance: its tables are those of what was measured."""

from __future__ import annotations

import copy
import json
import runpy
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "tables" / "performance.py"))


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DOCS / "tables" / "performance.json").read_text(encoding="utf-8"))
    return found


def test_the_tables_of_the_page_are_those_of_the_file(made, measured) -> None:
    page = (DOCS / "performance.md").read_text(encoding="utf-8")
    assert made["written"](page, measured) == page, "run: python docs/tables/performance.py"
    changed = copy.deepcopy(measured)
    (row,) = [
        row
        for row in changed["cpu"]["gru"]["rows"]
        if (row["what"], row["form"], row["size"]) == ("Phi", "plain", "20 x 90 x 256")
    ]
    row["ratio"] = 7.25
    found = made["written"](page, changed)
    assert found != page
    assert found.count("7.25") == page.count("7.25") + 2  # in either table


def test_every_piece_was_measured_and_on_what(made, measured) -> None:
    assert set(measured["cpu"]) == set(made["PIECES"])
    for device, pieces in measured.items():
        for piece in pieces.values():
            extra = {"card"} if device == "cuda" else set()
            assert set(piece["machine"]) == {"cores", "threads", "torch", "date"} | extra
            assert {row["form"] for row in piece["rows"]} <= set(made["FORMS"])


def test_a_card_that_was_measured_has_its_tables(made, measured) -> None:
    page = (DOCS / "performance.md").read_text(encoding="utf-8")
    if "cuda" not in measured:
        assert page.count(made["NO_CARD"]) == 1
    rows = [
        {"model": "rnn", "size": "20 x 90 x 256", "form": form, "what": what, "seconds": 1e-3, "ratio": 0.31}
        for form, what in (("plain", "forward and backward"), ("plain", "Phi"), ("cuda_graph", "Phi"))
    ]
    rows += [{**rows[0], "what": "share of the rate", "ratio": 0.5, "rate": 4e13}]
    machine = {"cores": 16, "threads": 2, "torch": "2.13.0", "date": "2026-01-01", "card": "A card"}
    found = made["written"](page, {**measured, "cuda": {"rnn": {"machine": machine, "rows": rows}}})
    assert made["NO_CARD"] not in found
    assert "A card, 16 cores, 2 threads, torch 2.13.0, 2026-01-01" in found
    assert "| | plain | cuda_graph |" in found
    assert "| `rnn`: `Phi q` / `torch.nn.RNN` forward and backward, 20 x 90 x 256 | 0.31 | 0.31 |" in found
    assert made["written"](found, measured) == page


@pytest.mark.slow
def test_a_piece_of_small_sizes(made, monkeypatch) -> None:
    """What is measured, on a cell that takes no time."""
    names = made["measured"].__globals__
    small = names["Size"](2, 3, 4)
    monkeypatch.setitem(names, "WIDE", small)
    monkeypatch.setitem(names, "NARROW", small)
    rows = made["measured"]("wrapped", names["torch"].device("cpu"), 1)
    assert {row["what"] for row in rows} == {
        *("forward and backward", "linearize", "linearize / roll-out", "P", "P*", "J", "J*", "K", "Phi"),
        *("share of the rate", "16 probes / one", "eigenpairs"),
    }
    assert all(row["form"] == "plain" for row in rows)
    assert all(row.get("seconds", 1) > 0 for row in rows)
    assert all(row["ratio"] > 0 for row in rows if "ratio" in row)
