"""K over trials by its units' matrices, and what is kept apart, against products with one entry at a time."""

from __future__ import annotations

import pytest
import torch

import kpframe
from kpframe.models._sites import trial_totals
from kpframe.operators import Operator
from kpframe.operators import _contractions as contractions
from kpframe.operators import _dense as dense_forms
from kpframe.operators._count import counted_products

from ..toy_flows import F64, close, differ, make, randn  # noqa: TID252


def by_basis(op: Operator) -> torch.Tensor:
    """Return the matrix from a product with each basis vector by itself."""
    eye = torch.eye(op.domain.size, dtype=F64).reshape(-1, *op.domain.shape)
    return torch.stack([op(unit).flatten() for unit in eye], dim=1)


def flow_of(name: str, trials: int = 4, steps: int = 5) -> kpframe.Flow:
    mask = torch.ones(trials, steps, dtype=torch.bool)
    mask[1, 3:] = False
    return kpframe.linearize(make(name, seed=3), randn(5, trials, steps, 2), mask=mask)


@pytest.mark.parametrize("name", ["rnn", "gru", "lstm"])
@pytest.mark.rows(3)
def test_k_over_trials(name, monkeypatch) -> None:
    flow = flow_of(name)
    for K in (flow.K, flow.K.restrict(["weight_hh"]), flow.K.freeze(["bias*"])):
        shape = K.domain.shape
        whole = by_basis(K).reshape(*shape, *shape)
        for reduced, expected in (
            (K.mean("batch"), whole.mean((0, 3))),
            (K.sum("batch"), whole.sum((0, 3))),
            (K.mean("batch", "time"), whole.mean((0, 1, 3, 4))),
        ):
            size = reduced.domain.size
            assert reduced.blocks is not None
            close(by_basis(reduced), expected.reshape(size, size))
            close(by_basis(reduced.T), expected.reshape(size, size))
            assert reduced.positive
        differ(by_basis(K.mean("batch")), by_basis(K.sum("batch")))
        blocks = by_basis(K.mean("batch"))
        monkeypatch.setattr(trial_totals, "ENTRIES_A_TRIAL", 0)
        through = K.mean("batch")
        assert through.blocks is None
        close(by_basis(through), blocks)
        monkeypatch.undo()


def test_where_units_share_parameters_products_go_through_k() -> None:
    flow = flow_of("extra")
    reduced = flow.K.mean("batch")
    shape = flow.K.domain.shape
    whole = by_basis(flow.K).reshape(*shape, *shape)
    close(by_basis(reduced), whole.mean((0, 3)).reshape(reduced.domain.size, -1))
    assert flow_of("rnn").K.mean("time").left.name == "mean_time"


def operators_of(flow: kpframe.Flow) -> dict[str, Operator]:
    P, K = flow.P, flow.K
    return {
        "A": flow.A,
        "P": P,
        "P P* over time": (P @ P.T).mean("time"),
        "I - P": P.inverse - 2.0 * P,
        "P_2 of some steps": P.truncated(2).select(time=slice(1, 4)),
        "transition": P.transition(3, 0),
        "K": K,
        "K over trials": K.mean("batch"),
    }


@pytest.mark.parametrize("name", ["gru", pytest.param("lstm", marks=pytest.mark.slow)])
def test_entries_apart_share_products(name, monkeypatch) -> None:
    flow = flow_of(name, trials=2, steps=4)
    for label, op in operators_of(flow).items():
        expected = by_basis(op)
        with counted_products() as count:
            close(op.to_dense(), expected)
        assert count.products < op.domain.size, label
        for axes in (("hidden",), ("batch",), ("batch", "time"), ("batch", "hidden")):
            if not set(axes) <= set(op.domain.names) or len(axes) == len(op.domain.axes):
                continue
            found = [op.partial_trace(*axes), op.partial_trace(*axes).T, op.block_diagonal(*axes)]
            found = [by_basis(one) for one in found]
            with monkeypatch.context() as plain:
                plain.setattr(contractions, "classes_of", lambda *_: None)
                alone = [op.partial_trace(*axes), op.partial_trace(*axes).T, op.block_diagonal(*axes)]
                for one, other in zip(found, alone, strict=True):
                    close(one, by_basis(other))


def test_entries_that_meet_share_none(monkeypatch) -> None:
    """Phi leads from each trial and unit to each other: with the classes of P it would be wrong."""
    flow = flow_of("gru")
    Phi = flow.Phi
    assert Phi.separate_axes == frozenset()
    trace, dense = by_basis(Phi.partial_trace("batch")), Phi.to_dense()
    close(dense, by_basis(Phi))
    monkeypatch.setattr(type(Phi), "separate_axes", frozenset({"batch"}))
    differ(by_basis(Phi.partial_trace("batch")), trace)
    differ(Phi.to_dense(), dense)
    with monkeypatch.context() as plain:
        plain.setattr(dense_forms, "classes_of", lambda *_: None)
        close(Phi.to_dense(), dense)
