"""Every form of P and K against dense matrices, taken by name, class or factory, and with another A."""

from __future__ import annotations

import sys
import warnings
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from kpframe import ParameterOperator, Propagator, Update, linearize
from kpframe.errors import ArgumentError, KpframeError, MemoryBudgetError, UnknownNameError, UnsupportedError
from kpframe.flow import (
    DensePropagator,
    DenseStepJacobian,
    DiagonalStepJacobian,
    ProductParameterOperator,
    ScanPropagator,
    StepwisePropagator,
)
from kpframe.models import GramParameterOperator, GraphPropagator
from kpframe.operators import DiagonalOperator
from kpframe.plugin import PropagatorSpec, hookimpl, temporary

FORMS = [ScanPropagator, StepwisePropagator, DensePropagator, GraphPropagator]
NAMES = ["scan", "stepwise", "dense", "graph"]

#: A propagator on another space.
SHORT = ScanPropagator(DenseStepJacobian(torch.zeros(1, 2, 3, 3)))


def inverse(lab, blocks: torch.Tensor) -> torch.Tensor:
    AZ = lab.dense_shift(blocks)
    return torch.linalg.inv(torch.eye(len(AZ), dtype=AZ.dtype) - AZ)


@pytest.mark.parametrize("method", ["auto", "autograd", "dense"])
@pytest.mark.parametrize("toy", ["rnn", "lstm", "extra", "clocked"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.rows(8)
def test_P_in_every_form(lab, form, toy, method) -> None:
    model = lab.make(toy, seed=2)
    A = linearize(model, **lab.trials(model, h0=True, mask=True), method=method).A
    reason = form.fits(A)
    assert (reason is None) == (form is not GraphPropagator or method == "autograd")
    if reason is not None:
        with pytest.raises(UnsupportedError, match=r"GraphPropagator does not fit A .* form\)"):
            form(A)
        return
    P = form(A)
    expected = inverse(lab, A.blocks())
    lab.check_operator(P)
    lab.close(P.to_dense(), expected)
    lab.differ(P.to_dense(), expected.T)
    q = lab.randn(4, 2, 3, *P.domain.shape)
    lab.close(P(q), (q.flatten(-3) @ expected.T).reshape(q.shape))
    lab.close(P.T(q), (q.flatten(-3) @ expected).reshape(q.shape))
    assert repr(P.chunked(2)) == "P_chunk2"
    keep = torch.arange(A.steps) % 2 != 0
    lab.close(P.chunked(2).to_dense(), inverse(lab, A.blocks() * keep[:, None, None]))
    lab.close(P.truncated(9).to_dense(), expected)
    assert P.truncated(9).method == P.method


@pytest.mark.parametrize(("name", "form"), [*zip(NAMES[:3], FORMS[:3], strict=True)])
def test_another_A_keeps_the_form(lab, name, form) -> None:
    model = lab.make("rnn", seed=2)
    flow = linearize(model, **lab.trials(model), propagator=name)
    assert type(flow.P) is form
    assert flow.P.why == f"propagator={name!r}"
    for P, A in (
        (flow.P.with_step(0.5 * flow.A), 0.5 * flow.A),
        (flow.P.with_step(flow.A.diagonal()), flow.A.diagonal()),
        (Update.exact(flow).through(flow.A.diagonal(), name="Q").P, flow.A.diagonal()),
    ):
        assert type(P) is form
        lab.close(P.to_dense(), inverse(lab, A.blocks()))
        lab.differ(P.to_dense(), flow.P.to_dense())
    assert type(flow.P.chunked(2)) is form
    assert repr(flow.P.with_step(flow.A, name="Q")) == "Q"


def test_settings_go_along(lab) -> None:
    model = lab.make("rnn", seed=2)
    flow = linearize(model, **lab.trials(model), propagator=partial(DensePropagator, max_bytes=5000))
    assert flow.P.with_step(0.5 * flow.A).max_bytes == 5000
    assert flow.P.chunked(2).max_bytes == 5000
    with pytest.raises(MemoryBudgetError):
        flow.with_propagator(DensePropagator, max_bytes=100)
    with pytest.raises(ArgumentError, match="max_bytes: expected a whole number >= 1, got 0"):
        flow.with_propagator(DensePropagator, max_bytes=0)


def test_what_does_not_fit_goes_through_the_scan(lab) -> None:
    model = lab.make("rnn", seed=2)
    flow = linearize(model, **lab.trials(model), method="graph")
    assert type(flow.P) is GraphPropagator
    assert type(flow.P.with_step(flow.A)) is GraphPropagator
    changed = flow.P.with_step(0.5 * flow.A, name="Q")
    assert (type(changed), changed.name) == (ScanPropagator, "Q")
    lab.close(changed.to_dense(), inverse(lab, 0.5 * flow.A.blocks()))
    lab.differ(changed.to_dense(), flow.P.to_dense())


@pytest.mark.parametrize("name", NAMES)
def test_by_name_is_by_class(lab, name) -> None:
    model = lab.make("plain", seed=2)
    data = lab.trials(model, h0=True, mask=True)
    form = dict(zip(NAMES, FORMS, strict=True))[name]
    auto = linearize(model, **data, method="autograd")
    q = lab.randn(3, 2, *auto.P.domain.shape)
    for flow in (
        linearize(model, **data, method="autograd", propagator=name),
        linearize(model, **data, method="autograd", propagator=form),
        auto.with_propagator(name),
        auto.with_propagator(form),
    ):
        assert type(flow.P) is form
        assert (flow.A is auto.A) == (flow.model is auto.model)
        lab.close(flow.Phi(q), auto.Phi(q))
        lab.differ(flow.Phi(q), flow.K(q))


def test_parameter_operators_by_name(lab) -> None:
    model = lab.make("lstm", seed=2)
    data = lab.trials(model, h0=True, mask=True)
    flow = linearize(model, **data)
    assert type(flow.K) is GramParameterOperator
    product = linearize(model, **data, parameter_operator="product")
    assert type(product.K) is ProductParameterOperator
    gram = product.with_parameter_operator("gram")
    assert type(gram.K) is GramParameterOperator
    assert gram.J is product.J
    names = [part.name for part in flow.J.domain.axes[0].parts]
    values = lab.randn(7, flow.J.domain.size).abs()
    metric = DiagonalOperator(values, flow.J.domain)
    J = flow.J.to_dense()
    for K in (flow.K, product.K, gram.K):
        lab.close(K.to_dense(), J @ J.T)
        for made in (K.restrict(names[:1]), K.freeze(names[:1]), K.with_metric(metric), *K.groups().values()):
            assert type(made) is type(K)
        lab.close(K.with_metric(metric).to_dense(), J @ torch.diag(values) @ J.T)
        lab.close(K.restrict(names[:1]).to_dense() + K.freeze(names[:1]).to_dense(), J @ J.T)
        lab.differ(K.restrict(names[:1]).to_dense(), J @ J.T)
    kept = linearize(model, **data)
    kept.K = kept.K.with_metric(metric)
    swapped = kept.with_parameter_operator("product").K
    assert repr(swapped) == "K_M"
    lab.close(swapped.to_dense(), J @ torch.diag(values) @ J.T)
    with pytest.raises(UnsupportedError, match=r"GramParameterOperator does not fit J \(autograd form\)"):
        linearize(model, **data, method="autograd", parameter_operator="gram")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        ({"propagator": "scann"}, UnknownNameError, "no propagator 'scann'.*scan"),
        ({"parameter_operator": "grams"}, UnknownNameError, "no parameter operator 'grams'.*gram"),
        (
            {"propagator": 3},
            ArgumentError,
            "expected the name of a propagator, or a factory",
        ),
        ({"propagator": lambda A: A}, ArgumentError, "expected a factory that returns a propagator, got"),
        ({"parameter_operator": lambda J: J}, ArgumentError, "a factory that returns a parameter operator"),
        (
            {"propagator": "graph"},
            UnsupportedError,
            r"does not fit A \(sites form\): it records",
        ),
        (
            {"propagator": lambda A: SHORT},
            ArgumentError,
            "expected a propagator on .*, got one on",
        ),
    ],
)
def test_refusals(lab, call, error, message) -> None:
    model = lab.make("rnn", seed=2)
    with pytest.raises(error, match=message) as caught:
        linearize(model, **lab.trials(model), **call)
    assert isinstance(caught.value, KpframeError)


def test_a_misspelt_name_is_refused_before_any_work(lab) -> None:
    with pytest.raises(UnknownNameError, match="no propagator"):
        linearize(lab.make("rnn", seed=2), torch.zeros(1, 2, 99), propagator="scann")


def test_the_bases_are_abstract(lab) -> None:
    model = lab.make("rnn", seed=2)
    flow = linearize(model, **lab.trials(model))
    for base, argument in ((Propagator, flow.A), (ParameterOperator, flow.J)):
        with pytest.raises(TypeError, match="abstract"):
            base(argument)
        assert base.fits(argument) is None


class Long(StepwisePropagator):
    """A form that prefers long sequences."""

    @classmethod
    def prefers(cls, A) -> bool:
        return A.steps >= 4


class Offer:
    @hookimpl
    def kpframe_propagators(self):
        yield PropagatorSpec("function", "tests_of_forms:make")
        yield PropagatorSpec("gone", "tests_of_forms:gone")
        yield PropagatorSpec("long", "tests_of_forms:Long")


def test_the_fastest_is_a_plugin_s_form_that_prefers_A_and_else_what_there_is(lab, monkeypatch) -> None:
    model = lab.make("rnn", seed=2)
    trials = lab.trials(model)
    flow = linearize(model, **trials)
    assert flow.A.steps >= 4
    assert flow.with_propagator("fastest") is flow
    monkeypatch.setitem(sys.modules, "tests_of_forms", SimpleNamespace(Long=Long, make=ScanPropagator))
    with temporary(Offer(), distribution="kpf-long"), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for fastest in (flow.with_propagator("fastest"), linearize(model, **trials, propagator="fastest")):
            assert type(fastest.P) is Long
            assert fastest.P.why == "propagator='kpf-long:long'"
            lab.close(fastest.P.to_dense(), flow.P.to_dense())
        assert type(linearize(model, **trials).P) is ScanPropagator
        x = trials["x"][:, :3]
        assert type(linearize(model, x, propagator="fastest").P) is ScanPropagator
    assert len(warned) == 3
    assert all("kpf-long" in str(w.message) and "tests_of_forms:gone" in str(w.message) for w in warned)


def test_only_a_propagator_can_be_the_fastest(lab) -> None:
    model = lab.make("rnn", seed=2)
    with pytest.raises(UnknownNameError, match="no parameter operator 'fastest'"):
        linearize(model, **lab.trials(model), parameter_operator="fastest")


def test_a_diagonal_A_stays_diagonal_where_steps_are_cut() -> None:
    values = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [float("nan"), 5.0], [6.0, 7.0]]], dtype=torch.float64)
    A = DiagonalStepJacobian(values)
    keep = torch.tensor([True, True, False, True])
    cut = A.masked(keep)
    assert isinstance(cut, DiagonalStepJacobian)
    assert torch.equal(cut.values[0], torch.tensor([[1, 2], [3, 4], [0, 0], [6, 7]], dtype=torch.float64))
    P = ScanPropagator(cut).to_dense()
    assert P[6, 4].item() == 6.0
    assert P[4, 2].item() == 0.0
    assert not torch.equal(P, ScanPropagator(DiagonalStepJacobian(values.nan_to_num(1))).to_dense())
