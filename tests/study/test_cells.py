"""The trainings that a study comes to: their order, their names, and what they share."""

from __future__ import annotations

import re
from typing import Any

import pytest

from kpframe.errors import SettingsError
from kpframe.study._cells import Cell, expand
from kpframe.study._study_file.reading import bundled_study, parse_study

BASE: dict[str, Any] = {
    "task": {"name": "sum"},
    "network": [{"name": "small", "label": "A"}, {"name": "small", "label": "B", "width": 2}],
    "training": {"steps": 4},
    "measure": {"steps": [0, 4]},
}


def cells_of(**changes: Any) -> list[Cell]:
    return expand(parse_study({**BASE, **changes}, "here"))


def by_name(cells: list[Cell]) -> dict[str, Cell]:
    return {cell.name: cell for cell in cells}


def test_the_demo_has_the_files_that_it_has_always_had() -> None:
    cells = expand(bundled_study("demo"))
    assert [cell.name for cell in cells] == ["GRU", "RNN"]
    assert [dict(cell.coordinates) for cell in cells] == [{"network": "GRU"}, {"network": "RNN"}]
    assert [(cell.seed, cell.rule, cell.initial_of) for cell in cells] == [(0, None, None)] * 2


def test_order_is_network_rule_sweep_seed() -> None:
    cells = cells_of(
        training={"steps": 4, "rules": ["exact", "short"]},
        rule=[{"name": "window", "label": "short", "span": 2}],
        seeds=[7, 8],
        sweep={"network.gain": [0.5, 1], "b": {"path": "training.batch_size", "values": [1, 2]}},
    )
    assert [list(cell.coordinates) for cell in cells] == [["network", "trained_by", "gain", "b", "seed"]] * 32
    places = [tuple(cell.coordinates.values()) for cell in cells]
    every = [
        (network, rule, gain, batch, seed)
        for network in "AB"
        for rule in ("exact", "short")
        for gain in (0.5, 1.0)
        for batch in (1, 2)
        for seed in (7, 8)
    ]
    assert places == every
    last = cells[-1]
    assert last.name == "B-short-gain=1.0-b=2-seed=8"
    assert last.label == "B, short, gain 1.0, b 2, seed 8"
    assert last.network.settings == {"width": 2, "gain": 1.0}
    assert (last.training.batch_size, last.seed, last.rule) == (2, 8, "window(span=2)")
    assert cells[0].training.batch_size == 1


def test_a_path_leads_to_one_network_to_the_task_and_to_a_rule() -> None:
    cells = cells_of(
        rule=[{"name": "window", "label": "r"}],
        sweep={
            "network.B.width": [3, 4],
            "task.delay": [1, 2],
            "rule.r.span": [5, 6],
            "measure.budget": [8, 9],
            "network.A.reads": ["h", "c"],
        },
    )
    assert len(cells) == 2 * 2**5
    for cell in cells:
        place = cell.coordinates
        own = {} if place["network"] == "A" else {"width": place["width"]}
        assert cell.network.settings == own
        assert cell.network.reads == (place["reads"] if place["network"] == "A" else None)
        assert cell.task_settings == {"delay": place["delay"]}
        assert cell.rules[0].settings == {"span": place["span"]}
        assert cell.measure.budget == place["budget"]
    assert parse_study(BASE, "here").networks[1].settings == {"width": 2}  # the study itself is left alone


def test_what_a_sweep_varies_nothing_of_is_trained_once() -> None:
    cells = cells_of(seeds=2, sweep={"network.B.width": [3, 4, 5]})
    same = {cell.name: cell.same_as for cell in cells if cell.same_as is not None}
    assert same == {
        f"A-width={width}-seed={seed}": f"A-width=3-seed={seed}" for width in (4, 5) for seed in (0, 1)
    }
    assert len(cells) == 12
    assert {cell.steps for cell in cells if cell.name in same} == {()}
    assert {cell.steps for cell in cells if cell.name not in same} == {(0, 4)}
    of_all = cells_of(sweep={"network.width": [3, 4]})
    assert [cell.same_as for cell in of_all] == [None] * 4


def test_one_seed_is_no_coordinate_and_several_are() -> None:
    assert [cell.name for cell in cells_of(seed=5)] == ["A", "B"]
    assert [cell.seed for cell in cells_of(seed=5)] == [5, 5]
    assert [cell.name for cell in cells_of(seeds=[5, 3])][:2] == ["A-seed=5", "A-seed=3"]


def test_names_are_for_files_unique_and_of_the_cell_alone() -> None:
    labels = ["a", "A", "<b>x/y</b>", "../up", "x" * 90, "x" * 91, "a-b", "a-b=1"]
    cells = cells_of(network=[{"name": "small", "label": label} for label in labels])
    names = [cell.name for cell in cells]
    assert all(re.fullmatch(r"[A-Za-z0-9_.=-]{1,69}", name) for name in names), names
    assert len({name.casefold() for name in names}) == len(labels)
    assert names[-2:] == ["a-b", "a-b=1"]
    # those of a study of fewer networks, rules and values are the same
    assert {cell.name for cell in cells_of(seeds=[1, 2])} < {cell.name for cell in cells_of(seeds=[0, 1, 2])}
    kept = cells_of(network=[{"name": "small", "label": label} for label in labels[2:5]])
    assert [cell.name for cell in kept] == names[2:5]


def test_two_places_whose_texts_are_one_have_names_of_their_own() -> None:
    cells = cells_of(
        network=[{"name": "small", "label": label} for label in ("a", "a-b")],
        training={"steps": 4, "rules": ["b-c", "c"]},
        rule=[{"name": "window", "label": "b-c"}],
    )
    assert [tuple(c.coordinates.values()) for c in cells][1:3] == [("a", "c"), ("a-b", "b-c")]
    assert len({cell.name for cell in cells}) == 4  # "a" by "b-c" and "a-b" by "c" would both be a-b-c


def test_what_starts_alike_is_recorded_once_at_step_0() -> None:
    rules = {"steps": 4, "rules": ["one", "two"]}
    cells = by_name(cells_of(training=rules, seeds=2, sweep={"training.batch_size": [1, 2]}))
    for name, cell in cells.items():
        first = f"{cell.coordinates['network']}-one-batch_size=1-seed={cell.seed}"
        assert cell.initial_of == (None if name == first else first)
        assert cell.steps == ((0, 4) if name == first else (4,))


@pytest.mark.parametrize(
    "sweep",
    [
        {"network.gain": [1, 2]},
        {"task.delay": [1, 2]},
        {"measure.budget": [10, 20]},
        # what an update would do depends on the step size, which a moment knows
        {"training.learning_rate": [0.1, 0.2]},
        {"rule.r.span": [1, 2]},
    ],
)
def test_what_differs_at_the_start_is_recorded_at_each(sweep: dict[str, Any]) -> None:
    cells = cells_of(rule=[{"name": "window", "label": "r"}], sweep=sweep)
    assert [cell.initial_of for cell in cells] == [None] * 4


def test_without_step_0_nothing_is_shared() -> None:
    cells = cells_of(training={"steps": 4, "rules": ["one", "two"]}, measure={"steps": [4]})
    assert [cell.initial_of for cell in cells] == [None] * 4
    assert [cell.steps for cell in cells] == [(4,)] * 4


def test_trainings_end_no_sooner_than_their_last_recorded_step() -> None:
    cells = cells_of(sweep={"training.steps": [4, 9]})
    assert [cell.training.steps for cell in cells] == [4, 9, 4, 9]
    with pytest.raises(SettingsError, match=r"measure.steps\[1\]: .* from 0 to 3, .* got 4"):
        cells_of(sweep={"training.steps": [4, 3]})
