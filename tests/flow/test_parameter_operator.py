"""K by groups: restriction, freezing, metrics, and what they cost in rank."""

from __future__ import annotations

import pytest
import torch

from kpframe import DiagonalOperator, MatrixOperator, linearize
from kpframe.errors import ArgumentError, DtypeError, SpaceMismatchError
from kpframe.flow._named_parameters import match_parameters
from kpframe.operators._spaces import parameter_space

RNN = ("weight_ih", "bias_ih", "weight_hh", "bias_hh")


@pytest.mark.parametrize("method", ["auto", "autograd"])
@pytest.mark.rows(10)
def test_groups_add_up(lab, toy, method) -> None:
    model = lab.make(toy, trainable_initial_state=True)
    K = linearize(model, **lab.trials(model), method=method).K
    groups = K.groups()
    assert tuple(groups) == K.parameters == tuple(model.trainable())
    dense = {name: group.to_dense() for name, group in groups.items()}
    lab.close(sum(dense.values()), K.to_dense())
    J = K.jacobian.to_dense()
    for part in K.jacobian.domain["parameter"].parts:
        columns = J[:, part.slice]
        lab.close(dense[part.name], columns @ columns.T)
        assert groups[part.name].parameters == (part.name,)
        lab.check_operator(groups[part.name])
        if len(groups) > 1:
            lab.differ(dense[part.name], K.to_dense())


@pytest.mark.parametrize("method", ["auto", "autograd"])
@pytest.mark.rows(6)
def test_restrict_and_freeze(lab, toy, method) -> None:
    model = lab.make(toy, trainable_initial_state=True)
    K = linearize(model, **lab.trials(model), method=method).K
    q = lab.randn(1, 2, *K.domain.shape)
    names = list(K.parameters)
    assert not K.freeze(names)(q).any()
    assert not K.freeze(["*"])(q).any()
    assert not K.restrict([])(q).any()
    lab.close(K.freeze([])(q), K(q))
    lab.close(K.restrict(["*"])(q), K(q))
    lab.close(K.restrict(names[:1])(q) + K.freeze(names[:1])(q), K(q))
    assert type(K.freeze(["h0"])) is type(K)
    assert K.freeze(["h0"]).tags == {"self_adjoint", "positive"}
    assert K.freeze(["h0"]).method == K.method


@pytest.mark.parametrize("method", ["auto", "autograd"])
def test_patterns_repeats_and_names(lab, method) -> None:
    model = lab.make("rnn")
    K = linearize(model, **lab.trials(model), method=method).K
    q = lab.randn(1, *K.domain.shape)
    weights = K.restrict(["weight_*"])
    assert weights.parameters == ("weight_ih", "weight_hh")
    assert repr(weights) == "K[weight_ih, weight_hh]"
    assert repr(K.freeze(["*_hh"])) == "K[weight_ih, bias_ih]"
    assert weights.restrict(["*_hh"]).parameters == ("weight_hh",)
    assert weights.freeze(["bias_ih", "weight_ih"]).parameters == ("weight_hh",)
    assert weights.restrict(["bias_ih"]).parameters == ()
    lab.close(weights.restrict(["*_hh"])(q), K.restrict(["weight_hh"])(q))
    lab.close(K.restrict(["bias_?h"])(q), 2 * K.restrict(["bias_hh"])(q))  # two biases move alike
    lab.differ(weights(q), K(q))


@pytest.mark.parametrize("method", ["auto", "autograd"])
def test_freezing_is_what_requires_grad_does(lab, method) -> None:
    model = lab.make("gru")
    data = lab.trials(model)
    K = linearize(model, **data, method=method).K.freeze(["weight_hh", "bias_ih"])
    model.weight_hh.requires_grad_(False)
    model.bias_ih.requires_grad_(False)
    frozen = linearize(model, **data, method=method).K
    assert frozen.parameters == K.parameters == ("weight_ih", "bias_hh")
    assert frozen.jacobian.domain.size == model.weight_ih.numel() + model.bias_hh.numel()
    lab.close(K.to_dense(), frozen.to_dense())
    for p in model.parameters():
        p.requires_grad_(False)
    nothing = linearize(model, **data, method=method)
    assert not nothing.Phi.to_dense().any()
    assert nothing.J.domain.size == 0


@pytest.mark.parametrize("method", ["auto", "autograd"])
def test_metrics(lab, method) -> None:
    model = lab.make("rnn")
    K = linearize(model, **lab.trials(model), method=method).K
    J, space = K.jacobian.to_dense(), K.jacobian.domain
    rates = lab.randn(3, *space.shape).abs()
    scaled = K.with_metric(DiagonalOperator(rates, space))
    lab.check_operator(scaled)
    lab.close(scaled.to_dense(), (J * rates) @ J.T)
    assert repr(scaled) == "K_M"
    assert scaled.positive
    lab.differ(scaled.to_dense(), K.to_dense())
    m = lab.randn(4, space.size, space.size)
    skew = K.with_metric(MatrixOperator(m, space))
    lab.check_operator(skew)
    lab.close(skew.to_dense(), J @ m @ J.T)
    lab.differ(skew.to_dense(), skew.T.to_dense())
    assert not skew.tags
    kept = torch.zeros(space.size, dtype=torch.float64)
    kept[space["parameter"].part("weight_hh").slice] = 1
    lab.close(skew.restrict(["weight_hh"]).to_dense(), J @ (kept[:, None] * m * kept) @ J.T)
    lab.close(scaled.freeze(["weight_hh"]).to_dense(), (J * rates * (1 - kept)) @ J.T)
    lab.close(sum(g.to_dense() for g in scaled.groups().values()), scaled.to_dense())


def test_metrics_that_do_not_fit(lab) -> None:
    model = lab.make("rnn")
    K = linearize(model, **lab.trials(model)).K
    with pytest.raises(
        SpaceMismatchError, match=r"metric: expected an operator on \(parameter=21\), got one from"
    ):
        K.with_metric(DiagonalOperator(torch.ones(21, dtype=torch.float64)))
    with pytest.raises(DtypeError, match=r"float64.*float32"):
        K.with_metric(DiagonalOperator(torch.ones(21), K.jacobian.domain))


@pytest.mark.parametrize("method", ["auto", "autograd"])
def test_names_that_match_nothing_list_the_names(lab, method) -> None:
    model = lab.make("rnn")
    K = linearize(model, **lab.trials(model), method=method).K
    listed = "expected names among weight_ih, bias_ih, weight_hh, bias_hh, got"
    for act in (K.restrict, K.freeze):
        with pytest.raises(
            ArgumentError, match=rf"parameters: {listed} 'weigth_hh'; did you mean 'weight_hh'"
        ):
            act(["weight_ih", "weigth_hh"])
        with pytest.raises(ArgumentError, match=rf"{listed} 'zz\*'$"):
            act(["zz*"])
        with pytest.raises(
            ArgumentError, match=r"expected a list of names, got the string 'weight_hh'; write \["
        ):
            act("weight_hh")
    none = parameter_space({})
    with pytest.raises(ArgumentError, match=r"expected names among \(none are trainable\), got 'w'"):
        match_parameters(none, ["w"])
    assert match_parameters(none, []) == ()


def test_the_parameter_axis_is_laid_out_by_name(lab) -> None:
    model = lab.make("rnn", trainable_initial_state=True)
    J = linearize(model, **lab.trials(model)).J
    assert J.domain == model.parameter_space
    shapes = {part.name: part.shape for part in J.domain["parameter"].parts}
    assert shapes == {"h0": (3,), "weight_ih": (3, 2), "bias_ih": (3,), "weight_hh": (3, 3), "bias_hh": (3,)}
    lab.close(J.select(parameter="h0").to_dense(), J.to_dense()[:, :3])
    wrapped = linearize(lab.make("RNNCell"), lab.randn(0, 2, 4, 2))
    assert wrapped.K.parameters == ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def test_a_restricted_metric_lists_the_parameters_it_kept(lab) -> None:
    model = lab.make("rnn")
    K = linearize(model, **lab.trials(model)).K
    metric = DiagonalOperator(torch.rand(K.jacobian.domain.shape, dtype=K.dtype), K.jacobian.domain)
    weighted = K.with_metric(metric)
    assert weighted.parameters == K.parameters
    assert weighted.restrict(["weight_*"]).parameters == ("weight_ih", "weight_hh")
    assert weighted.restrict(["weight_*"]).freeze(["weight_ih"]).parameters == ("weight_hh",)
