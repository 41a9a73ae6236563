"""Work in several threads gives what it gives in one; errors and interrupts come out of it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from kpframe import MatrixOperator
from kpframe.operators._count import counted_products
from kpframe.study import Moment, Probe, Surroundings, create_quantity
from kpframe.study._record import record
from kpframe.study._workers import side_by_side, torch_threads, workers

QUANTITIES = {
    "effective_rank": {},
    "trace": {},
    "norm": {},
    "spectrum": {"k": 2},
    "views": {"k": 3},
    "time_kernel": {},
    "trial_kernel": {},
    "alignment": {},
}


def moment_of(offered, seed: int = 0) -> Moment:
    torch.manual_seed(2)
    inputs = torch.randn(5, 4, 2, generator=torch.Generator().manual_seed(1))
    operators = ("P P*", "K", "P K", "Phi")
    return Moment(
        offered.Small(2),
        None,
        Surroundings({"test": Probe(inputs)}, operators=operators, budget=12, seed=seed),
    )


def recorded(moment: Moment, at_once: int, inside: int = 1, names=tuple(QUANTITIES)):
    """Return what is recorded, and how many products that took."""
    made = {name: create_quantity(name, **QUANTITIES[name]) for name in names}
    with torch_threads(inside, at_once), counted_products() as count:
        return record(moment, made), count.products


def test_figures_do_not_depend_on_the_number_of_threads(offered) -> None:
    one, products = recorded(moment_of(offered), 1)
    assert set(one.quantity_failure.values) == {""}
    for at_once, inside in ((2, 1), (3, 2)):
        several, number = recorded(moment_of(offered), at_once, inside)
        assert one.identical(several)
        assert number == products > 200
    names = ("effective_rank", "views")
    parts = [recorded(moment_of(offered, seed=seed), 2, names=names)[0] for seed in (0, 0, 1)]
    assert [parts[0].identical(part) for part in parts] == [True, True, False]


@contextlib.contextmanager
def anomalies() -> Iterator[None]:
    with pytest.warns(UserWarning, match="Anomaly"), torch.autograd.detect_anomaly():
        yield


SURROUNDINGS = {
    "inference": torch.inference_mode,
    "no_grad": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "device": lambda: torch.device("meta"),
    "anomaly": anomalies,
}


@pytest.mark.parametrize("name", SURROUNDINGS)
@pytest.mark.rows(3)
def test_what_surrounds_a_recording_changes_no_figure_of_threads(offered, name: str) -> None:
    names = ("effective_rank", "views", "time_kernel")
    plain, _ = recorded(moment_of(offered), 3, names=names)
    inside = moment_of(offered)
    with SURROUNDINGS[name]():
        assert plain.identical(recorded(inside, 3, names=names)[0])


def test_no_quantity_waits_for_another_one_and_an_error_costs_its_own_alone(offered) -> None:
    """Two quantities are at different operators at once; those of remembered products are so in turn."""
    rank, views, trace = (create_quantity(name) for name in ("effective_rank", "views", "trace"))
    meeting, order = threading.Barrier(2), []
    of_rank, of_views, of_trace = rank.of, views.of, trace.of

    def fails(moment: Moment, place: int, operator: object) -> object:
        order.append(("rank", place))
        if place == 0:
            meeting.wait(10)  # breaks, and so fails in another way, if no other quantity has begun
            raise ArithmeticError("no rank today")
        return of_rank(moment, place, operator)

    def meets(moment: Moment, place: int, operator: object) -> object:
        if place == 1:
            meeting.wait(10)
        return of_views(moment, place, operator)

    def follows(moment: Moment, place: int, operator: object) -> object:
        order.append(("trace", place))
        return of_trace(moment, place, operator)

    rank.of, views.of, trace.of = fails, meets, follows
    moment = moment_of(offered)
    with torch_threads(1, 4):
        data = record(moment, {"effective_rank": rank, "views": views, "trace": trace})
    failures = dict(zip(data.quantity.values, data.quantity_failure.values, strict=True))
    assert "no rank today" in failures["effective_rank"]
    assert (failures["views"], failures["trace"]) == ("", "")
    assert "effective_rank" not in data
    assert bool(data.trace.notnull().all())
    assert all(order.index(("rank", place)) < order.index(("trace", place)) for place in range(4))


def test_tasks_see_gradients_and_numpy_as_the_caller_does() -> None:
    def seen() -> tuple[bool, str, int]:
        return torch.is_grad_enabled(), np.geterr()["over"], torch.get_num_threads()

    for gradients, over in ((True, "raise"), (False, "ignore")):
        with torch.set_grad_enabled(gradients), np.errstate(over=over):
            assert side_by_side([seen] * 3, 3) == side_by_side([seen] * 3, 1) == [(gradients, over, 1)] * 3


def test_threads_are_as_many_as_asked_for_and_do_not_multiply() -> None:
    barrier = threading.Barrier(2)

    def name() -> str:
        return threading.current_thread().name

    def names() -> set[str]:
        barrier.wait(10)  # two are here at once
        return {
            threading.current_thread().name,
            *side_by_side([lambda: threading.current_thread().name] * 3, 3),
        }

    found = side_by_side([names] * 4, 2)
    assert [len(one) for one in found] == [1] * 4
    assert len(set().union(*found)) == 2
    before = torch.get_num_threads()
    with torch_threads(5):
        assert (torch.get_num_threads(), workers()) == (5, 5)
        with torch_threads(1):
            assert (torch.get_num_threads(), workers()) == (1, 5)
        with torch_threads(2, at_once=1):
            assert (torch.get_num_threads(), workers()) == (2, 2)
    assert (torch.get_num_threads(), workers()) == (before, before)


def test_the_first_error_comes_out_and_what_is_behind_it_is_not_begun() -> None:
    begun = []

    def task(place: int) -> int:
        begun.append(place)
        if place == 1:
            time.sleep(0.2)  # fails after the one behind it
        if place in (1, 2):
            raise ValueError(place)
        return place

    tasks = [lambda place=place: task(place) for place in range(4)]
    with pytest.raises(ValueError, match=r"^1$"):
        side_by_side(tasks, 2, [2, 1, 0, 3])
    assert set(begun) == {0, 1, 2}
    assert side_by_side(tasks[:1] * 3, 2) == [0, 0, 0]


def test_an_interrupt_ends_all_threads_with_the_product_that_they_are_at() -> None:
    operator = MatrixOperator(torch.eye(3))
    going = threading.Barrier(3)

    def task() -> None:
        going.wait(10)
        for _ in range(10_000):
            operator(torch.ones(3))
            time.sleep(0.01)

    def interrupt() -> None:
        going.wait(10)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background of a shell
    try:
        threading.Thread(target=interrupt).start()
        begun = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            side_by_side([task] * 3, 2)
        assert time.monotonic() < begun + 50  # of the 100 s that a task would take
    finally:
        signal.signal(signal.SIGINT, before)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("kpframe")]
    assert torch.equal(operator(torch.ones(3)), torch.ones(3))  # here products go on
