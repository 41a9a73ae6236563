"""Frozen parameters: a 0/1 metric."""

from __future__ import annotations

import pytest
import torch
from kpframe_rules.frozen import Frozen

from kpframe import create_rule
from kpframe.errors import ArgumentError


def weights(here) -> list[str]:
    return [key for key in here.model.trainable() if key.startswith("weight")]


def kept(here, flow, frozen) -> torch.Tensor:
    """Return the gradient of ``backward()`` with zeros in the place of the frozen parameters."""
    expected = here.backward()
    for part in flow.J.domain["parameter"].parts:
        if part.name in frozen:
            expected[part.slice] = 0
    return expected


@pytest.mark.parametrize("start", ["given", "trainable"])
@pytest.mark.rows(3)
def test_update_is_the_gradient_of_what_learns(problem, close, differ, name, start) -> None:
    here = problem(name, start=start)
    flow = here.flow()
    for frozen in ([key] for key in here.model.trainable()):
        update = create_rule("frozen", parameters=frozen).update_operator(flow)(here.err)
        close(update, kept(here, flow, frozen))
        differ(update, here.backward())


def test_flow_is_that_of_a_model_that_trains_less(problem, close, differ, name) -> None:
    here = problem(name)
    frozen = weights(here)[:1]
    Phi = create_rule("frozen", parameters=frozen).flow_operator(here.flow())
    whole = here.flow().Phi(here.err)
    here.model.trainable()[frozen[0]].requires_grad_(False)
    close(Phi(here.err), here.flow().Phi(here.err))
    differ(Phi(here.err), whole)


def test_groups_add_up_to_K(problem, close, differ, name) -> None:
    here = problem(name)
    flow = here.flow()
    groups = list(here.model.trainable())
    parts = []
    for group in groups:
        rule = create_rule("frozen", parameters=[key for key in groups if key != group])
        assert rule.parameter_operator(flow).parameters == (group,)
        parts.append(rule.parameter_operator(flow)(here.err))
    close(sum(parts), flow.K(here.err))
    close(sum(K(here.err) for K in flow.K.groups().values()), flow.K(here.err))
    differ(sum(parts[1:]), flow.K(here.err))


@pytest.mark.parametrize("by", ["names", "star"])
def test_all_frozen_nothing_moves(problem, name, by) -> None:
    here = problem(name)
    flow = here.flow()
    everything = ["*"] if by == "star" else list(here.model.trainable())
    rule = create_rule("frozen", parameters=everything)
    assert not rule.flow_operator(flow)(here.err).any()
    assert not rule.update_operator(flow)(here.err).any()
    assert flow.Phi(here.err).norm() > 0.1
    assert repr(rule.flow_operator(flow)) == "P K[] P*"


def test_nothing_frozen_is_bptt(problem, close, differ, name) -> None:
    here = problem(name)
    flow = here.flow()
    close(create_rule("frozen", parameters=[]).update_operator(flow)(here.err), here.backward())
    differ(create_rule("frozen", parameters=["bias*"]).update_operator(flow)(here.err), here.backward())


@pytest.mark.parametrize(
    ("pattern", "frozen"),
    [
        ("weight*", ["weight_ih", "weight_hh"]),
        ("*_hh", ["weight_hh", "bias_hh"]),
        ("bias_?h", ["bias_ih", "bias_hh"]),
        ("weight_hh", ["weight_hh"]),
    ],
)
def test_patterns(problem, close, differ, pattern, frozen) -> None:
    here = problem("lstm")
    flow = here.flow()
    rule = create_rule("frozen", parameters=[pattern])
    close(rule.update_operator(flow)(here.err), kept(here, flow, frozen))
    left = [key for key in here.model.trainable() if key not in frozen]
    assert list(rule.parameter_operator(flow).parameters) == left
    assert repr(rule.flow_operator(flow)) == f"P K[{', '.join(left)}] P*"
    differ(rule.update_operator(flow)(here.err), here.backward())


def test_flow_is_positive(problem, name) -> None:
    here = problem(name)
    rule = create_rule("frozen", parameters=weights(here))
    Phi = rule.flow_operator(here.flow())
    assert Phi.self_adjoint
    assert Phi.positive
    values = torch.linalg.eigvalsh(Phi.to_dense())
    assert float(values[0]) >= -1e-13 * float(values[-1])
    assert float(values[-1]) > 0.1


def test_a_name_that_matches_nothing_lists_those_there_are(problem) -> None:
    flow = problem("lstm").flow()
    rule = create_rule("frozen", parameters=["weight_ih", "weigth_hh"])
    with pytest.raises(ArgumentError, match="got 'weigth_hh'; did you mean 'weight_hh'") as caught:
        rule.flow_operator(flow)
    assert "weight_ih, weight_hh, bias_ih, bias_hh" in str(caught.value)
    with pytest.raises(ArgumentError, match="got 'recurrent"):
        create_rule("frozen", parameters=["recurrent*"]).update_operator(flow)


def test_the_class_refuses_a_string() -> None:
    with pytest.raises(ArgumentError, match=r"expected a list such as \['weight_hh'\]"):
        Frozen("weight_hh")
    assert repr(Frozen(("weight_hh",))) == "Frozen(parameters=['weight_hh'])"
