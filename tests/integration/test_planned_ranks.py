"""What is planned for several ranks against what ranks do."""

from __future__ import annotations

from typing import Any

import pytest

from kpframe.study._cells import expand
from kpframe.study._running.build import task_of
from kpframe.study._scaling.local_ranks import one_rank
from kpframe.study._scaling.sharded import sharded, trials_of
from kpframe.study._study_file.measured import Share, recorded
from kpframe.study._study_file.reading import parse_study

from ..distributed.ranks import on_ranks  # noqa: TID252

QUANTITIES = ("effective_rank", "trace")
SMALL = {
    "dtype": "float64",
    "task": {"name": "memory_pro", "stimulus": 2, "memory": 2, "response": 2},
    "network": [{"name": "rnn", "hidden_size": 6}],
    "training": {"steps": 2},
    "measure": {"steps": [0, 2], "trials": 4, "budget": 12},
    "quantity": [{"name": name} for name in QUANTITIES],
}
LARGE = {
    **SMALL,
    "dtype": "float32",
    "network": [{"name": "gru", "hidden_size": 24}],
    "measure": {"steps": [0, 2], "trials": 11, "budget": 30, "operators": ["K", "Phi"]},
}
STUDIES = {"small": SMALL, "large": LARGE}


def totals(group: Any, name: str) -> tuple[dict[str, tuple[int, int, int]], int | None]:
    """Return products, collectives and bytes of each quantity on one rank, and its memory."""
    (cell, *_) = expand(parse_study(STUDIES[name], "here"))
    task, problems = task_of(cell), {}
    found = recorded(cell, task, problems, Share(group, trials_of(cell, task)))
    assert problems == {}
    return {
        label: (spent.products, spent.collectives, spent.sent_bytes)
        for label, spent in {**found.quantities, "": found.spent}.items()
    }, found.peak_bytes


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "large")) for name in STUDIES]
)
@pytest.mark.parametrize("ranks", [2, *(pytest.param(ranks, marks=pytest.mark.slow) for ranks in (3, 4))])
def test_products_and_bytes_are_those_of_a_record_on_ranks(name: str, ranks: int) -> None:
    (cell, *_) = expand(parse_study(STUDIES[name], "here"))
    problems: dict[str, None] = {}
    with one_rank() as group:
        planned = sharded(cell, task_of(cell), problems, group)
    assert problems == {}
    assert planned.together == set(QUANTITIES)
    found = on_ranks(ranks, totals, name)
    expected = {**planned.quantities, "": planned.spent}
    for counts, _ in found:
        for label, (products, _, sent_bytes) in counts.items():
            assert products == expected[label].products, label
            assert sent_bytes == pytest.approx(expected[label].sent_bytes, rel=0.05), label
    assert planned.work.sent_bytes > 10 * planned.parameters * (8 if cell.dtype == "float64" else 4)
    for operator, work in planned.operators.items():
        numbers = work.sent_bytes / (8 if cell.dtype == "float64" else 4)
        if operator == "P P*":
            assert numbers <= 4  # whether it is finite
        else:  # biases that act together may go as one
            assert numbers == pytest.approx(planned.parameters, rel=0.05 if name == "large" else 0.15)
