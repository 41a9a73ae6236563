"""The page on scale: its tables are those that the model of ``kpframe plan`` makes."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from kpframe.study._scaling.machine import Machine
from kpframe.study._scaling.on_paper import product_on_paper

DOCS = Path(__file__).parents[2] / "docs"


def test_the_tables_of_the_page_are_up_to_date() -> None:
    made = runpy.run_path(str(DOCS / "tables" / "scale.py"))
    page = (DOCS / "scale.md").read_text(encoding="utf-8")
    assert made["written"](page) == page
    assert page.count("| large, 48 trials") == 3


@pytest.mark.parametrize("probes", [1, 16])
def test_ranks_stop_helping_at_so_many_steps_as_operations_take_to_send_a_byte(probes) -> None:
    """b T = rate / bandwidth, whatever the parameters and the probes."""
    machine = Machine(latency=1e-12, bandwidth=1e9, product_rate=1e11, memory_rate=1e18)
    for parameters in (10**6, 10**9):
        work = product_on_paper(parameters, 1000, 400_000, 1, probes, machine)
        stops = work.stops_at(machine)
        assert stops is not None
        assert 400_000 / stops == pytest.approx(100, rel=0.03)
        assert work.sent_bytes == 4 * probes * parameters
