"""The model of times on several ranks, and the figures of a machine that it takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from attrs import asdict, evolve

from kpframe.errors import ArgumentError, RankError
from kpframe.study._scaling.calibrate import SIZES, calibrate, fit_ring
from kpframe.study._scaling.local_ranks import on_local_ranks
from kpframe.study._scaling.machine import DEFAULT, Machine, load_machine, save_machine, this_host
from kpframe.study._scaling.work import Line, Work, table_of

HERE = Machine(1e-5, 1e9, 5e10, 1e10, *this_host(), ranks=2, torch="2")


def test_an_all_reduce_goes_round_a_ring() -> None:
    machine = Machine(latency=1e-3, bandwidth=1e6, product_rate=1.0, memory_rate=1e7)
    # 4 ranks: 6 pieces of a quarter of 4 MB each way, for each of 2 all-reduces of 2 MB; and the copies
    assert machine.all_reduce_seconds(2, 4e6, 4) == pytest.approx(0.4 + 2 * 6 * 1e-3 + 6 * 1.0)
    assert machine.all_reduce_seconds(2, 4e6, 1) == pytest.approx(0.4)
    assert machine.broadcast_seconds(1e6, 5) == pytest.approx(3 * (1e-3 + 1.0))
    assert machine.broadcast_seconds(0, 5) == 0


def test_latency_and_bandwidth_are_found_from_times() -> None:
    made = Machine(latency=2e-4, bandwidth=3e8, product_rate=1.0, memory_rate=float("inf"))
    for ranks in (2, 5):
        times = [made.all_reduce_seconds(1, size, ranks) for size in SIZES]
        assert fit_ring(SIZES, times, ranks) == pytest.approx((2e-4, 3e8))


def test_work_on_ranks_and_where_more_do_not_help() -> None:
    machine = Machine(latency=1e-3, bandwidth=1e6, product_rate=1.0, memory_rate=float("inf"))
    work = Work(64, 6.4, 640.0, Line(0.0, 0.1), Line(100.0, 10.0), collectives=1, sent_bytes=100_000)
    one, four, most = (work.on(ranks, machine) for ranks in (1, 4, 64))
    assert (one.computing, one.communicating, one.memory_bytes, one.efficiency) == (6.4, 0, 640, 1)
    assert (four.trials, four.computing, four.memory_bytes) == (16, pytest.approx(1.6), 260)
    assert four.communicating == pytest.approx(6e-3 + 1.5 * 0.1)
    assert four.efficiency == pytest.approx(6.4 / (4 * (1.6 + 0.156)))
    assert most.trials == 1
    stops = work.stops_at(machine)
    assert stops is not None
    assert work.on(stops, machine).communicating >= work.on(stops, machine).computing
    assert work.on(stops - 1, machine).communicating < work.on(stops - 1, machine).computing
    assert evolve(work, sent_bytes=0, collectives=0).stops_at(machine) is None
    fast = work.faster(2)
    assert (fast.on(1, machine).seconds, fast.on(4, machine).computing) == (3.2, pytest.approx(0.8))


@pytest.mark.parametrize(
    ("few", "many", "line"),
    [
        ((2, 3.0), (4, 5.0), Line(1.0, 1.0)),
        ((2, 6.0), (4, 5.0), Line(5.0, 0.0)),  # noise
        ((2, 1.0), (4, 5.0), Line(0.0, 1.25)),  # more than in proportion
        ((1, 3.0), (1, 3.0), Line(0.0, 3.0)),
    ],
)
def test_a_line_has_no_part_below_zero(few, many, line) -> None:
    assert Line.through(few, many) == line
    assert line.at(many[0]) == pytest.approx(many[1])


def test_the_ranks_of_a_table() -> None:
    assert (table_of(1), table_of(8), table_of(12)) == ((1,), (1, 2, 4, 8), (1, 2, 4, 8, 12))


def test_figures_are_kept_and_known_again(tmp_path: Path) -> None:
    path = tmp_path / "caches" / "machine.json"
    save_machine(HERE, path)
    assert load_machine(path) == HERE
    assert HERE.of_this_host
    assert not evolve(HERE, processors=HERE.processors + 1).of_this_host
    assert not evolve(HERE, processor="another").of_this_host
    assert not DEFAULT.measured


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latency": 0}, "latency: expected a finite number above 0, got 0"),
        ({"bandwidth": "fast"}, "bandwidth: expected a number above 0, got 'fast'"),
        ({"memory_rate": float("nan")}, "memory_rate: expected a finite number above 0, got nan"),
        ({"product_rate": True}, "product_rate: expected a number above 0, got True"),
        ({"ranks": -1}, "ranks: expected a whole number >= 0, got -1"),
        ({"processor": None}, "processor: expected a text, got None"),
        ({"speed": 1}, "keys: expected exactly latency, bandwidth"),
    ],
)
def test_files_that_hold_something_else(tmp_path: Path, change, message) -> None:
    path = tmp_path / "machine.json"
    path.write_text(json.dumps({**asdict(HERE), **change}))
    with pytest.raises(ArgumentError, match="--calibrate --calibration") as caught:
        load_machine(path)
    assert message in str(caught.value)


def test_files_that_are_missing_or_no_json(tmp_path: Path) -> None:
    path = tmp_path / "machine.json"
    with pytest.raises(ArgumentError, match="No such file"):
        load_machine(path)
    path.write_text("{")
    with pytest.raises(ArgumentError, match="expected JSON"):
        load_machine(path)


def fails_on_one(group: object) -> None:
    from torch import distributed

    if distributed.get_rank() == 1:
        raise ArithmeticError("it cannot")
    distributed.barrier()


@pytest.mark.slow
def test_this_machine_is_measured() -> None:
    found = calibrate(2, runs=3)
    assert found.of_this_host
    assert 1e-6 < found.latency < 0.1
    assert 1e6 < found.bandwidth < 1e12
    assert 1e8 < found.product_rate < 1e13
    assert 1e7 < found.memory_rate < 1e13


@pytest.mark.slow
def test_a_rank_that_fails_ends_the_others() -> None:
    with pytest.raises(RankError, match="rank 1: ArithmeticError: it cannot"):
        on_local_ranks(2, fails_on_one)
