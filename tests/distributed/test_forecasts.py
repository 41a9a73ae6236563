"""Forecasts, stable rates and sharpness of a sharded flow against those of one process."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from attrs import evolve
from torch import distributed

import kpframe
from kpframe.errors import ArgumentError, KpframeError, NonFiniteError, RankError
from kpframe.forecast import _forecast, forecast, output_kernel, sharpness, stable_rate
from kpframe.tasks import Trials

from ..toy_moments import F64, B, Cell, H, O, trials_of  # noqa: TID252
from .agreement import assert_same, raised
from .ranks import on_ranks

COUNTS = {1: [6], 2: [5, 1], 3: [3, 2, 1]}
ETA, UPDATES = 0.2, (0, 3, 15)
#: Loss, law, whether the matrix of Theta is made, whether the last rank has a step that is scored.
CASES = [
    ("mse", "flow", False, False),
    ("cross_entropy", "descent", False, True),
    ("cross_entropy", "flow", True, False),
    ("mse", "descent", True, True),
    ("mse", "descent", False, True),
    ("cross_entropy", "descent", True, True),
]


def whole_trials(loss: Any, scored: bool = True) -> Trials:
    trials = trials_of(loss)
    return evolve(trials, scored=trials.scored & (scored | (torch.arange(B) < B - 1)[:, None]))


def here(trials: Trials, group: Any = None, counts: list[int] | None = None) -> tuple[Any, ...]:
    """Return a flow, its readout and its trials: of this rank, where there is a group."""
    if counts is not None:
        ends = list(itertools.accumulate(counts, initial=0))
        rank = distributed.get_rank(group)
        trials = trials.select(slice(ends[rank], ends[rank + 1]))
    flow = kpframe.linearize(Cell(), trials.inputs, mask=trials.mask, group=group)
    return flow, kpframe.Readout(H, O, generator=5, dtype=F64), trials


def figures(case: tuple[Any, ...], *place: Any) -> dict[str, Any]:
    """Return a forecast, of this rank's trials where there are ranks, the stable rate and the sharpness."""
    loss, law, dense, scored = case
    flow, readout, trials = here(whole_trials(loss, scored), *place)
    known = _forecast.DENSE, _forecast.DENSE_ITERATED
    if not dense:
        _forecast.DENSE = _forecast.DENSE_ITERATED = 1
    try:
        made = forecast(flow, readout, trials, loss, learning_rate=ETA, updates=UPDATES, law=law)
    finally:
        _forecast.DENSE, _forecast.DENSE_ITERATED = known
    rate = stable_rate(flow, readout, trials, loss, budget=30, generator=torch.Generator().manual_seed(2))
    sharp = sharpness(flow, readout, trials, loss)
    return {
        "outputs": made.outputs.numpy(),
        "losses": made.losses.tolist(),
        "bounds": made.error_norms.tolist(),
        "rates": [made.stable_rate, rate.rate, rate.curvature, sharp.value],
        "flags": [*made.converged.tolist(), rate.converged, sharp.converged, made.stable],
        "how": [made.method, made.num_matvecs, rate.method, rate.num_matvecs, sharp.num_matvecs],
    }


def every_case(group: Any, counts: list[int], cases: list[tuple[Any, ...]]) -> list[dict[str, Any]]:
    return [figures(case, group, counts) for case in cases]


@pytest.mark.parametrize(
    ("ranks", "some"),  # each loss, law, form of Theta and kind of share is in one of two cases
    [(2, slice(2, 5, 2)), *(pytest.param(n, slice(None), marks=pytest.mark.slow) for n in (1, 2, 3))],
    ids=str,
)
def test_what_gradient_descent_would_do_is_that_of_one_process(ranks: int, some: slice) -> None:
    cases = CASES[some]
    parts = on_ranks(ranks, every_case, COUNTS[ranks], cases)
    for place, case in enumerate(cases):
        plain, found = figures(case), [part[place] for part in parts]
        start, right = torch.from_numpy(plain["outputs"][:1]), torch.from_numpy(plain["outputs"])
        outputs = torch.cat([torch.from_numpy(one["outputs"]) for one in found], dim=1)
        size = float((right - start).norm())
        assert float((outputs - right).norm()) < 1e-9 * size, case
        for one in found:
            assert one["losses"] == pytest.approx(plain["losses"], rel=1e-9), case
            assert one["bounds"] == pytest.approx(plain["bounds"], rel=1e-2, abs=1e-12), case
            assert one["rates"] == pytest.approx(plain["rates"], rel=1e-9), case
            assert (one["flags"], one["how"]) == (plain["flags"], plain["how"]), case
            assert all(one[name] == found[0][name] for name in ("losses", "bounds", "rates"))  # bit for bit
        assert plain["losses"][2] < 0.95 * plain["losses"][0]
        if ranks > 1 and case[3]:  # what a rank forecasts that counts its own scored steps alone
            first = COUNTS[ranks][0]
            trials = whole_trials(case[0], case[3]).select(slice(0, first))
            alone = forecast(*here(trials), case[0], learning_rate=ETA, updates=UPDATES, law=case[1])
            assert float((alone.outputs - right[:, :first]).norm()) > 1e-3 * size
            assert abs(float(alone.losses[2]) - plain["losses"][2]) > 1e-3 * plain["losses"][2]


def kernels(group: Any, counts: list[int]) -> None:
    trials = trials_of()
    for weight, bias in ((True, True), (False, True)):
        made = []
        for place in ((), (group, counts)):
            flow, readout, _ = here(trials, *place)
            readout.weight.requires_grad_(weight)
            readout.bias.requires_grad_(bias)
            made.append(output_kernel(flow, readout))
        assert_same(made[1], made[0])


def test_the_kernel_of_the_outputs_is_that_of_all_trials() -> None:
    on_ranks(2, kernels, COUNTS[2])


def refusals(group: Any, counts: list[int]) -> dict[str, str]:
    rank = distributed.get_rank(group)
    flow, readout, trials = here(trials_of(), group, counts)

    def told(kind: type[KpframeError], call: Callable[..., Any] = forecast, **other: Any) -> str:
        given = {"learning_rate": ETA, "updates": 3} if call is forecast else {}
        given |= {"flow": flow, "readout": readout, "trials": trials, "loss": "mse"} | other
        return raised(kind, lambda: call(**given))

    drawn = kpframe.Readout(H, O, generator=5 + rank, dtype=F64)
    fixed = kpframe.Readout(H, O, generator=5, dtype=F64)
    fixed.bias.requires_grad_(rank == 0)
    return {
        "weights": told(RankError, readout=drawn),
        "learned": told(RankError, stable_rate, readout=fixed),
        "readout": told(ArgumentError, readout=None),
        "rate": told(RankError, learning_rate=ETA / (1 + rank)),
        "no rate": told(ArgumentError, learning_rate=ETA * (1 - rank)),
        "updates": told(RankError, updates=(3, 5)[: 1 + rank]),
        "loss": told(RankError, loss=("mse", "cross_entropy")[rank]),
        "budget": told(RankError, sharpness, budget=50 + rank),
        "generator": told(RankError, sharpness, generator=torch.Generator().manual_seed(rank)),
        "trials": told(ArgumentError, trials=evolve(trials, inputs=trials.inputs + rank)),
        "targets": told(KpframeError, trials=evolve(trials, targets=trials.targets[..., : O - rank])),
        "scored": told(ArgumentError, trials=evolve(trials, scored=torch.zeros_like(trials.scored))),
        "diverging": told(NonFiniteError, learning_rate=100.0, updates=5000),
        "in step again": f"{forecast(flow, readout, trials, 'mse', learning_rate=ETA, updates=3).losses}",
    }


def test_what_ranks_do_not_agree_on_is_refused_on_all_of_them() -> None:
    first, second = on_ranks(2, refusals, COUNTS[2])
    assert first == second
    expected = {
        "weights": 'readout: expected the same on all ranks, got "Readout(4, 3, torch',
        "learned": "learning ['weight', 'bias']\" on rank 0; \"Readout(4, 3, torch",
        "readout": "readout: expected a kpframe.Readout",
        "rate": "learning_rate, updates, law, loss, budget and tol: expected the same on all ranks, got (0",
        "no rate": "rank 1: learning_rate: expected a finite number > 0, got 0.0",
        "updates": "on rank 0; (0.2, (3, 5), ",
        "loss": "'mse', ",
        "budget": "loss, budget and tol: expected the same on all ranks, got ('mse', 50, None) on rank 0",
        "generator": "generator: expected the same on all ranks",
        "trials": "rank 1: trials: expected the trials that the flow was made along, got other inputs",
        "targets": "rank 1: outputs: expected shape",
        "scored": "scored: expected at least one scored step",
        "diverging": "learning_rate: expected at most the largest stable one",
        "in step again": "tensor([",
    }
    for name, text in expected.items():
        assert text in first[name], (name, first[name])
